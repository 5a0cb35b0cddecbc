"""Intervals and quantiles of totals: correlated errors, and the row's interval for one row."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rossmann.models.calibration.totals_covariance import (
    ForecastRows,
    Group,
    group_by,
    kernel_at,
    kernel_quadratic_form,
    total_quantile,
    totals_intervals,
    totals_variance,
)
from rossmann.models.calibration.totals_fit import (
    TOTAL_KINDS,
    WindowActuals,
    fit_totals,
    measure_totals,
    student_t_quantile,
    total_groups,
)
from rossmann.models.ensemble.prediction_intervals import (
    CENTRAL,
    LEVELS,
    calibrate,
    interval_bounds,
    sales_quantiles,
)
from rossmann.models.ensemble.residual_scale import IntervalInputs, residual_scale
from rossmann.schema import FEATURES, FeatureMatrix, FloatArray

STORES, DAYS, ORIGIN = 120, 42, 16_000
Tables = tuple[dict[str, Any], dict[str, Any]]


def matrix_of(count: int, seed: int = 0) -> FeatureMatrix:
    """Rows of stores of differing volatility, with schedule and history."""
    matrix = np.zeros((count, len(FEATURES)), np.float32)
    matrix[:, FEATURES.index("open_days_365")] = 300
    matrix[:, FEATURES.index("days_since_long_closure")] = 200
    matrix[:, FEATURES.index("days_to_holiday")] = 30
    matrix[:, FEATURES.index("days_from_easter")] = 90
    matrix[:, FEATURES.index("kfb")] = 8.5
    sd = np.random.default_rng(seed).uniform(0.1, 0.2, STORES)
    matrix[:, FEATURES.index("sd_same_364")] = np.repeat(sd, count // STORES)
    return matrix


def window(
    seed: int, chain: float = 0.04, store: float = 0.03
) -> tuple[WindowActuals, FeatureMatrix]:
    """A window with correlated errors: a shock for each date, a shift for each store, and noise."""
    rng = np.random.default_rng(seed)
    store_index = np.repeat(np.arange(STORES), DAYS)
    day = np.tile(np.arange(DAYS), STORES)
    sales = rng.uniform(2000, 9000, STORES)[store_index] * rng.uniform(0.8, 1.2, len(store_index))
    error = rng.normal(0, chain, DAYS)[day] + rng.normal(0, store, STORES)[store_index]
    sold = sales * np.exp(error + rng.normal(0, 0.07, len(store_index)))
    matrix = matrix_of(len(store_index))
    rows = ForecastRows(
        store_index + 1, ORIGIN + 1 + day, store_index % 3, sales, np.ones(len(store_index))
    )
    return WindowActuals(rows, sold, ORIGIN), matrix


def fit_tables(
    seeds: range, chain: float = 0.04, store: float = 0.03
) -> tuple[Tables, list[WindowActuals]]:
    generated = [window(seed, chain, store) for seed in seeds]
    rows = IntervalInputs(
        np.concatenate([m for _, m in generated]),
        np.concatenate([p.rows.day for p, _ in generated]),
        np.concatenate([p.rows.sales for p, _ in generated]),
    )
    intervals = calibrate(rows, np.concatenate([p.sold for p, _ in generated]))
    windows = [scaled(actuals, matrix, intervals) for actuals, matrix in generated]
    return (intervals, fit_totals(windows)), windows


def scaled(
    actuals: WindowActuals, matrix: FeatureMatrix, intervals: dict[str, Any]
) -> WindowActuals:
    inputs = IntervalInputs(matrix, actuals.rows.day, actuals.rows.sales)
    rows = replace(actuals.rows, scale=residual_scale(intervals, inputs))
    return WindowActuals(rows, actuals.sold, actuals.origin)


@pytest.fixture(scope="module")
def tables() -> Tables:
    return fit_tables(range(1, 7))[0]


@pytest.fixture(scope="module")
def others(tables: Tables) -> list[WindowActuals]:
    """Windows that the tables were not fitted to."""
    return [scaled(*window(seed), tables[0]) for seed in range(100, 140)]


def test_totals_of_other_windows_have_nominal_coverage(
    tables: Tables, others: list[WindowActuals]
) -> None:
    measured = measure_totals(others, [tables] * len(others), (0.8, 0.95))
    assert measured["windows"] == len(others)
    assert set(measured["kinds"]) == set(TOTAL_KINDS)
    for kind in ("store_week", "store"):
        levels = measured["kinds"][kind]["levels"]
        assert levels["0.80"]["coverage"] == pytest.approx(0.8, abs=0.03)
        assert levels["0.95"]["coverage"] == pytest.approx(0.95, abs=0.02)
    for kind in ("chain_day", "chain_week", "type_week"):  # too wide with so few windows
        levels = measured["kinds"][kind]["levels"]
        assert 0.77 < levels["0.80"]["coverage"] < 0.93
        assert levels["0.95"]["coverage"] > 0.93


def test_intervals_are_wider_than_independent_and_narrower_than_added(
    tables: Tables, others: list[WindowActuals]
) -> None:
    measured = measure_totals(others[:3], [tables] * 3, (0.8,))
    for kind in TOTAL_KINDS:
        values = measured["kinds"][kind]["levels"]["0.80"]
        assert 1.05 * values["independent"] < values["width"] < 0.95 * values["added"], kind


def test_fit_recovers_the_shared_variance() -> None:
    (_, table), _ = fit_tables(range(1, 9))
    assert sum(table["chain"].values()) == pytest.approx(0.04**2, rel=0.25)
    assert sum(table["type"].values()) < 0.2 * 0.04**2
    assert table["chain"]["date"] > 0.7 * sum(table["chain"].values())
    # The store's shift persists: the covariance is as large after four weeks as after a day.
    kernel = kernel_at(table["within_store"], np.array([1, 28]))
    assert kernel[1] == pytest.approx(kernel[0], rel=0.5)


def test_independent_errors_give_intervals_of_independent_rows() -> None:
    (intervals, table), windows = fit_tables(range(1, 5), chain=0.0, store=0.0)
    rows = windows[0].rows
    variance = totals_variance(table, rows, total_groups("store", rows, ORIGIN))
    independent = (
        np.sqrt(np.bincount(rows.store - 1, (rows.sales * rows.scale) ** 2)) / variance.total
    )
    assert variance.deviation == pytest.approx(independent, rel=0.15)
    _, ((low, high),) = totals_intervals(
        intervals, table, rows, np.zeros(len(rows.day), np.int64), [0.8]
    )
    assert (high / low - 1).max() < 0.02


def test_total_of_one_row_has_the_interval_of_the_row(tables: Tables) -> None:
    actuals, matrix = window(7)
    actuals = scaled(actuals, matrix, tables[0])
    index = np.arange(0, len(actuals.sold), 97)
    rows = actuals.rows.take(index)
    of_rows = interval_bounds(
        tables[0], IntervalInputs(matrix[index], rows.day, rows.sales), [0.8, 0.95]
    )
    total, of_totals = totals_intervals(*tables, rows, np.arange(len(index)), [0.8, 0.95])
    assert total == pytest.approx(rows.sales)
    for row, values in zip(of_rows, of_totals, strict=True):
        assert values[0] == pytest.approx(row[0], rel=0.01)
        assert values[1] == pytest.approx(row[1], rel=0.01)


def test_intervals_are_nested_and_contain_the_total(
    tables: Tables, others: list[WindowActuals]
) -> None:
    rows = others[0].rows
    for kind in TOTAL_KINDS:
        total, bounds = totals_intervals(*tables, rows, total_groups(kind, rows, ORIGIN), LEVELS)
        for (low, high), (lower, higher) in pairwise(bounds):
            assert (lower <= low).all()
            assert (high <= higher).all()
            assert (low <= total).all()
            assert (total <= high).all()
            assert (lower >= 0).all()


def test_a_stores_window_and_its_weeks_are_coherent(
    tables: Tables, others: list[WindowActuals]
) -> None:
    """The sum of the weeks is the window, which is less uncertain than all weeks added up."""
    rows = others[0].rows
    groups = {kind: total_groups(kind, rows, ORIGIN) for kind in ("store", "store_week")}
    weeks, ((low, high),) = totals_intervals(*tables, rows, groups["store_week"], [0.8])
    window, ((low_all, high_all),) = totals_intervals(*tables, rows, groups["store"], [0.8])
    store_of_week = np.zeros(len(weeks), np.int64)
    store_of_week[groups["store_week"]] = groups["store"]
    assert np.bincount(store_of_week, weeks) == pytest.approx(window)
    added = np.bincount(store_of_week, high - low)
    assert (high_all - low_all < added * 1.01).all()
    widest = np.zeros(len(window))
    np.maximum.at(widest, store_of_week, (high - low) / weeks)
    assert ((high_all - low_all) / window < widest).all()


def test_intervals_do_not_depend_on_other_groups_or_row_order(
    tables: Tables, others: list[WindowActuals]
) -> None:
    rows = others[0].rows
    groups = total_groups("store_week", rows, ORIGIN)
    total, ((low, high),) = totals_intervals(*tables, rows, groups, [0.9])
    order = np.random.default_rng(5).permutation(len(groups))
    again, ((low2, high2),) = totals_intervals(*tables, rows.take(order), groups[order], [0.9])
    assert again == pytest.approx(total)
    assert low2 == pytest.approx(low)
    assert high2 == pytest.approx(high)
    selected = np.nonzero(groups == 11)[0]
    independent, ((low3, high3),) = totals_intervals(
        *tables, rows.take(selected), np.zeros(len(selected), np.int64), [0.9]
    )
    assert (independent[0], low3[0], high3[0]) == pytest.approx((total[11], low[11], high[11]))


def test_closed_days_add_neither_sales_nor_variance(tables: Tables) -> None:
    """Whatever their scale; a total of closed days only is zero with certainty."""
    actuals, matrix = window(8)
    rows = scaled(actuals, matrix, tables[0]).rows.take(np.arange(DAYS))
    sales = np.zeros(DAYS)
    sales[5:] = rows.sales[5:]
    scale = np.where(sales > 0, rows.scale, np.nan)
    with_closed = ForecastRows(rows.store, rows.day, rows.store_type, sales, scale)
    groups = np.zeros(DAYS, np.int64)
    with_zeros = totals_intervals(*tables, with_closed, groups, [0.8])
    without_closed = totals_intervals(*tables, rows.take(np.arange(5, DAYS)), groups[5:], [0.8])
    assert with_zeros[0] == pytest.approx(without_closed[0])
    for closed, without in zip(with_zeros[1][0], without_closed[1][0], strict=True):
        assert closed == pytest.approx(without)
    all_closed = ForecastRows(rows.store, rows.day, rows.store_type, np.zeros(DAYS), scale)
    total, ((low, high),) = totals_intervals(*tables, all_closed, groups, [0.8])
    assert (total[0], low[0], high[0]) == (0.0, 0.0, 0.0)


def test_no_rows_give_no_totals(tables: Tables) -> None:
    none = np.zeros(0, np.int64)
    empty: FloatArray = np.zeros(0)
    total, ((low, high),) = totals_intervals(
        *tables, ForecastRows(none, none, none, empty, empty), none, [0.8]
    )
    assert len(total) == len(low) == len(high) == 0


@pytest.mark.parametrize("level", [0.0, 0.49, 0.995, 1.0])
def test_a_level_out_of_range_raises_an_error(
    tables: Tables, others: list[WindowActuals], level: float
) -> None:
    rows = others[0].rows
    with pytest.raises(ValueError, match=r"between \.5 and \.99"):
        totals_intervals(*tables, rows, np.zeros(len(rows.day), np.int64), [level])


def test_fit_to_one_window_of_one_store() -> None:
    actuals, matrix = window(9)
    selected = np.arange(DAYS)
    inputs = IntervalInputs(matrix, actuals.rows.day, actuals.rows.sales)
    intervals = calibrate(inputs, actuals.sold)
    window_actuals = scaled(actuals, matrix, intervals)
    table = fit_totals(
        [WindowActuals(window_actuals.rows.take(selected), window_actuals.sold[selected], ORIGIN)]
    )
    total, ((low, high),) = totals_intervals(
        intervals, table, window_actuals.rows.take(selected), 0 * selected, [0.8]
    )
    assert 0 < low[0] < total[0] < high[0]
    assert sum(table["chain"].values()) == 0
    with pytest.raises(ValueError, match="one window at least"):
        fit_totals([])


def test_blocks_of_groups_give_the_same_sums(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    keys, day = rng.integers(0, 50, 3000), rng.integers(0, 60, 3000)
    weight, kernel = rng.random(3000), {"lasting": 0.1, "days": 0.5, "date": 0.3}
    expected = kernel_quadratic_form(keys, day, weight, kernel)
    monkeypatch.setattr("rossmann.models.calibration.totals_covariance._MAX_CELLS", 100)
    assert kernel_quadratic_form(keys, day, weight, kernel) == pytest.approx(expected)
    pair = kernel_at(kernel, np.abs(np.subtract.outer(day[keys == 3], day[keys == 3])))
    assert expected[3] == pytest.approx(weight[keys == 3] @ pair @ weight[keys == 3])


def test_groups_are_numbered_in_key_order() -> None:
    groups, (store, week) = group_by(np.array([9, 2, 9, 2]), np.array([1, 5, 0, 5]))
    assert groups.tolist() == [2, 0, 1, 0]
    assert (store.tolist(), week.tolist()) == ([2, 9, 9], [5, 0, 1])


@given(
    rows=st.lists(st.tuples(st.integers(1, 9), st.integers(-3, 3)), max_size=30),
    apart=st.sampled_from([1, 10**6, 10**15]),
)
def test_groups_of_keys_close_together_and_far_apart(
    rows: list[tuple[int, int]], apart: int
) -> None:
    keys = [(apart * first, second) for first, second in rows]
    groups, (first, second) = group_by(
        np.array([key[0] for key in keys], np.int64), np.array([key[1] for key in keys], np.int32)
    )
    in_order = sorted(set(keys))
    assert list(zip(first.tolist(), second.tolist(), strict=True)) == in_order
    assert groups.tolist() == [in_order.index(key) for key in keys]


@pytest.mark.parametrize(
    ("share", "degrees", "value"),
    [(0.9, 8, 1.3968), (0.975, 8, 2.3060), (0.995, 8, 3.3554), (0.975, 4, 2.7764)],
)
def test_student_t_quantile_is_close_to_printed_tables(
    share: float, degrees: float, value: float
) -> None:
    assert student_t_quantile(share, degrees) == pytest.approx(value, rel=0.01)


QUANTILES = tuple(np.round(np.arange(0.01, 0.995, 0.01), 2).tolist())


def quantiles_of(
    tables: Tables, rows: ForecastRows, groups: Group, quantiles: Sequence[float]
) -> list[FloatArray]:
    variance = totals_variance(tables[1], rows, groups)
    return [total_quantile(tables, variance, quantile) for quantile in quantiles]


@pytest.mark.parametrize("shift", [0.0, -0.02, 0.3])
def test_quantiles_are_the_bounds_of_intervals_and_grow(
    tables: Tables, others: list[WindowActuals], shift: float
) -> None:
    """To the last bit; ``shift``: of tables of earlier releases."""
    tables = (tables[0], {**tables[1], "shift": shift} if shift else tables[1])
    rows, levels = others[0].rows, LEVELS[:-1]
    pairs = [((1 - level) / 2, (1 + level) / 2) for level in levels]
    for kind in TOTAL_KINDS:
        groups = total_groups(kind, rows, ORIGIN)
        total, bounds = totals_intervals(*tables, rows, groups, levels)
        for pair, interval in zip(pairs, bounds, strict=True):
            for values, bound in zip(
                quantiles_of(tables, rows, groups, pair), interval, strict=True
            ):
                assert (values == bound).all(), (kind, pair)
        values = np.array(quantiles_of(tables, rows, groups, QUANTILES))
        assert (np.diff(values, axis=0) >= 0).all()
        assert (values > 0).all() and np.isfinite(values).all()
        assert (values[QUANTILES.index(0.5)] == total).all()


def test_share_of_stores_below_each_quantile_of_other_windows(
    tables: Tables, others: list[WindowActuals]
) -> None:
    """The sum of days' medians is a little below the median of their sum."""
    below = []
    for actuals in others:
        groups = total_groups("store", actuals.rows, ORIGIN)
        sold = np.bincount(groups, actuals.sold)
        values = quantiles_of(tables, actuals.rows, groups, (0.1, 0.4, 0.6, 0.9))
        below.append([(sold <= value).mean() for value in values])
    assert np.mean(below, axis=0) == pytest.approx([0.1, 0.4, 0.6, 0.9], abs=0.06)


def test_total_of_one_row_has_the_quantiles_of_the_row(tables: Tables) -> None:
    actuals, matrix = window(7)
    actuals = scaled(actuals, matrix, tables[0])
    index = np.arange(0, len(actuals.sold), 97)
    rows = actuals.rows.take(index)
    inputs = IntervalInputs(matrix[index], rows.day, rows.sales)
    of_rows = sales_quantiles(tables[0], inputs, (0.1, 0.45, 0.9))
    of_totals = quantiles_of(tables, rows, np.arange(len(index)), (0.1, 0.45, 0.9))
    for row, values in zip(of_rows, of_totals, strict=True):
        assert values == pytest.approx(row, rel=0.01)


def test_quantiles_of_tables_of_earlier_releases(
    tables: Tables, others: list[WindowActuals]
) -> None:
    """Below level .5 their widths grow evenly from zero."""
    intervals, totals = ({k: v for k, v in t.items() if k != CENTRAL} for t in tables)
    rows = others[0].rows
    groups = total_groups("chain_week", rows, ORIGIN)
    lower, eighth, middle = quantiles_of((intervals, totals), rows, groups, (0.25, 0.375, 0.5))
    assert np.log(eighth / middle) == pytest.approx(np.log(lower / middle) / 2)
    assert (lower == quantiles_of(tables, rows, groups, [0.25])[0]).all()


def test_quantiles_of_closed_days_are_zero_and_of_no_rows_none(tables: Tables) -> None:
    rows = scaled(*window(8), tables[0]).rows.take(np.arange(DAYS))
    closed = replace(rows, sales=np.zeros(DAYS))
    groups = np.zeros(DAYS, np.int64)
    assert all(v.tolist() == [0.0] for v in quantiles_of(tables, closed, groups, QUANTILES))
    none = closed.take(groups[:0])
    assert all(len(v) == 0 for v in quantiles_of(tables, none, groups[:0], QUANTILES))


@pytest.mark.parametrize("quantile", [0.0, 0.009, 0.991, 1.0])
def test_a_quantile_out_of_range_raises_an_error(
    tables: Tables, others: list[WindowActuals], quantile: float
) -> None:
    rows = others[0].rows
    with pytest.raises(ValueError, match=r"between \.01 and \.99"):
        quantiles_of(tables, rows, np.zeros(len(rows.day), np.int64), [quantile])
