"""Standard errors of metrics whose rows share errors: by stores and weeks, two-way clusters.

A store's rows share its level, a date's or a week's what happened to the chain. The variance of a
sum is that of its sums by week plus that by store, less that of their pairs (Cameron, Gelbach and
Miller, *Robust Inference with Multiway Clustering*, 2011), and never less than either.
"""

import math
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from rossmann.schema import FloatArray

_WEEK: Final = 7


class Clusters(NamedTuple):
    """Numbers of each row's store, week and backtest window, from 0: (n,) each."""

    store: npt.NDArray[np.int64]
    week: npt.NDArray[np.int64]
    window: npt.NDArray[np.int64]

    @property
    def weeks(self) -> int:
        """How many weeks have rows."""
        return int(self.week.max()) + 1 if len(self.week) else 0


class Estimate(NamedTuple):
    """A figure and its standard error."""

    value: float
    error: float


def find_clusters(
    store: npt.NDArray[np.integer],
    day: npt.NDArray[np.integer],
    window: npt.NDArray[np.integer] | None = None,
    days: int = _WEEK,
) -> Clusters:
    """The clusters of rows (n,); weeks of different windows are different ones.

    ``days``: of a cluster in time, where it is not a week.
    """
    window = np.zeros(len(store), np.int64) if window is None else window
    keys = (store, window.astype(np.int64) * 100_000 + day.astype(np.int64) // days, window)
    return Clusters(
        *(np.unique(key.astype(np.int64), return_inverse=True)[1].reshape(-1) for key in keys)
    )


def student_t_cdf(value: float, degrees: int) -> float:
    """Student's t distribution function, exact in the tails too.

    By way of the regularized incomplete beta function of the smaller of its two arguments, as the
    other is rounded to 1. Not SciPy's: a service without the training libraries does not hold it.
    """
    import mpmath

    if math.isnan(value):
        return value
    squared = value * value
    if squared > degrees:
        share = degrees / (degrees + squared)
        tail = mpmath.betainc(degrees / 2, 0.5, 0, share, regularized=True) / 2
    else:
        share = squared / (degrees + squared)
        tail = (1 - mpmath.betainc(0.5, degrees / 2, 0, share, regularized=True)) / 2
    return float(tail if value <= 0 else 1 - tail)


def error_by_stores_and_weeks(influence: FloatArray, clusters: Clusters) -> float:
    """Standard error of a figure; ``influence``: each row's part of it (n,), which sums to 0."""
    store, week = clusters.store, clusters.week
    pair = np.unique(week * (store.max() + 1) + store, return_inverse=True)[1].reshape(-1)
    by_week = _sum_of_squares(week, influence) * clusters.weeks / max(clusters.weeks - 1, 1)
    by_store = _sum_of_squares(store, influence)
    both = by_week + by_store - _sum_of_squares(pair, influence)
    return float(np.sqrt(max(both, by_week, by_store)))


def error_by_windows(influence: FloatArray, clusters: Clusters) -> float:
    """The same by backtest windows, of which there are at least two."""
    windows = int(clusters.window.max()) + 1
    return float(np.sqrt(_sum_of_squares(clusters.window, influence) * windows / (windows - 1)))


def wape_estimate(sold: FloatArray, forecast: FloatArray, clusters: Clusters) -> Estimate:
    """The WAPE of rows (n,) with its standard error; NaN without sales."""
    return _ratio(np.abs(forecast - sold), sold, clusters)


def bias_estimate(sold: FloatArray, forecast: FloatArray, clusters: Clusters) -> Estimate:
    """The bias of the rows' total with its standard error; NaN without sales."""
    return _ratio(forecast - sold, sold, clusters)


def rmspe_estimate(sold: FloatArray, forecast: FloatArray, clusters: Clusters) -> Estimate:
    """The RMSPE of rows (n,) with sales above 0, with its standard error."""
    squared = _ratio((forecast / sold - 1.0) ** 2, np.ones(len(sold)), clusters)
    root = float(np.sqrt(squared.value))
    return Estimate(root, squared.error / (2.0 * root) if root else 0.0)


def _ratio(numerator: FloatArray, denominator: FloatArray, clusters: Clusters) -> Estimate:
    total = float(denominator.sum())
    if not total:
        return Estimate(float("nan"), float("nan"))
    ratio = float(numerator.sum()) / total
    influence = (numerator - ratio * denominator) / total
    return Estimate(ratio, error_by_stores_and_weeks(influence, clusters))


def _sum_of_squares(cluster: npt.NDArray[np.int64], values: FloatArray) -> float:
    return float((np.bincount(cluster, values) ** 2).sum())
