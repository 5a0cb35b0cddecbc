"""Paired test of two forecasts of the same rows: is the first better by more than luck?

The measure is the WAPE, the sum of absolute errors over the sum of sales: one strange row cannot
decide, as it can in a sum of squared percentage errors. Errors of rows are not independent: those
of a store share its level, those of a date or a week what happened to the chain, and those of a
backtest window the origin and the fit. So the standard error of the difference is made of sums over
stores and weeks (two-way clusters: Cameron, Gelbach and Miller, *Robust Inference with Multiway
Clustering*, 2011) and, separately, over windows; the larger p-value of the two counts. Each is of
Student's t, with one degree of freedom less than there are weeks, or windows.

``benchmarks/paired_test.py`` simulates how often it errs.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from rossmann.models.evaluation.metrics import rmspe
from rossmann.schema import FloatArray

_WEEK = 7


class PairedRows(NamedTuple):
    """Rows (n,) with sales above 0, each forecast twice.

    ``window``: the number of the backtest window, or 0 where there is none; ``day``: since
    1970-01-01.
    """

    window: npt.NDArray[np.integer]
    store: npt.NDArray[np.integer]
    day: npt.NDArray[np.integer]
    sold: FloatArray
    first: FloatArray
    second: FloatArray


@dataclass(frozen=True)
class PairedTest:
    """Errors of both forecasts, and how sure it is that the first one's WAPE is lower.

    ``improvement``: share by which the first's WAPE is lower than the second's, negative where it
    is higher; ``standard_error``: of that; ``p_value``: one-sided, of no improvement, NaN where a
    forecast is no number, and 1 where there are too few weeks to tell.
    """

    first_wape: float
    second_wape: float
    first_rmspe: float
    second_rmspe: float
    improvement: float
    standard_error: float
    p_value: float
    share_of_stores_better: float
    stores: int
    weeks: int
    windows: int


def paired_test(rows: PairedRows) -> PairedTest:
    """Test whether the first forecast is better; raises ``ValueError`` where there is no row."""
    if not len(rows.sold):
        raise ValueError("there is no row to compare on")
    first, second = np.abs(rows.first - rows.sold), np.abs(rows.second - rows.sold)
    ratio = first.sum() / second.sum() if second.sum() else np.nan
    store, week, window = _clusters(rows)
    with np.errstate(invalid="ignore"):  # forecasts that are no numbers
        influence = (ratio * second - first) / second.sum()
    errors = _standard_errors(influence, store, week, window)
    p_values = [_p_value(1.0 - ratio, error, clusters - 1) for error, clusters in errors]
    sales = rows.sold.sum()
    return PairedTest(
        first_wape=float(first.sum() / sales),
        second_wape=float(second.sum() / sales),
        first_rmspe=rmspe(rows.sold, rows.first),
        second_rmspe=rmspe(rows.sold, rows.second),
        improvement=float(1.0 - ratio),
        standard_error=max(error for error, _ in errors),
        p_value=max(p_values) if np.isfinite(ratio) else float("nan"),
        share_of_stores_better=float(np.mean(np.bincount(store, first - second) < 0)),
        stores=int(store.max()) + 1,
        weeks=int(week.max()) + 1,
        windows=int(window.max()) + 1,
    )


def _clusters(rows: PairedRows) -> list[npt.NDArray[np.int64]]:
    """Numbers of each row's store, week and window, from 0."""
    keys = (rows.store, rows.window * 100_000 + rows.day // _WEEK, rows.window)
    return [np.unique(key.astype(np.int64), return_inverse=True)[1].reshape(-1) for key in keys]


def _standard_errors(
    influence: FloatArray,
    store: npt.NDArray[np.int64],
    week: npt.NDArray[np.int64],
    window: npt.NDArray[np.int64],
) -> list[tuple[float, int]]:
    """Standard errors by stores and weeks, and by windows where there are several.

    ``influence``: each row's part of the improvement (n,), which sums to 0. Each with its number of
    clusters in time.
    """
    pair = np.unique(week * (store.max() + 1) + store, return_inverse=True)[1].reshape(-1)
    weeks = int(week.max()) + 1
    by_week = _sum_of_squares(week, influence) * weeks / max(weeks - 1, 1)
    by_store = _sum_of_squares(store, influence)
    both = by_week + by_store - _sum_of_squares(pair, influence)
    found = [(float(np.sqrt(max(both, by_week, by_store))), weeks)]
    windows = int(window.max()) + 1
    if windows > 1:
        by_window = _sum_of_squares(window, influence) * windows / (windows - 1)
        found.append((float(np.sqrt(by_window)), windows))
    return found


def _sum_of_squares(cluster: npt.NDArray[np.int64], values: FloatArray) -> float:
    return float((np.bincount(cluster, values) ** 2).sum())


def _p_value(improvement: float, standard_error: float, freedom: int) -> float:
    from scipy.special import stdtr

    if freedom < 1:
        return 1.0
    if standard_error <= 0:
        return 0.0 if improvement > 0 else 1.0
    return float(stdtr(freedom, -improvement / standard_error))
