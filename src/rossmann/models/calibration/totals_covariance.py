"""Intervals and quantiles of totals: a store's week, a store type, the chain, any sum of rows.

Errors of different rows are correlated: all stores share what a date brings, stores of a type share
a little more, and a store's own error lasts for weeks. Adding bounds up takes the errors as fully
correlated and gives intervals far too wide; taking them as independent gives intervals far too
narrow. So the joint residuals of the backtest windows are modelled by a covariance,

    cov(i, j) = chain(lag) + [same type] type(lag) + [same store] s_i s_j store(lag) + [i is j] rest

with lag = days between the rows, ``s`` the row's scale (``residual_scale``) and each kernel a sum
of decaying exponentials. This gives the variance of a total's log residual; the interval is as many
standard deviations wide as totals of past windows needed. A total of one row has that row's own
interval. Nothing is drawn at random: the same rows always give the same intervals.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from rossmann.models.ensemble.prediction_intervals import (
    central_level,
    conformal_quantile,
    half_width,
    validate_table,
)
from rossmann.schema import FloatArray

Group = npt.NDArray[np.int64]

KERNEL_DECAY_DAYS: Final = {"lasting": np.inf, "weeks": 14.0, "days": 2.0, "date": 0.0}
"""The exponentials of a kernel: name, and the days in which each falls to 1 / e."""
_MAX_CELLS: Final = 2_000_000
"""Largest array of (keys, days) that is made at once."""
_COUNTED_SPAN: Final = 64
"""Integers are counted up to a range of so many times their number, and sorted beyond it."""
_MIN_OWN_SHARE: Final = 0.1
"""Least share of a row's variance that is independent of all other rows."""


@dataclass(frozen=True)
class ForecastRows:
    """Forecast rows that totals are made of: arrays of shape (n,).

    ``store``, ``day`` (since 1970-01-01), ``store_type`` (index), ``sales`` (the forecast, zero on
    closed days), ``scale`` (``residual_scale``, any number on closed days).
    """

    store: npt.NDArray[np.integer]
    day: npt.NDArray[np.integer]
    store_type: npt.NDArray[np.integer]
    sales: FloatArray
    scale: FloatArray

    def take(self, index: npt.NDArray[np.integer]) -> "ForecastRows":
        """The rows at ``index``."""
        return ForecastRows(
            self.store[index], self.day[index], self.store_type[index], self.sales[index],
            self.scale[index],
        )  # fmt: skip


@dataclass(frozen=True)
class TotalsVariance:
    """How uncertain totals are: arrays (groups,).

    ``total``: the forecast; ``deviation``: standard deviation of its log residual; ``one_row`` and
    ``one_store``: 1 where the total is one row's or one store's, near 0 where it is of many.
    """

    total: FloatArray
    deviation: FloatArray
    one_row: FloatArray
    one_store: FloatArray


TotalsTables = tuple[dict[str, Any], dict[str, Any]]
"""A version's interval table and its totals table."""


def totals_intervals(
    interval_table: dict[str, Any],
    totals_table: dict[str, Any],
    rows: ForecastRows,
    groups: Group,
    levels: Sequence[float],
) -> tuple[FloatArray, list[tuple[FloatArray, FloatArray]]]:
    """Totals (g,) of the groups 0 to g - 1, and the lower and upper bound (g,) of each level.

    The tables are the version's own (of ``calibrate`` and ``fit_totals``); ``groups`` (n,) is each
    row's group. Every total lies within its bounds, and a higher level's bounds contain a lower
    one's. A group without sales has bounds of zero.

    Raises ``ValueError`` for a level outside .5 to .99, ``CorruptModelError`` for another release's
    tables.
    """
    validate_table(interval_table)
    variance = totals_variance(totals_table, rows, groups)
    tables = (interval_table, totals_table)
    return variance.total, [total_bounds(tables, variance, level) for level in levels]


def total_bounds(
    tables: TotalsTables, variance: TotalsVariance, level: float
) -> tuple[FloatArray, FloatArray]:
    """Lower and upper bound (g,) of totals; raises ``ValueError`` for a level outside .5 to .99."""
    row = conformal_quantile(tables[0], level)
    store, many = (
        float(np.interp(level, tables[1]["levels"], tables[1][key])) for key in ("store", "many")
    )
    shift, width = _shift_and_width(tables[1], variance, (row, store, many))
    return _below(variance, shift, width), _above(variance, shift, width)


def total_quantile(tables: TotalsTables, variance: TotalsVariance, quantile: float) -> FloatArray:
    """A quantile (g,) of totals, by the symmetric rule of ``scaled_quantile``.

    It grows with ``quantile``. Raises ``ValueError`` outside .01 to .99.
    """
    level, sign = central_level(quantile)
    row = half_width(tables[0], "quantiles", level)
    store, many = (half_width(tables[1], key, level) for key in ("store", "many"))
    shift, width = _shift_and_width(tables[1], variance, (row, store, many))
    if sign == 0.0:
        return variance.total
    return (_below if sign < 0 else _above)(variance, shift, width)


def _shift_and_width(
    totals_table: dict[str, Any], variance: TotalsVariance, widths: tuple[float, float, float]
) -> tuple[FloatArray, FloatArray]:
    """Middle and half width (g,) of totals' log residuals.

    ``widths``: in deviations, of a total of one row, of one store, of many stores.
    """
    row, store, many = widths
    # versions of earlier releases moved the interval by the mean of the windows' residuals
    shift = (1.0 - variance.one_store) * totals_table.get("shift", 0.0)
    row_weight = np.divide(variance.one_row, variance.one_store.clip(1e-12))
    single_store = row_weight * row + (1.0 - row_weight) * store
    width = variance.one_store * single_store + (1.0 - variance.one_store) * many
    return shift, width * variance.deviation


def _below(variance: TotalsVariance, shift: FloatArray, width: FloatArray) -> FloatArray:
    return np.asarray(variance.total * np.exp(np.minimum(shift - width, 0.0)), np.float64)


def _above(variance: TotalsVariance, shift: FloatArray, width: FloatArray) -> FloatArray:
    return np.asarray(variance.total * np.exp(np.maximum(shift + width, 0.0)), np.float64)


def totals_variance(table: dict[str, Any], rows: ForecastRows, groups: Group) -> TotalsVariance:
    """The variance of each group's total, by the table's covariance."""
    count = int(groups.max()) + 1 if len(groups) else 0
    total = sum_by_group(groups, rows.sales, count)
    share = rows.sales / np.maximum(total, 1e-12)[groups]
    with_sales = np.nonzero(share > 0)[0]
    rows, groups, share = rows.take(with_sales), groups[with_sales], share[with_sales]
    by_type, group_of_type = _pairs(groups, rows.store_type)
    by_store, group_of_store = _pairs(groups, rows.store)
    variance = sum_by_group(groups, share**2 * own_variance(table, rows.scale), count)
    tiers = (
        ("chain", groups, np.arange(count), share),
        ("type", by_type, group_of_type, share),
        ("within_store", by_store, group_of_store, share * rows.scale),
    )
    for name, keys, group_of_key, weight in tiers:
        by_key = kernel_quadratic_form(keys, rows.day, weight, table[name])
        variance[:count] += sum_by_group(group_of_key[: len(by_key)], by_key, count)
    store_share = sum_by_group(by_store, share, len(group_of_store))
    return TotalsVariance(
        total=total,
        deviation=np.sqrt(variance),
        one_row=sum_by_group(groups, share**2, count),
        one_store=sum_by_group(group_of_store, store_share**2, count),
    )


def own_variance(table: dict[str, Any], scale: FloatArray) -> FloatArray:
    """The part of each row's variance (n,) that no other row shares."""
    shared = _at_lag_zero(table["chain"]) + _at_lag_zero(table["type"])
    rest = scale**2 * (1.0 - _at_lag_zero(table["within_store"])) - shared
    return np.maximum(rest, _MIN_OWN_SHARE * scale**2)


def kernel_quadratic_form(
    keys: Group, day: npt.NDArray[np.integer], weight: FloatArray, kernel: dict[str, float]
) -> FloatArray:
    """Sum of w_i w_j kernel(|day_i - day_j|) over the pairs of rows of each key, (keys,)."""
    if not len(keys):
        return np.zeros(0)
    count = int(keys.max()) + 1
    first = np.full(count, np.iinfo(np.int64).max)
    np.minimum.at(first, keys, day.astype(np.int64))
    offset = day.astype(np.int64) - first[keys]
    span = int(offset.max()) + 1
    matrix = kernel_at(kernel, np.abs(np.subtract.outer(np.arange(span), np.arange(span))))
    out = np.zeros(count)
    step = max(_MAX_CELLS // span, 1)
    blocks = range(0, count, step)
    if len(blocks) > 1:  # the rows of a block follow each other, in their order
        order = np.argsort(keys, kind="stable")
        keys, offset, weight = keys[order], offset[order], weight[order]
    for start in blocks:
        stop = min(start + step, count)
        rows = slice(*np.searchsorted(keys, [start, stop])) if len(blocks) > 1 else slice(None)
        cell = (keys[rows] - start) * span + offset[rows]
        by_day = sum_by_group(cell, weight[rows], (stop - start) * span).reshape(-1, span)
        out[start:stop] = ((by_day @ matrix) * by_day).sum(axis=1)
    return out


def kernel_at(kernel: dict[str, float], lag: npt.NDArray[np.integer]) -> FloatArray:
    """The kernel's covariance at each lag in days."""
    out = np.zeros(lag.shape)
    for name, height in kernel.items():
        out += height * exponential_decay(KERNEL_DECAY_DAYS[name], lag)
    return out


def exponential_decay(days: float, lag: npt.NDArray[np.integer]) -> FloatArray:
    """exp(-lag / days); for ``days`` 0 the limit: 1 at lag 0, else 0."""
    if days == 0:
        return np.asarray(lag == 0, np.float64)
    return np.exp(-lag / days)


def sum_by_group(groups: Group, values: FloatArray, count: int) -> FloatArray:
    """The sum of ``values`` (n,) in each group 0 to ``count`` - 1."""
    return np.asarray(np.bincount(groups, values, count), np.float64)


def group_by(*keys: npt.NDArray[np.integer]) -> tuple[Group, list[Group]]:
    """Groups (n,) of rows with the same keys, and the keys of each group, (g,) each.

    Groups are numbered in the order of their keys. Raises ``ValueError`` without keys.
    """
    if not keys:
        raise ValueError("name a key to group by")
    code = np.zeros(len(keys[0]), np.int64)
    for key in keys:
        index, values = _factorize(key)
        code = code * values + index
    groups, count = _factorize(code)
    first = np.empty(count, np.int64)
    first[groups[::-1]] = np.arange(len(groups))[::-1]  # the last one written is the first row
    return groups, [key[first].astype(np.int64) for key in keys]


def _factorize(key: npt.NDArray[np.integer]) -> tuple[Group, int]:
    """The index (n,) of each value among the sorted distinct values, and how many they are.

    Values that lie close together are counted: sorting takes five times as long.
    """
    if not len(key):
        return np.zeros(0, np.int64), 0
    low = int(key.min())
    if int(key.max()) - low > _COUNTED_SPAN * len(key):
        values, index = np.unique(key, return_inverse=True)
        return index.reshape(-1).astype(np.int64), len(values)
    offset = key.astype(np.int64) - low
    place = np.cumsum(np.bincount(offset) > 0)
    return place[offset] - 1, int(place[-1])


def _pairs(groups: Group, other: npt.NDArray[np.integer]) -> tuple[Group, Group]:
    """Keys (n,) of the pairs of a group and a value of ``other``, and each key's group, (keys,)."""
    keys, (group_of_key, _) = group_by(groups, other)
    return keys, group_of_key


def _at_lag_zero(kernel: dict[str, float]) -> float:
    return float(sum(kernel.values()))
