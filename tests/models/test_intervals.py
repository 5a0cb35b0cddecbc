"""Conformal intervals cover what they promise, on rows that did not calibrate them."""

from itertools import pairwise

import numpy as np
import pytest

from rossmann.models.intervals import LEVELS, bounds, calibrate
from rossmann.schema import FEATURES, FloatArray, Matrix


def world(seed: int, n: int = 6000) -> tuple[Matrix, FloatArray, FloatArray]:
    """Rows whose spread is their volatility, with sales around a forecast."""
    rng = np.random.default_rng(seed)
    matrix = np.zeros((n, len(FEATURES)), np.float32)
    spread = rng.uniform(0.05, 0.4, n)
    matrix[:, FEATURES.index("sd_same_364")] = spread
    forecast = rng.uniform(2000, 9000, n)
    return matrix, forecast * np.exp(rng.normal(0, spread)), forecast


def test_coverage_holds_on_other_rows() -> None:
    matrix, sold, forecast = world(1)
    table = calibrate(matrix, sold, forecast)
    matrix, sold, forecast = world(2)
    for level in (0.5, 0.8, 0.95):
        ((low, high),) = bounds(table, matrix, forecast, [level])
        inside = (low <= sold) & (sold <= high)
        assert inside.mean() == pytest.approx(level, abs=0.02)
        spread = matrix[:, FEATURES.index("sd_same_364")]
        for part in np.array_split(np.argsort(spread), 3):
            assert inside[part].mean() == pytest.approx(level, abs=0.04)


def test_bounds_nest_and_hold_the_forecast() -> None:
    matrix, sold, forecast = world(3)
    table = calibrate(matrix, sold, forecast)
    found = bounds(table, matrix, forecast, LEVELS)
    for (low, high), (lower, higher) in pairwise(found):
        assert (lower <= low).all()
        assert (high <= higher).all()
        assert (low <= forecast).all()
        assert (forecast <= high).all()


def test_a_store_without_history_counts_as_volatile() -> None:
    matrix, sold, forecast = world(4)
    table = calibrate(matrix, sold, forecast)
    matrix[:2, FEATURES.index("sd_same_364")] = (np.nan, 0.05)
    ((low, high),) = bounds(table, matrix[:2], np.array([1000.0, 1000.0]), [0.8])
    assert high[0] - low[0] > high[1] - low[1]


@pytest.mark.parametrize("level", [0.0, 0.49, 0.995, 1.0])
def test_a_level_out_of_reach_is_refused(level: float) -> None:
    matrix, sold, forecast = world(5, 500)
    with pytest.raises(ValueError, match=r"between \.5 and \.99"):
        bounds(calibrate(matrix, sold, forecast), matrix, forecast, [level])
