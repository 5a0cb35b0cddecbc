"""Paired test of two forecasts of the same rows: is the first better by more than luck?

The measure is the WAPE, the sum of absolute errors over the sum of sales: one strange row cannot
decide, as it can in a sum of squared percentage errors. Errors of rows are not independent: those
of a store share its level, those of a date or a week what happened to the chain, and those of a
backtest window the origin and the fit. So the standard error of the difference is made of sums over
stores and weeks (``clustered_errors``) and, separately, over windows; the larger p-value of the two
counts. Each is of Student's t, with one degree of freedom less than there are weeks, or windows.

``benchmarks/paired_test.py`` simulates how often it errs.
"""

from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from rossmann.models.evaluation.clustered_errors import (
    error_by_stores_and_weeks,
    error_by_windows,
    find_clusters,
    student_t_cdf,
)
from rossmann.models.evaluation.metrics import capped_rmspe, rmspe
from rossmann.schema import FloatArray

_FEW_WEEKS: Final = 4


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
    first_capped_rmspe: float
    second_capped_rmspe: float
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
    first, second = _absolute_errors(rows)
    ratio = first.sum() / second.sum() if second.sum() else np.nan
    clusters = find_clusters(rows.store, rows.day, rows.window)
    influence = _influence(first, second)
    windows = int(clusters.window.max()) + 1
    errors = [(error_by_stores_and_weeks(influence, clusters), clusters.weeks)]
    if windows > 1:
        errors.append((error_by_windows(influence, clusters), windows))
    p_values = [_p_value(1.0 - ratio, error, count - 1) for error, count in errors]
    sales = rows.sold.sum()
    return PairedTest(
        first_wape=float(first.sum() / sales),
        second_wape=float(second.sum() / sales),
        first_rmspe=rmspe(rows.sold, rows.first),
        second_rmspe=rmspe(rows.sold, rows.second),
        first_capped_rmspe=capped_rmspe(rows.sold, rows.first),
        second_capped_rmspe=capped_rmspe(rows.sold, rows.second),
        improvement=float(1.0 - ratio),
        standard_error=max(error for error, _ in errors),
        p_value=max(p_values) if np.isfinite(ratio) else float("nan"),
        share_of_stores_better=float(np.mean(np.bincount(clusters.store, first - second) < 0)),
        stores=int(clusters.store.max()) + 1,
        weeks=clusters.weeks,
        windows=windows,
    )


def no_worse_p_value(rows: PairedRows, margin: float) -> float:
    """One-sided p-value of the first WAPE being higher than the second by ``margin`` or more.

    An equivalence test in one direction (non-inferiority): a small value says that the first is no
    worse, up to the margin, a share of the second's WAPE. Clusters in time are weeks, or dates
    where there are fewer than ``_FEW_WEEKS`` weeks. Raises ``ValueError`` without rows.
    """
    test = paired_test(rows)
    if not np.isfinite(test.improvement):
        return float("nan")
    if test.weeks >= _FEW_WEEKS:
        return _p_value(test.improvement + margin, test.standard_error, test.weeks - 1)
    dates = find_clusters(rows.store, rows.day, days=1)
    error = error_by_stores_and_weeks(_influence(*_absolute_errors(rows)), dates)
    return _p_value(test.improvement + margin, error, dates.weeks - 1)


def _absolute_errors(rows: PairedRows) -> tuple[FloatArray, FloatArray]:
    """Of the first and of the second forecast, (n,) each."""
    return np.abs(rows.first - rows.sold), np.abs(rows.second - rows.sold)


def _influence(first: FloatArray, second: FloatArray) -> FloatArray:
    """Each row's part of the improvement (n,), which sums to 0; from absolute errors."""
    with np.errstate(invalid="ignore"):  # forecasts that are no numbers
        return np.asarray((first.sum() / second.sum() * second - first) / second.sum())


def _p_value(improvement: float, standard_error: float, freedom: int) -> float:
    if freedom < 1:
        return 1.0
    if standard_error <= 0:
        return 0.0 if improvement > 0 else 1.0
    return student_t_cdf(-improvement / standard_error, freedom)
