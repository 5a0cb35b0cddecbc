"""The sequential test: errors at many looks, verdicts, standard errors by stores and weeks."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rossmann.models.evaluation.clustered_errors import (
    Estimate,
    bias_estimate,
    find_clusters,
    rmspe_estimate,
    wape_estimate,
)
from rossmann.models.evaluation.sequential_test import improvement_of_separate, sequential_test
from rossmann.schema import FloatArray

WEEKS = 13


def looks(weekly: FloatArray) -> list[str]:
    """The verdicts after each week, from the second on, of weekly improvements."""
    verdicts = []
    for weeks in range(2, len(weekly) + 1):
        known = weekly[:weeks]
        estimate = Estimate(float(known.mean()), float(known.std(ddof=1)) / np.sqrt(weeks))
        verdicts.append(sequential_test(estimate, weeks).verdict)
    return verdicts


def test_equal_forecasts_seldom_get_a_verdict_at_any_look() -> None:
    rng = np.random.default_rng(1)
    draws = [looks(rng.normal(0, 0.03, WEEKS)) for _ in range(2_000)]
    wrong = np.mean([set(verdicts) != {"undecided"} for verdicts in draws])
    assert wrong <= 0.05
    # each look by itself would be wrong far more often
    naive = np.mean([_naive(rng.normal(0, 0.03, WEEKS)) for _ in range(2_000)])
    assert naive > 0.15


def _naive(weekly: FloatArray) -> bool:
    from scipy.stats import ttest_1samp

    return any(ttest_1samp(weekly[:n], 0).pvalue <= 0.05 for n in range(2, len(weekly) + 1))


@pytest.mark.parametrize(("improvement", "verdict"), [(0.03, "better"), (-0.03, "worse")])
def test_a_clear_difference_gets_its_verdict(improvement: float, verdict: str) -> None:
    rng = np.random.default_rng(2)
    draws = [looks(rng.normal(improvement, 0.015, WEEKS)) for _ in range(300)]
    assert np.mean([verdict in found for found in draws]) >= 0.8
    assert all(set(found) <= {verdict, "undecided"} for found in draws)


@given(weeks=st.integers(0, 3), improvement=st.floats(-1, 1))
def test_there_is_no_verdict_before_four_weeks(weeks: int, improvement: float) -> None:
    test = sequential_test(Estimate(improvement, 1e-9), weeks)
    assert test.verdict == "undecided"
    assert sequential_test(Estimate(0.02, 1e-9), 4).verdict == "better"


def test_a_difference_below_the_minimum_gets_no_verdict() -> None:
    test = sequential_test(Estimate(0.004, 1e-6), 12)
    assert test.p_value < 1e-6
    assert test.verdict == "undecided"


@given(st.floats(-0.5, 0.5), st.floats(1e-6, 0.5), st.integers(2, 100))
def test_p_value_is_a_share_and_the_same_for_both_directions(
    improvement: float, error: float, weeks: int
) -> None:
    test = sequential_test(Estimate(improvement, error), weeks)
    assert 0 < test.p_value <= 1
    assert test.p_value == sequential_test(Estimate(-improvement, error), weeks).p_value


@pytest.mark.parametrize("error", [0.0, float("nan"), float("inf")])
def test_without_a_standard_error_there_is_no_verdict(error: float) -> None:
    test = sequential_test(Estimate(0.1, error), 10)
    assert (test.p_value, test.verdict) == (1.0, "undecided")


def simulate(
    seed: int, shock: float, store_sd: float
) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """Store, day, sales and forecasts with errors that weeks and stores share."""
    rng = np.random.default_rng(seed)
    store, day = (grid.ravel() for grid in np.meshgrid(np.arange(60), np.arange(70)))
    week = rng.normal(0, shock, 10)[day // 7]
    own = rng.normal(0, store_sd, 60)[store]
    sold = rng.uniform(4_000, 6_000, len(day))
    return store, day, sold, sold * np.exp(week + own + rng.normal(0, 0.05, len(day)))


@pytest.mark.parametrize(("shock", "store_sd"), [(0.03, 0.0), (0.0, 0.06), (0.02, 0.04)])
def test_standard_errors_are_the_spread_over_repetitions(shock: float, store_sd: float) -> None:
    for estimate in (bias_estimate, wape_estimate, rmspe_estimate):
        found = []
        for seed in range(120):
            store, day, sold, forecast = simulate(seed, shock, store_sd)
            found.append(estimate(sold, forecast, find_clusters(store, day)))
        spread = np.std([one.value for one in found], ddof=1)
        stated = np.sqrt(np.mean([one.error**2 for one in found]))
        assert 0.75 < stated / spread < 1.5


def test_improvement_on_separate_stores_has_both_errors() -> None:
    estimate = improvement_of_separate(Estimate(0.08, 0.004), Estimate(0.1, 0.003))
    assert estimate.value == pytest.approx(0.2)
    assert estimate.error == pytest.approx(np.hypot(0.004, 0.8 * 0.003) / 0.1)
    assert np.isnan(improvement_of_separate(Estimate(0.1, 0.0), Estimate(0.0, 0.0)).value)
