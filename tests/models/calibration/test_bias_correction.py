"""Unbiased totals: what the correction is made of, and that it does what it says."""

from collections.abc import Sequence

import numpy as np
import pytest

from rossmann.models.calibration.bias_correction import (
    bias_factors,
    bias_rows,
    fit_bias_correction,
    measure_bias,
)
from rossmann.models.evaluation.metrics import bias, rmspe
from rossmann.models.evaluation.windows import BacktestWindow, WindowForecasts
from rossmann.models.publishing.trained_model import TrainedModel
from rossmann.schema import FEATURES, StoreDays

STORES = 300
PROMO = FEATURES.index("promo")


def outcome(
    spread: float, shock: float = 0.0, days: int = 48, seed: int = 0, promo: Sequence[int] = (0, 1)
) -> WindowForecasts:
    """A window of lognormal days, forecast so that the square percentage error is least.

    ``shock``: by how much the whole chain does better than anyone could know, on the log scale.
    """
    rng = np.random.default_rng(seed)
    day, store = (grid.ravel() for grid in np.meshgrid(np.arange(days), np.arange(STORES)))
    log_mean = rng.normal(8.5, 0.4, STORES)[store]
    sold = np.exp(log_mean + shock + rng.normal(0, spread, len(day)))
    matrix = np.zeros((len(day), len(FEATURES)), np.float32)
    matrix[:, PROMO] = np.asarray(promo)[day // 6 % len(promo)]
    flags = matrix[:, PROMO].astype(np.uint8)
    rows = StoreDays(store.astype(np.int32), day.astype(np.int32), flags, flags, flags, flags)
    window = BacktestWindow(16_000 + seed, days, rows, sold, matrix)
    return WindowForecasts(window, {"ensemble": np.exp(log_mean - 1.5 * spread**2)})


def test_the_least_percentage_error_lies_below_the_mean() -> None:
    """What the correction is for, and what theory says of it."""
    window = outcome(0.1).window
    sold, forecast = window.sold, outcome(0.1).forecasts["ensemble"]
    assert bias(sold, forecast) == pytest.approx(-0.02, abs=0.003)
    for factor in (0.98, 1.02):
        assert rmspe(sold, forecast * factor) > rmspe(sold, forecast)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_days_without_shocks_are_made_unbiased(count: int) -> None:
    outcomes = [outcome(0.1, seed=seed) for seed in range(count)]
    table = fit_bias_correction(outcomes)
    fresh = outcome(0.1, seed=99)
    told = fresh.forecasts["ensemble"] * bias_factors(table, fresh.window.matrix)
    assert abs(bias(fresh.window.sold, told)) < 0.003
    assert table["windows"] == count


def test_shocks_of_the_chain_are_averaged_and_theory_counts_as_one_window() -> None:
    outcomes = [outcome(0.1, shock, seed=i) for i, shock in enumerate((0.06, -0.02, 0.0))]
    factors = fit_bias_correction(outcomes)["factors"]
    expected = 4 / sum(np.exp(-0.02 - shock) for shock in (0.06, -0.02, 0.0, 0.0))
    assert factors == pytest.approx([expected] * 2, abs=0.004)


def test_a_shock_is_no_spread() -> None:
    """A chain that does 20 % better has no wider days for that."""
    still, shocked = (fit_bias_correction([outcome(0.05, shock)]) for shock in (0.0, 0.2))
    expected = 2 / (np.exp(-0.005 - 0.2) + np.exp(-0.005))
    assert shocked["factors"] == pytest.approx([expected] * 2, abs=0.003)
    assert still["factors"] == pytest.approx([np.exp(0.005)] * 2, abs=0.003)


def test_either_kind_of_day_has_its_own_factor() -> None:
    one = outcome(0.05)
    promo = one.window.matrix[:, PROMO] > 0
    told = WindowForecasts(
        one.window, {"ensemble": one.forecasts["ensemble"] * np.where(promo, 1.1, 0.9)}
    )
    without, with_promo = fit_bias_correction([told] * 4)["factors"]
    assert without == pytest.approx(5 / (4 * 0.9 + 1), abs=0.01)
    assert with_promo == pytest.approx(5 / (4 * 1.1 + 1), abs=0.01)
    matrix = one.window.matrix
    factor = bias_factors({"factors": [without, with_promo]}, matrix)
    assert (factor == np.where(promo, with_promo, without)).all()


def test_a_kind_of_day_that_no_window_had_is_left_to_theory() -> None:
    without, with_promo = fit_bias_correction([outcome(0.1, promo=(0,))])["factors"]
    assert with_promo == pytest.approx(np.exp(0.02), abs=0.002)
    assert without == pytest.approx(np.exp(0.02), abs=0.004)


def test_each_window_is_judged_by_the_others() -> None:
    shocks = (0.04, -0.03, 0.02, -0.01, 0.03, 0.0)
    outcomes = [outcome(0.1, shock, seed=i) for i, shock in enumerate(shocks)]
    found = measure_bias(outcomes)
    assert abs(found["mean"]["unbiased"]) < 0.005 < abs(found["mean"]["accuracy"])
    first, rest = outcomes[0], outcomes[1:]
    factor = bias_factors(fit_bias_correction(rest), first.window.matrix)
    told = bias(first.window.sold, first.forecasts["ensemble"] * factor)
    assert found["windows"][0]["unbiased"] == pytest.approx(told, rel=1e-12)
    header, *rows = bias_rows(found)
    assert [row[0] for row in rows] == ["accuracy", "unbiased"]
    assert {len(row) for row in rows} == {len(header)} == {8}


def test_one_window_alone_has_none_to_judge_it() -> None:
    found = measure_bias([outcome(0.1)])
    assert found["mean"]["unbiased"] is None
    assert bias_rows(found)[2] == ["unbiased", "-", "-"]


def test_training_stores_both(trained: TrainedModel) -> None:
    table = trained.card["unbiased"]
    assert len(table["factors"]) == len(table["groups"]) == 2
    assert all(0.8 < factor < 1.25 for factor in table["factors"])
    assert table["windows"] == len(trained.windows)
    found = trained.card["metrics"]["totals_bias"]
    for window, told in zip(trained.windows, found["windows"], strict=True):
        assert told["origin"] == window.origin.isoformat()
        assert told["accuracy"] == pytest.approx(window.ensemble["bias"], rel=1e-9)
