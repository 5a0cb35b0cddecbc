"""Conformal prediction intervals: coverage on other rows, nesting, scale, invalid tables."""

from itertools import pairwise

import numpy as np
import pytest

from rossmann.errors import CorruptModelError
from rossmann.models.ensemble.prediction_intervals import (
    LEVELS,
    calibrate,
    conformal_quantile,
    interval_bounds,
    residual_scale,
    validate_table,
)
from rossmann.schema import FEATURES, FeatureMatrix, FloatArray


def simulate(seed: int, n: int = 6000) -> tuple[FeatureMatrix, FloatArray, FloatArray]:
    """Rows whose spread is their volatility, with sales around a forecast."""
    rng = np.random.default_rng(seed)
    matrix = np.zeros((n, len(FEATURES)), np.float32)
    spread = rng.uniform(0.05, 0.4, n)
    matrix[:, FEATURES.index("sd_same_364")] = spread
    forecast = rng.uniform(2000, 9000, n)
    return matrix, forecast * np.exp(rng.normal(0, spread)), forecast


def test_coverage_on_other_rows() -> None:
    matrix, sold, forecast = simulate(1)
    table = calibrate(matrix, sold, forecast)
    matrix, sold, forecast = simulate(2)
    for level in (0.5, 0.8, 0.95):
        ((low, high),) = interval_bounds(table, matrix, forecast, [level])
        inside = (low <= sold) & (sold <= high)
        assert inside.mean() == pytest.approx(level, abs=0.02)
        spread = matrix[:, FEATURES.index("sd_same_364")]
        for part in np.array_split(np.argsort(spread), 3):
            assert inside[part].mean() == pytest.approx(level, abs=0.04)


def test_bounds_are_nested_and_contain_the_forecast() -> None:
    matrix, sold, forecast = simulate(3)
    table = calibrate(matrix, sold, forecast)
    bounds = interval_bounds(table, matrix, forecast, LEVELS)
    for (low, high), (lower, higher) in pairwise(bounds):
        assert (lower <= low).all()
        assert (high <= higher).all()
        assert (low <= forecast).all()
        assert (forecast <= high).all()


def test_store_without_history_counts_as_volatile() -> None:
    matrix, sold, forecast = simulate(4)
    table = calibrate(matrix, sold, forecast)
    matrix[:2, FEATURES.index("sd_same_364")] = (np.nan, 0.05)
    ((low, high),) = interval_bounds(table, matrix[:2], np.array([1000.0, 1000.0]), [0.8])
    assert high[0] - low[0] > high[1] - low[1]


@pytest.mark.parametrize("level", [0.0, 0.49, 0.995, 1.0])
def test_level_out_of_range_raises(level: float) -> None:
    matrix, sold, forecast = simulate(5, 500)
    with pytest.raises(ValueError, match=r"between \.5 and \.99"):
        interval_bounds(calibrate(matrix, sold, forecast), matrix, forecast, [level])


def test_coverage_on_sundays_and_of_reopened_stores() -> None:
    def simulate_groups(seed: int) -> tuple[FeatureMatrix, FloatArray, FloatArray]:
        matrix, _, forecast = simulate(seed)
        rng = np.random.default_rng(seed + 100)
        group = rng.integers(0, 10, len(matrix))
        matrix[:, FEATURES.index("day_of_week")] = np.where(group == 0, 7, 3)
        matrix[:, FEATURES.index("days_since_long_closure")] = np.where(group == 1, 5, 200)
        spread = matrix[:, FEATURES.index("sd_same_364")] * np.where(group < 2, 1.6, 1.0)
        return matrix, forecast * np.exp(rng.normal(0, spread)), forecast

    table = calibrate(*simulate_groups(6))
    matrix, sold, forecast = simulate_groups(7)
    ((low, high),) = interval_bounds(table, matrix, forecast, [0.8])
    inside = (low <= sold) & (sold <= high)
    sunday = matrix[:, FEATURES.index("day_of_week")] == 7
    reopened = matrix[:, FEATURES.index("days_since_long_closure")] == 5
    for part in (sunday, reopened, ~sunday & ~reopened):
        assert inside[part].mean() == pytest.approx(0.8, abs=0.05)


def test_rows_without_a_schedule_have_wider_intervals() -> None:
    matrix, sold, forecast = simulate(8)
    matrix[:, FEATURES.index("days_since_promo")] = 3
    informed = forecast * np.exp(np.log(sold / forecast) * 0.4)  # residuals shrink to 0.6
    table = calibrate(matrix, sold, informed, unplanned=forecast)
    assert table["unplanned"] == pytest.approx(1 / 0.6, rel=1e-6)
    unscheduled = matrix.copy()
    unscheduled[:, FEATURES.index("days_since_promo")] = np.nan
    assert residual_scale(table, unscheduled) == pytest.approx(residual_scale(table, matrix) / 0.6)
    ((low, high),) = interval_bounds(table, unscheduled, forecast, [0.8])
    assert ((low <= sold) & (sold <= high)).mean() == pytest.approx(0.8, abs=0.01)
    # A schedule that does not help narrows no interval.
    assert calibrate(matrix, sold, forecast, unplanned=informed)["unplanned"] == 1.0


def test_intervals_narrow_with_days_of_sales() -> None:
    matrix, sold, forecast = simulate(9)
    days = FEATURES.index("open_days_365")
    matrix[:, days] = 300
    table = calibrate(matrix, sold, forecast)
    rows = np.repeat(matrix[:1], 5, axis=0)
    rows[:, days] = (np.nan, 0, 7, 60, 300)
    scale = residual_scale(table, rows)
    assert scale[0] == scale[1]
    assert (np.diff(scale[1:]) < 0).all()
    assert scale[1] > 3 * scale[4]


def test_interval_is_independent_of_other_rows() -> None:
    matrix, sold, forecast = simulate(10)
    table = calibrate(matrix, sold, forecast)
    ((low, high),) = interval_bounds(table, matrix, forecast, [0.9])
    index = np.array([17, 3, 999])
    ((lower, upper),) = interval_bounds(table, matrix[index], forecast[index], [0.9])
    assert lower == pytest.approx(low[index], rel=1e-12)
    assert upper == pytest.approx(high[index], rel=1e-12)
    assert calibrate(matrix, sold, forecast) == table


def test_scaled_residuals_have_unit_root_mean_square() -> None:
    """Totals add variances up."""
    matrix, sold, forecast = simulate(11)
    table = calibrate(matrix, sold, forecast)
    scaled = np.log(sold / forecast) / residual_scale(table, matrix)
    assert np.sqrt(np.mean(scaled**2)) == pytest.approx(1.0, abs=0.02)
    assert conformal_quantile(table, 0.8) == pytest.approx(1.28, abs=0.05)


def test_table_of_another_release_raises() -> None:
    matrix, sold, forecast = simulate(12, 500)
    old = {"levels": list(LEVELS), "cuts": [0.1, 0.2], "widths": [[0.1] * 50] * 3}
    with pytest.raises(CorruptModelError, match="rossmann train"):
        interval_bounds(old, matrix, forecast, [0.8])
    table = calibrate(matrix, sold, forecast)
    validate_table(table)
    with pytest.raises(CorruptModelError, match="damaged"):
        validate_table({**table, "quantiles": table["quantiles"][1:]})
