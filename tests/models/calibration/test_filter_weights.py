"""Filter weights: learned where the filter forecasts better, on no day that they are judged on."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rossmann.models.calibration.filter_weights import (
    collect_errors,
    cross_validate_filter_weights,
    fit_filter_weights,
    training_years,
)
from rossmann.models.ensemble.ensemble import DAY_KINDS, is_event_day
from rossmann.models.evaluation.backtest import BacktestWindow, MemberOutputs, WindowForecasts
from rossmann.schema import FEATURES, OFFSET_COLUMN, FloatArray, StoreDays

FIRST = 16_000
DAYS = 48
STORES = 40
WEIGHTS = {"only": 1.0}
YEAR = 365


def window(
    origin: int, best: dict[str, float], seed: int = 0, noise: float = 0.02, age: int = 0
) -> WindowForecasts:
    """A window whose sales follow the filter by the shares ``best`` on each kind of day."""
    rng = np.random.default_rng([seed, origin])
    store = np.tile(np.arange(STORES), DAYS)
    day = np.repeat(np.arange(origin + 1, origin + 1 + DAYS), STORES)
    matrix = np.zeros((len(day), len(FEATURES)), np.float32)
    matrix[:, FEATURES.index("open_days_365")] = 300
    matrix[:, FEATURES.index("days_to_christmas")] = 60
    matrix[:, FEATURES.index("days_from_easter")] = np.where(day % 4 == 0, 0, 90)
    matrix[:, FEATURES.index("days_since_holiday")] = 30
    matrix[:, FEATURES.index("days_to_holiday")] = 30
    matrix[:, OFFSET_COLUMN] = 8.0
    factor = rng.normal(0, 0.2, len(day))
    share = np.where(is_event_day(matrix), best["event"], best["ordinary"])
    sold = np.exp(8.0 + (1 - share) * factor + rng.normal(0, noise, len(day)))
    flags = np.zeros(len(day), np.uint8)
    rows = StoreDays(store.astype(np.int32), day.astype(np.int32), flags, flags, flags, flags)
    outputs = MemberOutputs(matrix, {"only": factor})
    forecasts = {"ensemble": outputs.blend({"weights": WEIGHTS})}
    return WindowForecasts(
        BacktestWindow(origin, DAYS, rows, sold, matrix), forecasts, {"ensemble": outputs}, age
    )


def error(outcome: WindowForecasts) -> float:
    sold: FloatArray = outcome.window.sold
    return float(np.abs(outcome.forecasts["ensemble"] - sold).sum() / sold.sum())


@pytest.mark.parametrize("event", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("ordinary", [0.0, 0.7])
def test_the_weight_by_kind_of_day_is_found(ordinary: float, event: float) -> None:
    best = {"ordinary": ordinary, "event": event}
    windows = [window(FIRST + YEAR + DAYS * i, best) for i in range(4)]
    found = fit_filter_weights(collect_errors(windows, FIRST, WEIGHTS), years=1)
    for kind in DAY_KINDS:
        assert found[kind] == pytest.approx(best[kind], abs=0.051)
        assert found["windows"][kind] == 4
    assert fit_filter_weights(collect_errors(windows, FIRST, WEIGHTS), years=2) == {
        "years": 2, "windows": {"ordinary": 0, "event": 0}, "ordinary": 0.0, "event": 0.0,
    }  # fmt: skip


def test_a_single_window_teaches_nothing() -> None:
    outcome = window(FIRST + YEAR, {"ordinary": 1.0, "event": 1.0})
    found = fit_filter_weights(collect_errors([outcome], FIRST, WEIGHTS), years=1)
    assert (found["ordinary"], found["event"]) == (0.0, 0.0)


def test_noise_gives_no_weight_where_members_know_two_years() -> None:
    """Sales that neither forecast explains: of a quarter of the filter nothing is left."""
    best = {"ordinary": 0.0, "event": 0.0}
    for seed in range(10):
        windows = [window(FIRST + 3 * YEAR + DAYS * i, best, seed, noise=1.0) for i in range(3)]
        found = fit_filter_weights(collect_errors(windows, FIRST, WEIGHTS), years=2)
        assert found["ordinary"] <= 0.25


@given(seed=st.integers(0, 1000))
def test_no_window_is_judged_by_weights_from_its_own_days(seed: int) -> None:
    best = {"ordinary": 0.5, "event": 1.0}
    windows = [window(FIRST + YEAR + 40 * i, best, seed) for i in range(4)]
    others = cross_validate_filter_weights(windows, FIRST, WEIGHTS)
    judged = windows[1].window
    rng = np.random.default_rng(seed)
    changed = []
    for outcome in windows:  # other sales on the judged window's days, which overlap its neighbours
        own, days = outcome.window, outcome.window.rows.day
        inside = (days > judged.origin) & (days <= judged.origin + judged.days)
        sold = np.where(inside, own.sold * rng.uniform(0.2, 3, len(days)), own.sold)
        changed.append(replace(outcome, window=replace(own, sold=sold)))
    again = cross_validate_filter_weights(changed, FIRST, WEIGHTS)
    assert (again[1].forecasts["ensemble"] == others[1].forecasts["ensemble"]).all()


def test_cross_validation_forecasts_better_where_the_filter_is_right() -> None:
    windows = [window(FIRST + YEAR + DAYS * i, {"ordinary": 0.3, "event": 1.0}) for i in range(4)]
    blended = cross_validate_filter_weights(windows, FIRST, WEIGHTS)
    for before, after in zip(windows, blended, strict=True):
        assert error(after) < 0.8 * error(before)
        assert after.window is before.window


def test_follow_ups_count_by_what_their_members_saw() -> None:
    """An old fit's windows teach nothing about members that saw another year."""
    best = {"ordinary": 1.0, "event": 1.0}
    old = [window(FIRST + 2 * YEAR + DAYS * i, best, age=DAYS * (i + 1)) for i in range(3)]
    fresh = replace(window(FIRST + 2 * YEAR + 200, best), follow_ups=tuple(old))
    found = collect_errors([fresh], FIRST, WEIGHTS)
    assert [one.years for one in found] == [2, 1, 1, 1]
    (blended,) = cross_validate_filter_weights([fresh], FIRST, WEIGHTS)
    assert (blended.forecasts["ensemble"] == fresh.forecasts["ensemble"]).all()
    assert error(blended.follow_ups[0]) < 0.5 * error(old[0])


@pytest.mark.parametrize(
    ("days", "years"), [(0, 1), (YEAR, 1), (2 * YEAR - 1, 1), (2 * YEAR, 2), (5 * YEAR, 2)]
)
def test_training_years(days: int, years: int) -> None:
    assert training_years(FIRST, FIRST + days) == years
