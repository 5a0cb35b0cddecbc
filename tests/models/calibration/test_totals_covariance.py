"""Bands of totals: honest where misses go together, and the row's own band for one row."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from rossmann.models.calibration.totals_covariance import (
    ForecastRows,
    group_by,
    kernel_at,
    kernel_quadratic_form,
    totals_intervals,
    totals_variance,
)
from rossmann.models.calibration.totals_fit import (
    TOTAL_KINDS,
    WindowActuals,
    fit_totals,
    measure_totals,
    student,
    total_groups,
)
from rossmann.models.ensemble.prediction_intervals import (
    LEVELS,
    calibrate,
    interval_bounds,
    residual_scale,
)
from rossmann.schema import FEATURES, FeatureMatrix, FloatArray

STORES, DAYS, ORIGIN = 120, 42, 16_000
Tables = tuple[dict[str, Any], dict[str, Any]]


def matrix_of(count: int, seed: int = 0) -> FeatureMatrix:
    """Rows of old stores with a schedule, of differing volatility."""
    matrix = np.zeros((count, len(FEATURES)), np.float32)
    matrix[:, FEATURES.index("open_days_365")] = 300
    matrix[:, FEATURES.index("days_since_long_closure")] = 200
    sd = np.random.default_rng(seed).uniform(0.1, 0.2, STORES)
    matrix[:, FEATURES.index("sd_same_364")] = np.repeat(sd, count // STORES)
    return matrix


def window(
    seed: int, chain: float = 0.04, store: float = 0.03
) -> tuple[WindowActuals, FeatureMatrix]:
    """A window of known joint misses: a shock for each date, a shift for each store, and noise."""
    rng = np.random.default_rng(seed)
    at = np.repeat(np.arange(STORES), DAYS)
    day = np.tile(np.arange(DAYS), STORES)
    sales = rng.uniform(2000, 9000, STORES)[at] * rng.uniform(0.8, 1.2, len(at))
    miss = rng.normal(0, chain, DAYS)[day] + rng.normal(0, store, STORES)[at]
    sold = sales * np.exp(miss + rng.normal(0, 0.07, len(at)))
    matrix = matrix_of(len(at))
    lines = ForecastRows(at + 1, ORIGIN + 1 + day, at % 3, sales, np.ones(len(at)))
    return WindowActuals(lines, sold, ORIGIN), matrix


def learned(
    seeds: range, chain: float = 0.04, store: float = 0.03
) -> tuple[Tables, list[WindowActuals]]:
    made = [window(seed, chain, store) for seed in seeds]
    intervals = calibrate(
        np.concatenate([m for _, m in made]),
        np.concatenate([p.sold for p, _ in made]),
        np.concatenate([p.lines.sales for p, _ in made]),
    )
    windows = [scaled(past, matrix, intervals) for past, matrix in made]
    return (intervals, fit_totals(windows)), windows


def scaled(past: WindowActuals, matrix: FeatureMatrix, intervals: dict[str, Any]) -> WindowActuals:
    old = past.lines
    lines = ForecastRows(old.store, old.day, old.kind, old.sales, residual_scale(intervals, matrix))
    return WindowActuals(lines, past.sold, past.origin)


@pytest.fixture(scope="module")
def tables() -> Tables:
    return learned(range(1, 7))[0]


@pytest.fixture(scope="module")
def others(tables: Tables) -> list[WindowActuals]:
    """Windows that the tables were not learned from."""
    return [scaled(*window(seed), tables[0]) for seed in range(100, 140)]


def test_totals_of_other_windows_lie_in_their_bands_as_often_as_promised(
    tables: Tables, others: list[WindowActuals]
) -> None:
    found = measure_totals(others, [tables] * len(others), (0.8, 0.95))
    assert found["windows"] == len(others)
    assert set(found["kinds"]) == set(TOTAL_KINDS)
    for kind in ("store_week", "store"):
        levels = found["kinds"][kind]["levels"]
        assert levels["0.80"]["coverage"] == pytest.approx(0.8, abs=0.03)
        assert levels["0.95"]["coverage"] == pytest.approx(0.95, abs=0.02)
    for kind in ("chain_day", "chain_week", "type_week"):  # of few windows: rather too wide
        levels = found["kinds"][kind]["levels"]
        assert 0.77 < levels["0.80"]["coverage"] < 0.93
        assert levels["0.95"]["coverage"] > 0.93


def test_bands_are_wider_than_of_independent_rows_and_narrower_than_added_bounds(
    tables: Tables, others: list[WindowActuals]
) -> None:
    found = measure_totals(others[:3], [tables] * 3, (0.8,))
    for kind in TOTAL_KINDS:
        one = found["kinds"][kind]["levels"]["0.80"]
        assert 1.05 * one["independent"] < one["width"] < 0.95 * one["added"], kind


def test_what_stores_share_is_found_again() -> None:
    (_, table), _ = learned(range(1, 9))
    assert sum(table["chain"].values()) == pytest.approx(0.04**2, rel=0.25)
    assert sum(table["type"].values()) < 0.2 * 0.04**2
    assert table["chain"]["date"] > 0.7 * sum(table["chain"].values())
    # the store's shift lasts: it is there at a lag of four weeks as at one of a day
    late = kernel_at(table["within_store"], np.array([1, 28]))
    assert late[1] == pytest.approx(late[0], rel=0.5)


def test_independent_misses_give_bands_of_independent_rows() -> None:
    (intervals, table), windows = learned(range(1, 5), chain=0.0, store=0.0)
    lines = windows[0].lines
    found = totals_variance(table, lines, total_groups("store", lines, ORIGIN))
    alone = np.sqrt(np.bincount(lines.store - 1, (lines.sales * lines.scale) ** 2)) / found.total
    assert found.deviation == pytest.approx(alone, rel=0.15)
    _, ((low, high),) = totals_intervals(
        intervals, table, lines, np.zeros(len(lines.day), np.int64), [0.8]
    )
    assert (high / low - 1).max() < 0.02


def test_the_total_of_one_row_has_the_row_s_band(tables: Tables) -> None:
    past, matrix = window(7)
    past = scaled(past, matrix, tables[0])
    some = np.arange(0, len(past.sold), 97)
    lines = past.lines.take(some)
    of_rows = interval_bounds(tables[0], matrix[some], lines.sales, [0.8, 0.95])
    total, of_totals = totals_intervals(*tables, lines, np.arange(len(some)), [0.8, 0.95])
    assert total == pytest.approx(lines.sales)
    for row, one in zip(of_rows, of_totals, strict=True):
        assert one[0] == pytest.approx(row[0], rel=0.01)
        assert one[1] == pytest.approx(row[1], rel=0.01)


def test_bands_nest_and_hold_the_total(tables: Tables, others: list[WindowActuals]) -> None:
    lines = others[0].lines
    for kind in TOTAL_KINDS:
        total, found = totals_intervals(*tables, lines, total_groups(kind, lines, ORIGIN), LEVELS)
        for (low, high), (lower, higher) in pairwise(found):
            assert (lower <= low).all()
            assert (high <= higher).all()
            assert (low <= total).all()
            assert (total <= high).all()
            assert (lower >= 0).all()


def test_a_group_s_band_knows_nothing_of_other_groups_or_of_the_order(
    tables: Tables, others: list[WindowActuals]
) -> None:
    lines = others[0].lines
    groups = total_groups("store_week", lines, ORIGIN)
    total, ((low, high),) = totals_intervals(*tables, lines, groups, [0.9])
    mixed = np.random.default_rng(5).permutation(len(groups))
    again, ((low2, high2),) = totals_intervals(*tables, lines.take(mixed), groups[mixed], [0.9])
    assert again == pytest.approx(total)
    assert low2 == pytest.approx(low)
    assert high2 == pytest.approx(high)
    mine = np.nonzero(groups == 11)[0]
    alone, ((low3, high3),) = totals_intervals(
        *tables, lines.take(mine), np.zeros(len(mine), np.int64), [0.9]
    )
    assert (alone[0], low3[0], high3[0]) == pytest.approx((total[11], low[11], high[11]))


def test_closed_days_add_nothing(tables: Tables) -> None:
    """Neither sales nor doubt, whatever scale such a row has; all closed is zero for certain."""
    past, matrix = window(8)
    lines = scaled(past, matrix, tables[0]).lines.take(np.arange(DAYS))
    shut = np.zeros(DAYS)
    shut[5:] = lines.sales[5:]
    scale = np.where(shut > 0, lines.scale, np.nan)
    with_closed = ForecastRows(lines.store, lines.day, lines.kind, shut, scale)
    groups = np.zeros(DAYS, np.int64)
    one = totals_intervals(*tables, with_closed, groups, [0.8])
    two = totals_intervals(*tables, lines.take(np.arange(5, DAYS)), groups[5:], [0.8])
    assert one[0] == pytest.approx(two[0])
    for closed, without in zip(one[1][0], two[1][0], strict=True):
        assert closed == pytest.approx(without)
    nothing = ForecastRows(lines.store, lines.day, lines.kind, np.zeros(DAYS), scale)
    total, ((low, high),) = totals_intervals(*tables, nothing, groups, [0.8])
    assert (total[0], low[0], high[0]) == (0.0, 0.0, 0.0)


def test_no_rows_have_no_totals(tables: Tables) -> None:
    none = np.zeros(0, np.int64)
    empty: FloatArray = np.zeros(0)
    total, ((low, high),) = totals_intervals(
        *tables, ForecastRows(none, none, none, empty, empty), none, [0.8]
    )
    assert len(total) == len(low) == len(high) == 0


@pytest.mark.parametrize("level", [0.0, 0.49, 0.995, 1.0])
def test_a_level_out_of_reach_is_refused(
    tables: Tables, others: list[WindowActuals], level: float
) -> None:
    lines = others[0].lines
    with pytest.raises(ValueError, match=r"between \.5 and \.99"):
        totals_intervals(*tables, lines, np.zeros(len(lines.day), np.int64), [level])


def test_one_window_of_one_type_of_one_store_is_learned_from_too() -> None:
    past, matrix = window(9)
    mine = np.arange(DAYS)
    intervals = calibrate(matrix, past.sold, past.lines.sales)
    one = scaled(past, matrix, intervals)
    table = fit_totals([WindowActuals(one.lines.take(mine), one.sold[mine], ORIGIN)])
    total, ((low, high),) = totals_intervals(
        intervals, table, one.lines.take(mine), 0 * mine, [0.8]
    )
    assert 0 < low[0] < total[0] < high[0]
    assert sum(table["chain"].values()) == 0
    with pytest.raises(ValueError, match="one window at least"):
        fit_totals([])


def test_many_groups_are_summed_in_parts_as_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    keys, day = rng.integers(0, 50, 3000), rng.integers(0, 60, 3000)
    weight, kernel = rng.random(3000), {"lasting": 0.1, "days": 0.5, "date": 0.3}
    whole = kernel_quadratic_form(keys, day, weight, kernel)
    monkeypatch.setattr("rossmann.models.calibration.totals_covariance._CELLS", 100)
    assert kernel_quadratic_form(keys, day, weight, kernel) == pytest.approx(whole)
    pair = kernel_at(kernel, np.abs(np.subtract.outer(day[keys == 3], day[keys == 3])))
    assert whole[3] == pytest.approx(weight[keys == 3] @ pair @ weight[keys == 3])


def test_groups_are_numbered_in_the_order_of_their_keys() -> None:
    groups, (store, week) = group_by(np.array([9, 2, 9, 2]), np.array([1, 5, 0, 5]))
    assert groups.tolist() == [2, 0, 1, 0]
    assert (store.tolist(), week.tolist()) == ([2, 9, 9], [5, 0, 1])


@pytest.mark.parametrize(
    ("share", "degrees", "value"),
    [(0.9, 8, 1.3968), (0.975, 8, 2.3060), (0.995, 8, 3.3554), (0.975, 4, 2.7764)],
)
def test_student_s_quantiles(share: float, degrees: float, value: float) -> None:
    """Against printed tables."""
    assert student(share, degrees) == pytest.approx(value, rel=0.01)
