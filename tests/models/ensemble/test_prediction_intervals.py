"""Conformal intervals and quantiles: coverage on other rows, nesting, scale, invalid tables."""

from datetime import date
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rossmann.epoch_days import to_day
from rossmann.errors import CorruptModelError
from rossmann.models.ensemble.prediction_intervals import (
    CENTRAL,
    CENTRAL_LEVELS,
    LEVELS,
    calibrate,
    conformal_quantile,
    interval_bounds,
    sales_quantiles,
    scaled_quantile,
    validate_table,
)
from rossmann.models.ensemble.residual_scale import (
    EVENT_SEASONS,
    IntervalInputs,
    count_seasons,
    event_season,
    residual_scale,
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


ORDINARY_DAY = to_day(date(2014, 2, 12))


def inputs(matrix: FeatureMatrix, forecast: FloatArray, day: int = ORDINARY_DAY) -> IntervalInputs:
    """Rows whose members left the filter's forecast as it is."""
    matrix = matrix.copy()
    matrix[:, FEATURES.index("kfb")] = np.log(forecast)
    matrix[:, FEATURES.index("days_to_holiday")] = 30
    matrix[:, FEATURES.index("days_from_easter")] = -60
    return IntervalInputs(matrix, np.full(len(matrix), day), forecast)


def table_of(matrix: FeatureMatrix, sold: FloatArray, forecast: FloatArray) -> dict[str, Any]:
    return calibrate(inputs(matrix, forecast), sold)


def test_coverage_on_other_rows() -> None:
    matrix, sold, forecast = simulate(1)
    table = table_of(matrix, sold, forecast)
    matrix, sold, forecast = simulate(2)
    for level in (0.5, 0.8, 0.95):
        ((low, high),) = interval_bounds(table, inputs(matrix, forecast), [level])
        inside = (low <= sold) & (sold <= high)
        assert inside.mean() == pytest.approx(level, abs=0.02)
        spread = matrix[:, FEATURES.index("sd_same_364")]
        for part in np.array_split(np.argsort(spread), 3):
            assert inside[part].mean() == pytest.approx(level, abs=0.04)


def test_bounds_are_nested_and_contain_the_forecast() -> None:
    matrix, sold, forecast = simulate(3)
    table = table_of(matrix, sold, forecast)
    bounds = interval_bounds(table, inputs(matrix, forecast), LEVELS)
    for (low, high), (lower, higher) in pairwise(bounds):
        assert (lower <= low).all()
        assert (high <= higher).all()
        assert (low <= forecast).all()
        assert (forecast <= high).all()


def test_store_without_history_counts_as_volatile() -> None:
    matrix, sold, forecast = simulate(4)
    table = table_of(matrix, sold, forecast)
    matrix[:2, FEATURES.index("sd_same_364")] = (np.nan, 0.05)
    ((low, high),) = interval_bounds(table, inputs(matrix[:2], np.full(2, 1000.0)), [0.8])
    assert high[0] - low[0] > high[1] - low[1]


@pytest.mark.parametrize("level", [0.0, 0.49, 0.995, 1.0])
def test_level_out_of_range_raises(level: float) -> None:
    matrix, sold, forecast = simulate(5, 500)
    with pytest.raises(ValueError, match=r"between \.5 and \.99"):
        interval_bounds(table_of(matrix, sold, forecast), inputs(matrix, forecast), [level])


def test_coverage_on_sundays_and_of_reopened_stores() -> None:
    def simulate_groups(seed: int) -> tuple[FeatureMatrix, FloatArray, FloatArray]:
        matrix, _, forecast = simulate(seed)
        rng = np.random.default_rng(seed + 100)
        group = rng.integers(0, 10, len(matrix))
        matrix[:, FEATURES.index("day_of_week")] = np.where(group == 0, 7, 3)
        matrix[:, FEATURES.index("days_since_long_closure")] = np.where(group == 1, 5, 200)
        spread = matrix[:, FEATURES.index("sd_same_364")] * np.where(group < 2, 1.6, 1.0)
        return matrix, forecast * np.exp(rng.normal(0, spread)), forecast

    table = table_of(*simulate_groups(6))
    matrix, sold, forecast = simulate_groups(7)
    ((low, high),) = interval_bounds(table, inputs(matrix, forecast), [0.8])
    inside = (low <= sold) & (sold <= high)
    sunday = matrix[:, FEATURES.index("day_of_week")] == 7
    reopened = matrix[:, FEATURES.index("days_since_long_closure")] == 5
    for part in (sunday, reopened, ~sunday & ~reopened):
        assert inside[part].mean() == pytest.approx(0.8, abs=0.05)


def test_rows_without_a_schedule_have_wider_intervals() -> None:
    matrix, sold, forecast = simulate(8)
    matrix[:, FEATURES.index("days_since_promo")] = 3
    informed = forecast * np.exp(np.log(sold / forecast) * 0.4)  # residuals shrink to 0.6
    table = calibrate(inputs(matrix, informed), sold, unplanned=forecast)
    assert table["unplanned"] == pytest.approx(1 / 0.6, rel=1e-6)
    unscheduled = matrix.copy()
    unscheduled[:, FEATURES.index("days_since_promo")] = np.nan
    scale = residual_scale(table, inputs(unscheduled, forecast))
    assert scale == pytest.approx(residual_scale(table, inputs(matrix, forecast)) / 0.6)
    ((low, high),) = interval_bounds(table, inputs(unscheduled, forecast), [0.8])
    assert ((low <= sold) & (sold <= high)).mean() == pytest.approx(0.8, abs=0.01)
    # A schedule that does not help narrows no interval.
    assert calibrate(inputs(matrix, forecast), sold, unplanned=informed)["unplanned"] == 1.0


def test_intervals_narrow_with_days_of_sales() -> None:
    matrix, sold, forecast = simulate(9)
    days = FEATURES.index("open_days_365")
    matrix[:, days] = 300
    table = table_of(matrix, sold, forecast)
    rows = np.repeat(matrix[:1], 5, axis=0)
    rows[:, days] = (np.nan, 0, 7, 60, 300)
    scale = residual_scale(table, inputs(rows, np.full(5, 5000.0)))
    assert scale[0] == scale[1]
    assert (np.diff(scale[1:]) < 0).all()
    assert scale[1] > 3 * scale[4]


def test_interval_is_independent_of_other_rows() -> None:
    matrix, sold, forecast = simulate(10)
    table = table_of(matrix, sold, forecast)
    ((low, high),) = interval_bounds(table, inputs(matrix, forecast), [0.9])
    index = np.array([17, 3, 999])
    part = inputs(matrix[index], forecast[index])
    ((lower, upper),) = interval_bounds(table, part, [0.9])
    assert lower == pytest.approx(low[index], rel=1e-12)
    assert upper == pytest.approx(high[index], rel=1e-12)
    assert table_of(matrix, sold, forecast) == table


def test_scaled_residuals_have_unit_root_mean_square() -> None:
    """Totals add variances up."""
    matrix, sold, forecast = simulate(11)
    table = table_of(matrix, sold, forecast)
    scaled = np.log(sold / forecast) / residual_scale(table, inputs(matrix, forecast))
    assert np.sqrt(np.mean(scaled**2)) == pytest.approx(1.0, abs=0.02)
    assert conformal_quantile(table, 0.8) == pytest.approx(1.28, abs=0.05)


def test_table_of_another_release_raises() -> None:
    matrix, sold, forecast = simulate(12, 500)
    old = {"levels": list(LEVELS), "cuts": [0.1, 0.2], "widths": [[0.1] * 50] * 3}
    with pytest.raises(CorruptModelError, match="rossmann train"):
        interval_bounds(old, inputs(matrix, forecast), [0.8])
    table = table_of(matrix, sold, forecast)
    validate_table(table)
    with pytest.raises(CorruptModelError, match="damaged"):
        validate_table({**table, "quantiles": table["quantiles"][1:]})


def event_rows(seed: int, factor: float) -> tuple[IntervalInputs, FloatArray]:
    """Rows of a year, forecast ``factor`` times worse in December and early January."""
    matrix, _, forecast = simulate(seed)
    rng = np.random.default_rng(seed + 50)
    rows = inputs(matrix, forecast)
    day = to_day(date(2014, 2, 1)) + rng.integers(0, 364, len(matrix))
    winter = event_season(day, rows.matrix[:, FEATURES.index("days_from_easter")]) == 0
    spread = matrix[:, FEATURES.index("sd_same_364")] * np.where(winter, factor, 1.0)
    rows = IntervalInputs(rows.matrix, day, forecast)
    return rows, forecast * np.exp(rng.normal(0, spread))


def test_coverage_on_days_of_an_event() -> None:
    table = calibrate(*event_rows(20, 2.0))
    rows, sold = event_rows(21, 2.0)
    ((low, high),) = interval_bounds(table, rows, [0.8])
    season = event_season(rows.day, rows.matrix[:, FEATURES.index("days_from_easter")])
    for part in (season == 0, season < 0):
        assert ((low <= sold) & (sold <= high))[part].mean() == pytest.approx(0.8, abs=0.05)


def test_what_is_learned_at_christmas_holds_at_easter_and_before_holidays() -> None:
    """Each comes too rarely to have a term of its own."""
    table = calibrate(*event_rows(22, 2.0))
    matrix, _, forecast = simulate(23, 3)
    rows = inputs(matrix[[0, 0, 0]], forecast[[0, 0, 0]])
    rows.matrix[1, FEATURES.index("days_from_easter")] = -2
    rows.matrix[2, FEATURES.index("days_to_holiday")] = 1
    ordinary, easter, before_holiday = residual_scale(table, rows)
    assert easter == before_holiday > 1.5 * ordinary


def test_intervals_widen_with_the_correction_of_the_members() -> None:
    matrix, _, forecast = simulate(24)
    rng = np.random.default_rng(24)
    moved = rng.uniform(0, 0.3, len(matrix))
    sold = forecast * np.exp(rng.normal(0, 0.05 + 0.5 * moved))
    rows = inputs(matrix, forecast)
    rows.matrix[:, FEATURES.index("kfb")] += moved
    table = calibrate(rows, sold)
    ((low, high),) = interval_bounds(table, rows, [0.8])
    inside = (low <= sold) & (sold <= high)
    for part in np.array_split(np.argsort(moved), 3):
        assert inside[part].mean() == pytest.approx(0.8, abs=0.07)


def test_intervals_widen_beyond_the_horizon() -> None:
    table = table_of(*simulate(25))
    matrix, _, forecast = simulate(26, 5)
    rows = inputs(np.repeat(matrix[:1], 5, axis=0), np.repeat(forecast[:1], 5))
    rows.matrix[:, FEATURES.index("horizon")] = (1, 48, 128, 208, 300)
    scale = residual_scale(table, rows) / residual_scale(table, rows)[0]
    assert scale == pytest.approx([1.0, 1.0, 1.06, 1.12, 1.12])


@pytest.mark.parametrize(
    ("day", "from_easter", "season"),
    [
        (date(2014, 11, 30), -60, -1), (date(2014, 12, 1), -60, 0), (date(2015, 1, 5), -60, 0),
        (date(2015, 1, 6), -60, -1), (date(2015, 3, 29), -7, -1), (date(2015, 3, 30), -6, 1),
        (date(2015, 4, 6), 1, 1), (date(2015, 4, 7), 2, -1),
    ],
)  # fmt: skip
def test_days_of_the_event_seasons(day: date, from_easter: int, season: int) -> None:
    assert event_season(np.array([to_day(day)]), np.array([from_easter])) == season
    among_others = np.array([to_day(day) + 900, to_day(day), to_day(day) - 500])
    assert event_season(among_others, np.full(3, from_easter))[1] == season


def test_no_days_have_no_event_season() -> None:
    assert event_season(np.zeros(0, np.int32), np.zeros(0)).tolist() == []


def test_seasons_are_counted_where_half_of_their_days_were_seen() -> None:
    matrix, _, forecast = simulate(27, 36)
    christmas = inputs(matrix, forecast)
    for days, count in ((17, 0), (18, 1), (36, 1)):
        day = to_day(date(2014, 12, 1)) + np.minimum(np.arange(36), days - 1)
        rows = IntervalInputs(christmas.matrix, day, forecast)
        assert count_seasons(rows) == dict.fromkeys(EVENT_SEASONS, 0) | {"Christmas": count}
    two = np.concatenate([day, day + 365])
    rows = IntervalInputs(np.tile(christmas.matrix, (2, 1)), two, np.tile(forecast, 2))
    assert count_seasons(rows)["Christmas"] == 2


def test_tables_of_earlier_releases_keep_their_scale() -> None:
    """They have five terms, and intervals that do not widen beyond the horizon."""
    table = table_of(*simulate(28))
    matrix, _, forecast = simulate(29, 50)
    old = {**table, "terms": table["terms"][:5], "coefficients": table["coefficients"][:5]}
    del old["long_horizon"]
    validate_table(old)
    rows = inputs(matrix, forecast)
    rows.matrix[:, FEATURES.index("horizon")] = 200
    assert (residual_scale(old, rows) < residual_scale(table, rows)).all()
    spread = np.clip(matrix[:, FEATURES.index("sd_same_364")].astype(float), 0.06, 0.5)
    slopes = np.log(spread / 0.14), np.maximum(np.log(spread / 0.14), 0)
    expected = np.exp(old["coefficients"][0] + slopes[0] * old["coefficients"][1]
                      + slopes[1] * old["coefficients"][2]
                      + old["coefficients"][4])  # fmt: skip
    new_store = np.sqrt(17.0)
    assert residual_scale(old, rows) == pytest.approx(expected * new_store, rel=1e-6)


QUANTILES = tuple(np.round(np.arange(0.01, 0.995, 0.01), 2).tolist())


def test_share_of_sales_below_each_quantile_of_other_rows() -> None:
    table = table_of(*simulate(30))
    matrix, sold, forecast = simulate(31)
    values = sales_quantiles(table, inputs(matrix, forecast), QUANTILES)
    shares = [float((sold <= sales).mean()) for sales in values]
    assert shares == pytest.approx(QUANTILES, abs=0.03)


def test_quantiles_are_the_bounds_of_intervals_and_the_forecast() -> None:
    """To the last bit: quantile .1 is the lower bound of the 80 % interval, .9 the upper one."""
    matrix, sold, forecast = simulate(32, 500)
    table = table_of(matrix, sold, forecast)
    rows = inputs(matrix, forecast)
    levels = LEVELS[:-1]  # 99 % would take quantile .005
    pairs = [((1 - level) / 2, (1 + level) / 2) for level in levels]
    for pair, bounds in zip(pairs, interval_bounds(table, rows, levels), strict=True):
        for values, bound in zip(sales_quantiles(table, rows, pair), bounds, strict=True):
            assert (values == bound).all(), pair
    (middle,) = sales_quantiles(table, rows, [0.5])
    assert (middle == forecast).all()
    assert table["levels"] == list(LEVELS) and table[CENTRAL]["levels"] == list(CENTRAL_LEVELS)


@settings(max_examples=60, deadline=None)
@given(
    chosen=st.lists(st.floats(0.01, 0.99) | st.sampled_from(QUANTILES), min_size=2, max_size=20),
    old=st.booleans(),
)
def test_quantiles_are_positive_finite_and_growing(chosen: list[float], old: bool) -> None:
    matrix, sold, forecast = simulate(33, 60)
    table = table_of(matrix, sold, forecast)
    if old:
        del table[CENTRAL]
    values = np.array(sales_quantiles(table, inputs(matrix, forecast), sorted(chosen)))
    assert (np.diff(values, axis=0) >= 0).all()
    assert np.isfinite(values).all() and (values > 0).all()


def test_quantiles_of_tables_of_earlier_releases() -> None:
    """Below level .5 they have nothing: the width grows evenly from zero."""
    table = table_of(*simulate(34))
    old = {key: value for key, value in table.items() if key != CENTRAL}
    validate_table(old)
    half = conformal_quantile(old, 0.5)
    for quantile, share in ((0.25, -1.0), (0.375, -0.5), (0.5, 0.0), (0.55, 0.2), (0.75, 1.0)):
        assert scaled_quantile(old, quantile) == pytest.approx(share * half, rel=1e-9)
    assert scaled_quantile(old, 0.1) == scaled_quantile(table, 0.1)
    assert scaled_quantile(table, 0.45) == pytest.approx(-0.126, abs=0.02)  # of the normal


def test_quantiles_of_a_row_are_independent_of_other_rows() -> None:
    matrix, sold, forecast = simulate(35)
    table = table_of(matrix, sold, forecast)
    values = sales_quantiles(table, inputs(matrix, forecast), [0.1, 0.45])
    for index in (17, 3, 5999):
        part = inputs(matrix[[index]], forecast[[index]])
        for all_rows, single in zip(values, sales_quantiles(table, part, [0.1, 0.45]), strict=True):
            assert single[0] == pytest.approx(all_rows[index], rel=1e-12)


@pytest.mark.parametrize("quantile", [0.0, 0.009, 0.991, 1.0, -0.1, float("nan")])
def test_quantile_out_of_range_raises(quantile: float) -> None:
    matrix, sold, forecast = simulate(36, 500)
    with pytest.raises(ValueError, match=r"between \.01 and \.99"):
        sales_quantiles(table_of(matrix, sold, forecast), inputs(matrix, forecast), [quantile])


def test_table_with_damaged_central_widths_raises() -> None:
    table = table_of(*simulate(37, 500))
    table[CENTRAL] = {**table[CENTRAL], "quantiles": table[CENTRAL]["quantiles"][1:]}
    with pytest.raises(CorruptModelError, match="damaged"):
        validate_table(table)
