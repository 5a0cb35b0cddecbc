"""Bias correction: its factors, and the bias of totals with and without it."""

from collections.abc import Sequence

import numpy as np
import pytest

from rossmann.models.calibration.bias_correction import (
    bias_factors,
    bias_rows,
    fit_bias_correction,
    measure_bias,
)
from rossmann.models.evaluation.backtest import BacktestWindow, WindowForecasts
from rossmann.models.evaluation.metrics import bias, rmspe
from rossmann.models.publishing.trained_model import TrainedModel
from rossmann.schema import FEATURES, StoreDays

STORES = 300
PROMO = FEATURES.index("promo")


def outcome(
    sd: float, shock: float = 0.0, days: int = 48, seed: int = 0, promo: Sequence[int] = (0, 1)
) -> WindowForecasts:
    """A window of lognormal days, forecast so that the square percentage error is least.

    ``shock``: an error of the whole chain that no forecast could avoid, on the log scale.
    """
    rng = np.random.default_rng(seed)
    day, store = (grid.ravel() for grid in np.meshgrid(np.arange(days), np.arange(STORES)))
    log_mean = rng.normal(8.5, 0.4, STORES)[store]
    sold = np.exp(log_mean + shock + rng.normal(0, sd, len(day)))
    matrix = np.zeros((len(day), len(FEATURES)), np.float32)
    matrix[:, PROMO] = np.asarray(promo)[day // 6 % len(promo)]
    flags = matrix[:, PROMO].astype(np.uint8)
    rows = StoreDays(store.astype(np.int32), day.astype(np.int32), flags, flags, flags, flags)
    window = BacktestWindow(16_000 + seed, days, rows, sold, matrix)
    return WindowForecasts(window, {"ensemble": np.exp(log_mean - 1.5 * sd**2)})


def test_forecast_with_least_percentage_error_is_biased_low() -> None:
    """The bias that theory expects, and that the correction removes."""
    window = outcome(0.1).window
    sold, forecast = window.sold, outcome(0.1).forecasts["ensemble"]
    assert bias(sold, forecast) == pytest.approx(-0.02, abs=0.003)
    for factor in (0.98, 1.02):
        assert rmspe(sold, forecast * factor) > rmspe(sold, forecast)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_correction_makes_totals_unbiased(count: int) -> None:
    outcomes = [outcome(0.1, seed=seed) for seed in range(count)]
    table = fit_bias_correction(outcomes)
    fresh = outcome(0.1, seed=99)
    corrected = fresh.forecasts["ensemble"] * bias_factors(table, fresh.window.matrix)
    assert abs(bias(fresh.window.sold, corrected)) < 0.003
    assert table["windows"] == count


def test_the_larger_the_standard_error_the_more_theory_counts() -> None:
    """Nothing of a measure that says nothing, nearly all of one that is certain."""
    for shocks, share in (((0.16, -0.12, 0.02), 0.0), ((0.03, 0.03, 0.03), 1.0)):
        table = fit_bias_correction([outcome(0.1, x, seed=i) for i, x in enumerate(shocks)])
        assert table["theoretical"] == pytest.approx([-0.02] * 2, abs=0.002)
        mean = -0.02 - sum(shocks) / 3
        assert table["measured"] == pytest.approx([mean] * 2, abs=0.004)
        assert table["weight"] == pytest.approx([share] * 2, abs=0.12)
        expected = np.exp(-(share * mean + (1 - share) * -0.02))
        assert table["factors"] == pytest.approx([expected] * 2, abs=0.005)


def test_the_standard_error_is_that_of_the_windows_mean() -> None:
    shocks = (0.06, -0.02, 0.0, 0.03)
    table = fit_bias_correction([outcome(0.02, x, seed=i) for i, x in enumerate(shocks)])
    expected = float(np.std(shocks, ddof=1)) / 2
    assert table["standard_error"] == pytest.approx([expected] * 2, rel=0.05)


def test_a_chain_shock_does_not_change_the_theoretical_ratio() -> None:
    """A chain that sells 20 % more has no larger residual variance; one window is no measure."""
    calm, shocked = (fit_bias_correction([outcome(0.05, shock)]) for shock in (0.0, 0.2))
    assert shocked["factors"] == pytest.approx([np.exp(0.005)] * 2, abs=0.003)
    assert calm["factors"] == pytest.approx([np.exp(0.005)] * 2, abs=0.003)


def test_promotion_days_have_their_own_factor() -> None:
    original = outcome(0.05)
    promo = original.window.matrix[:, PROMO] > 0
    biased = WindowForecasts(
        original.window, {"ensemble": original.forecasts["ensemble"] * np.where(promo, 1.1, 0.9)}
    )
    without, with_promo = fit_bias_correction([biased] * 4)["factors"]
    assert without == pytest.approx(np.exp(0.005) / 0.9, abs=0.01)
    assert with_promo == pytest.approx(np.exp(0.005) / 1.1, abs=0.01)
    matrix = original.window.matrix
    factor = bias_factors({"factors": [without, with_promo]}, matrix)
    assert (factor == np.where(promo, with_promo, without)).all()


def test_a_group_without_days_has_the_theoretical_factor() -> None:
    without, with_promo = fit_bias_correction([outcome(0.1, promo=(0,))])["factors"]
    assert with_promo == pytest.approx(np.exp(0.02), abs=0.002)
    assert without == pytest.approx(np.exp(0.02), abs=0.004)


def test_each_window_is_corrected_by_the_others() -> None:
    shocks = (0.04, -0.03, 0.02, -0.01, 0.03, 0.0)
    outcomes = [outcome(0.1, shock, seed=i) for i, shock in enumerate(shocks)]
    measured = measure_bias(outcomes)
    assert abs(measured["mean"]["unbiased"]) < 0.012 < abs(measured["mean"]["accuracy"])
    first, rest = outcomes[0], outcomes[1:]
    factor = bias_factors(fit_bias_correction(rest), first.window.matrix)
    expected = bias(first.window.sold, first.forecasts["ensemble"] * factor)
    assert measured["windows"][0]["unbiased"] == pytest.approx(expected, rel=1e-12)
    header, *rows = bias_rows(measured)
    assert [row[0] for row in rows] == ["accuracy", "unbiased"]
    assert {len(row) for row in rows} == {len(header)} == {8}


def test_a_single_window_has_no_unbiased_value() -> None:
    measured = measure_bias([outcome(0.1)])
    assert measured["mean"]["unbiased"] is None
    assert bias_rows(measured)[2] == ["unbiased", "-", "-"]


def test_training_stores_factors_and_bias(trained: TrainedModel) -> None:
    table = trained.card["unbiased"]
    assert len(table["factors"]) == len(table["groups"]) == 2
    assert all(0.8 < factor < 1.25 for factor in table["factors"])
    measured = trained.card["metrics"]["totals_bias"]
    by_origin = {window["origin"]: window["accuracy"] for window in measured["windows"]}
    assert table["windows"] == len(by_origin) >= len(trained.windows)
    for window in trained.windows:
        stored = by_origin[window.origin.isoformat()]
        assert stored == pytest.approx(window.ensemble["bias"], rel=1e-9)
