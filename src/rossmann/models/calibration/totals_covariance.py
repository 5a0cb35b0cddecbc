"""Bands of totals: a store's week, a store type, the chain, or any other sum of rows.

Misses of different rows go together: all stores share what a date brings, stores of a type share
a little more, and a store's own misses last for weeks. Adding bounds up takes all misses as one
and gives bands far too wide; taking them as independent gives bands far too narrow. So the joint
residuals of the backtest windows are summed up in a covariance,

    cov(i, j) = chain(lag) + [same type] type(lag) + [same store] s_i s_j store(lag) + [i is j] rest

with lag = days between the rows, ``s`` the row's scale (``intervals.row_scale``) and each kernel a
sum of falling exponentials. A total's log residual then has a variance of its own, and its band
is that many standard deviations wide as totals of past windows needed. One row alone gets its
row's own band. Nothing is drawn at random: the same rows always give the same bands.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from rossmann.models.ensemble.prediction_intervals import conformal_quantile, validate_table
from rossmann.schema import FloatArray

Group = npt.NDArray[np.int64]

DECAY_DAYS: Final = {"lasting": np.inf, "weeks": 14.0, "days": 2.0, "date": 0.0}
"""What kernels are sums of: name, and the days after which e times less of it is left."""
_CELLS: Final = 2_000_000
"""Largest table of paths that is made at once."""
_LEAST_OWN: Final = 0.1
"""Share of a row's variance, at least, that no other row knows of."""


@dataclass(frozen=True)
class ForecastRows:
    """Forecast rows that totals are made of: arrays of shape (n,).

    ``store``, ``day`` (since 1970-01-01), ``kind`` (store type, a small number), ``sales`` (the
    forecast, zero on closed days), ``scale`` (``intervals.row_scale``, any number on closed days).
    """

    store: npt.NDArray[np.integer]
    day: npt.NDArray[np.integer]
    kind: npt.NDArray[np.integer]
    sales: FloatArray
    scale: FloatArray

    def take(self, index: npt.NDArray[np.integer]) -> "ForecastRows":
        """The lines at ``index``."""
        return ForecastRows(
            self.store[index], self.day[index], self.kind[index], self.sales[index],
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


def totals_intervals(
    intervals: dict[str, Any],
    table: dict[str, Any],
    lines: ForecastRows,
    groups: Group,
    levels: Sequence[float],
) -> tuple[FloatArray, list[tuple[FloatArray, FloatArray]]]:
    """Totals (g,) of the groups 0 to g - 1, and the lower and upper bound (g,) of each level.

    ``intervals`` and ``table`` are the version's own (``calibrate`` and ``learn_totals``);
    ``groups`` (n,) is each line's group. Every total lies within its bounds, and a higher level's
    bounds hold a lower one's. A group without sales has bounds of zero.

    Raises ``ValueError`` for a level outside .5 to .99, ``DamagedModel`` for another release's
    tables.
    """
    validate_table(intervals)
    found = totals_variance(table, lines, groups)
    shift = (1.0 - found.one_store) * table["shift"]
    out = []
    for level in levels:
        row = conformal_quantile(intervals, level)
        store, many = (np.interp(level, table["levels"], table[k]) for k in ("store", "many"))
        among_rows = np.divide(found.one_row, found.one_store.clip(1e-12))
        one = among_rows * row + (1.0 - among_rows) * store
        reach = found.one_store * one + (1.0 - found.one_store) * many
        width = reach * found.deviation
        lower = found.total * np.exp(np.minimum(shift - width, 0.0))
        upper = found.total * np.exp(np.maximum(shift + width, 0.0))
        out.append((lower, upper))
    return found.total, out


def totals_variance(table: dict[str, Any], lines: ForecastRows, groups: Group) -> TotalsVariance:
    """The variance of each group's total, by the table's covariance."""
    count = int(groups.max()) + 1 if len(groups) else 0
    total = sum_by(groups, lines.sales, count)
    share = lines.sales / np.maximum(total, 1e-12)[groups]
    heard = np.nonzero(share > 0)[0]
    lines, groups, share = lines.take(heard), groups[heard], share[heard]
    weighted = share * lines.scale
    by_type, of_type = _pairs(groups, lines.kind)
    by_store, of_store = _pairs(groups, lines.store)
    variance = sum_by(groups, share**2 * own_variance(table, lines.scale), count)
    tiers = (
        ("chain", groups, np.arange(count), share),
        ("type", by_type, of_type, share),
        ("within_store", by_store, of_store, weighted),
    )
    for name, keys, of_group, weight in tiers:
        found = kernel_quadratic_form(keys, lines.day, weight, table[name])
        variance[:count] += sum_by(of_group[: len(found)], found, count)
    shares = sum_by(by_store, share, len(of_store))
    return TotalsVariance(
        total=total,
        deviation=np.sqrt(variance),
        one_row=sum_by(groups, share**2, count),
        one_store=sum_by(of_store, shares**2, count),
    )


def own_variance(table: dict[str, Any], scale: FloatArray) -> FloatArray:
    """The part of each row's variance (n,) that no other row shares."""
    shared = _at_zero(table["chain"]) + _at_zero(table["type"])
    rest = scale**2 * (1.0 - _at_zero(table["within_store"])) - shared
    return np.maximum(rest, _LEAST_OWN * scale**2)


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
    order = np.argsort(keys, kind="stable")
    step = max(_CELLS // span, 1)
    for start in range(0, count, step):
        stop = min(start + step, count)
        low, high = np.searchsorted(keys[order], [start, stop])
        mine = order[low:high]
        cell = (keys[mine] - start) * span + offset[mine]
        paths = sum_by(cell, weight[mine], (stop - start) * span).reshape(-1, span)
        out[start:stop] = ((paths @ matrix) * paths).sum(axis=1)
    return out


def kernel_at(kernel: dict[str, float], lag: npt.NDArray[np.integer]) -> FloatArray:
    """The kernel's covariance at each lag in days."""
    out = np.zeros(lag.shape)
    for name, height in kernel.items():
        out += height * exponential_decay(DECAY_DAYS[name], lag)
    return out


def exponential_decay(days: float, lag: npt.NDArray[np.integer]) -> FloatArray:
    """What is left of a miss after ``lag`` days: 1 at 0, e times less after each ``days``."""
    if days == 0:
        return np.asarray(lag == 0, np.float64)
    return np.exp(-lag / days)


def sum_by(groups: Group, values: FloatArray, count: int) -> FloatArray:
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
        known, place = np.unique(key, return_inverse=True)
        code = code * len(known) + place.reshape(-1)
    _, first, groups = np.unique(code, return_index=True, return_inverse=True)
    return groups.reshape(-1).astype(np.int64), [key[first].astype(np.int64) for key in keys]


def _pairs(groups: Group, other: npt.NDArray[np.integer]) -> tuple[Group, Group]:
    """Keys (n,) of pairs of a group and something else, and each key's group, (keys,)."""
    keys, (of_group, _) = group_by(groups, other)
    return keys, of_group


def _at_zero(kernel: dict[str, float]) -> float:
    return float(sum(kernel.values()))
