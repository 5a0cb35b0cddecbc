"""Interval coverage, cross-validated over windows."""

import numpy as np
import pytest

from rossmann.models.calibration.interval_coverage import (
    ALL_LEVELS,
    calibrate_windows,
    coverage_rows,
    covers,
    cross_validated_intervals,
    measure_coverage,
)
from rossmann.models.ensemble.prediction_intervals import interval_bounds
from rossmann.models.evaluation.backtest import BacktestWindow, WindowForecasts
from rossmann.schema import FEATURES, StoreDays

DAY = 16_000


def outcome(seed: int, noise: float, count: int = 4000) -> WindowForecasts:
    """A window whose forecast misses by ``noise`` times the row's volatility."""
    rng = np.random.default_rng(seed)
    matrix = np.zeros((count, len(FEATURES)), np.float32)
    spread = rng.uniform(0.05, 0.4, count)
    matrix[:, FEATURES.index("sd_same_364")] = spread
    forecast = rng.uniform(2000, 9000, count)
    flags = np.ones(count, np.uint8)
    day = np.full(count, DAY + seed, np.int32)
    rows = StoreDays(np.arange(count, dtype=np.int32), day, flags, flags, flags, flags)
    sold = forecast * np.exp(rng.normal(0, noise * spread))
    return WindowForecasts(
        BacktestWindow(DAY + seed - 1, 1, rows, sold, matrix), {"ensemble": forecast}
    )


def test_similar_windows_have_nominal_coverage() -> None:
    measured = measure_coverage([outcome(1, 1.0), outcome(2, 1.0), outcome(3, 1.0)])
    assert measured is not None
    assert set(measured["levels"]) == {f"{level:.2f}" for level in ALL_LEVELS}
    for name, entry in measured["levels"].items():
        assert entry["coverage"] == pytest.approx(float(name), abs=0.015)
        assert len(entry["windows"]) == 3
        for share in entry["volatility"].values():
            assert share == pytest.approx(float(name), abs=0.025)


def test_a_window_is_calibrated_on_the_others_only() -> None:
    """A window twice as noisy as the others has low coverage."""
    calm, noisy = outcome(1, 1.0), outcome(2, 2.0)
    measured = measure_coverage([calm, noisy])
    assert measured is not None
    by_window = measured["levels"]["0.80"]["windows"]
    first, second = by_window.values()
    assert first > 0.95
    assert second < 0.6
    intervals = cross_validated_intervals([calm, noisy], (0.8,))
    assert intervals is not None
    table = calibrate_windows([calm])
    ((low, high),) = interval_bounds(table, noisy.interval_inputs, [0.8])
    assert (intervals[1][0.8][0] == low).all()
    assert (intervals[1][0.8][1] == high).all()


def test_a_single_window_has_no_coverage() -> None:
    assert measure_coverage([outcome(1, 1.0)]) is None
    assert cross_validated_intervals([outcome(1, 1.0)]) is None


def test_text_table_has_the_measured_values() -> None:
    measured = measure_coverage([outcome(1, 1.0), outcome(2, 1.0)])
    assert measured is not None
    header, eighty, ninety_five = coverage_rows(measured)
    assert header[0] == "band"
    assert eighty[0] == "80%"
    assert eighty[1] == f"{100 * measured['levels']['0.80']['coverage']:.1f} %"
    assert ninety_five[-1] == f"{100 * measured['levels']['0.95']['width']:.1f} %"


def test_bounds_count_as_covered() -> None:
    sold = np.array([1.0, 2.0, 3.0, 4.0])
    interval = (np.full(4, 2.0), np.full(4, 3.0))
    assert covers(sold, interval).tolist() == [0.0, 1.0, 1.0, 0.0]
