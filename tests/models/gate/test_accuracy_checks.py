"""Comparison with Production on windows after its data, by fits that know the same days."""

from dataclasses import replace

import numpy as np
import pytest

from rossmann.models.gate.accuracy_checks import ProductionVersion, checks_against_production
from rossmann.models.gate.backtest_predictions import BacktestPredictions, WindowPredictions
from rossmann.models.gate.verdict import CheckResult
from rossmann.settings import load_settings

LIMITS = load_settings(data_dir="nowhere")
FIT_AGE = 7
"""Days from Production's last day of data to the recent window's origin."""


def window(origin: str, first_day: int, sd: float) -> WindowPredictions:
    """Forecasts of 50 stores with an error of about ``sd``."""
    store, day = np.repeat(np.arange(50), 48), np.tile(first_day + np.arange(48), 50)
    sold = 4000.0 + 37 * (store % 11) + day % 7 * 100
    forecast = sold * np.exp(np.random.default_rng(first_day).normal(0, sd, len(sold)))
    return WindowPredictions(origin, 48, store, day, sold, forecast, forecast)


def compare(recent_sd: float, age_days: int | None) -> list[CheckResult]:
    """A candidate with Production's forecasts on a window of both, and with a recent window.

    Production's error on the recent window is .1.
    """
    both = window("2013-10-21", 16_000, sd=0.1)
    recent = replace(window("2014-03-10", 16_140, recent_sd), age_days=age_days)
    forecast = window("2014-03-10", 16_140, sd=0.1).forecast
    last_day = recent.origin_day - FIT_AGE
    stored = BacktestPredictions((both,), {})
    production = ProductionVersion("version 1", stored, last_day, lambda rows: forecast)
    return checks_against_production(BacktestPredictions((both, recent), {}), production, LIMITS)


@pytest.mark.parametrize(("sd", "passed"), [(0.05, True), (0.15, False)])
def test_fits_that_know_the_same_days_are_compared(sd: float, passed: bool) -> None:
    """So a reweighted version is judged on its recent windows, too."""
    same, recent, pooled = compare(sd, FIT_AGE)
    assert same.check == "2013-10-21: no worse than version 1"
    assert recent.check == "2014-03-10: no worse than version 1"
    assert (same.passed, recent.passed) == (True, passed)
    assert pooled.check == "all windows: better than version 1"
    assert pooled.value is not None and pooled.limit is not None
    assert (pooled.value < 0.8 * pooled.limit) is passed


@pytest.mark.parametrize("age_days", [0, FIT_AGE - 1, FIT_AGE + 1, None])
def test_a_fit_that_knows_other_days_is_no_comparison(age_days: int | None) -> None:
    checks = [line.check for line in compare(0.05, age_days)]
    assert checks == ["2013-10-21: no worse than version 1", "all windows: better than version 1"]
