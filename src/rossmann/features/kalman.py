"""Kalman filters of log sales: the state of each store and day, and the chain's errors.

Innovations are clipped at three standard deviations once a store has some days with sales: without
that, a few unusual days (a shop being refitted, a strike) would shift the level (measured on the
real tables).
"""

from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from rossmann.features.calendars import HARMONICS, RAMP
from rossmann.features.state_space import (
    CHAIN_COLUMNS,
    CHAIN_SMOOTH,
    DECEMBER,
    ERROR_HORIZON,
    KFB,
    LEVEL,
    N_BASE,
    N_MASK,
    States,
    fill_prior_mean,
    predict_state,
)
from rossmann.numba_kernel import cached_njit
from rossmann.schema import FloatArray

OBSERVATION_VARIANCE: Final = 0.011
CLIP_SD: Final = 3.0
CLIP_AFTER: Final = 15
CHAIN_DAYS: Final = 90
_LEADS: Final = ERROR_HORIZON + 2 * CHAIN_SMOOTH


class FilterInputs(NamedTuple):
    """What the filters read of n stores."""

    log_sales: npt.NDArray[np.float32]  # (n, days), NaN on days without sales
    masks: npt.NDArray[np.uint32]  # (n, plan days) state_space.fill_masks
    terms: FloatArray  # (plan days, 8) calendars.date_regressors


class StorePriors(NamedTuple):
    """Where the filters of n stores start that joined the chain later."""

    first_day: npt.NDArray[np.int64]  # (n,) first day with sales
    kind: npt.NDArray[np.int64]  # (n,) row of ``mean``
    mean: FloatArray  # (days, kinds, N_STATES) cold_start.fill_prior_means
    covariance: FloatArray  # (n, size, size) cold_start.prior_covariance; overwritten


@cached_njit
def _design(
    mask: int, terms: FloatArray, size: int, index: npt.NDArray[np.int64], value: FloatArray
) -> int:
    """The non-zero components of a design vector; returns their number."""
    n = 0
    for k in range(N_MASK):
        if (mask >> k) & 1:
            index[n], value[n] = k, 1.0
            n += 1
    if terms[RAMP] != 0.0:
        index[n], value[n] = DECEMBER, terms[RAMP]
        n += 1
    for k in range(N_BASE, size):
        index[n], value[n] = k, terms[HARMONICS + k - N_BASE]
        n += 1
    return n


@cached_njit
def _predict(cov: FloatArray, process: FloatArray) -> None:
    """The step to the next day, in place: the mean stays, the variances grow by ``process``."""
    for k in range(len(process)):
        cov[k, k] += process[k]


@cached_njit
def _update(
    y: float,
    clip: bool,
    index: npt.NDArray[np.int64],
    value: FloatArray,
    mean: FloatArray,
    cov: FloatArray,
    cov_x: FloatArray,
) -> None:
    """The step for one measurement, in place; ``cov_x`` (size,) is a work array."""
    size, n = len(mean), len(index)
    expected, variance = 0.0, OBSERVATION_VARIANCE
    for k in range(size):
        total = 0.0
        for j in range(n):
            total += cov[k, index[j]] * value[j]
        cov_x[k] = total
    for j in range(n):
        expected += mean[index[j]] * value[j]
        variance += cov_x[index[j]] * value[j]
    innovation = y - expected
    if clip:
        bound = CLIP_SD * np.sqrt(variance)
        innovation = min(max(innovation, -bound), bound)
    for k in range(size):
        gain = cov_x[k] / variance
        mean[k] += gain * innovation
        for j in range(size):
            cov[k, j] -= gain * cov_x[j]


@cached_njit
def _filter_store(
    inputs: FilterInputs,
    store: int,
    first: int,
    mean: FloatArray,
    cov: FloatArray,
    process: FloatArray,
    states: States,
) -> None:
    """Filter one store from day ``first`` on and write each day's mean to ``states``."""
    size = len(mean)
    log_sales = inputs.log_sales[store]
    cov_x = np.empty(size)
    index = np.empty(size, np.int64)
    value = np.empty(size)
    sales_days = 0
    for t in range(first, len(log_sales)):
        _predict(cov, process)
        y = float(log_sales[t])
        if not np.isnan(y):
            n = _design(inputs.masks[store, t], inputs.terms[t], size, index, value)
            _update(y, sales_days >= CLIP_AFTER, index[:n], value[:n], mean, cov, cov_x)
            sales_days += 1
        states[t] = mean


@cached_njit
def run_filter(
    inputs: FilterInputs,
    chain_level: FloatArray,
    prior: FloatArray,
    process: FloatArray,
    at: int,
    states: States,
) -> None:
    """Filter stores from the fixed prior; each day's state to ``states`` from offset ``at`` on.

    ``chain_level`` (days,) is the chain's mean as of each day, the level of a store until its
    first sales; ``prior`` and ``process`` hold the variances; ``states`` is
    (days, stores, N_STATES).
    """
    stores, days = inputs.log_sales.shape
    size = len(process)
    mean = np.empty(size)
    cov = np.empty((size, size))
    for s in range(stores):
        own = states[:, s, at : at + size]
        fill_prior_mean(0.0, mean)
        cov[:] = 0.0
        for k in range(size):
            cov[k, k] = prior[k]
        t = 0
        while t < days and np.isnan(inputs.log_sales[s, t]):
            _predict(cov, process)
            mean[LEVEL] = chain_level[t]
            own[t] = mean
            t += 1
        if t < days:
            mean[LEVEL] = chain_level[t]
            _filter_store(inputs, s, t, mean, cov, process, own)


@cached_njit
def run_filter_with_priors(
    inputs: FilterInputs, priors: StorePriors, process: FloatArray, at: int, states: States
) -> None:
    """Filter stores that joined later; until its first sales a store's state is its prior mean.

    Otherwise as ``run_filter``.
    """
    stores, days = inputs.log_sales.shape
    size = len(process)
    for s in range(stores):
        own = states[:, s, at : at + size]
        first, kind = priors.first_day[s], priors.kind[s]
        for t in range(first):
            own[t] = priors.mean[t, kind, at : at + size]
        if first < days:
            mean = priors.mean[first, kind, at : at + size].copy()
            _filter_store(inputs, s, first, mean, priors.covariance[s], process, own)


def chain_mean_level(log_sales: npt.NDArray[np.float32]) -> FloatArray:
    """Mean log sales of the chain over the 90 days to each day, (days,); 0 before any sale."""
    known = ~np.isnan(log_sales)
    sums = np.where(known, log_sales, 0.0).sum(axis=0, dtype=np.float64)
    counts = known.sum(axis=0)
    out = np.zeros(log_sales.shape[1])
    for t in range(len(out)):
        low = max(t - CHAIN_DAYS + 1, 0)
        n = counts[low : t + 1].sum()
        out[t] = sums[low : t + 1].sum() / n if n else (out[t - 1] if t else 0.0)
    return out


@cached_njit
def fill_chain_errors(
    inputs: FilterInputs, states: States, low: int, high: int, errors: npt.NDArray[np.float32]
) -> None:
    """The chain's error of kfb by origin and horizon, for origins ``low`` to ``high``.

    ``errors`` is (days, CHAIN_COLUMNS); column h - 1 holds the mean, over the dates o + h give or
    take 3 days, of the median over open stores of log sales less the forecast made at o. It uses
    days up to o + h + 3, so it may be read only from an origin after them.
    """
    stores, days = inputs.log_sales.shape
    store_errors = np.empty(stores)
    medians = np.empty(_LEADS)
    for o in range(low, high):
        for lead in range(_LEADS):
            t = o + lead + 1 - CHAIN_SMOOTH
            n = 0
            if 0 <= t < days:
                for s in range(stores):
                    if not np.isnan(inputs.log_sales[s, t]):
                        store_errors[n] = inputs.log_sales[s, t] - predict_state(
                            states[o, s], KFB, N_BASE, inputs.masks[s, t], inputs.terms[t]
                        )
                        n += 1
            # a date on which nearly all stores are closed does not represent the chain
            medians[lead] = np.median(store_errors[:n]) if n > 0 and 10 * n >= stores else np.nan
        for h in range(CHAIN_COLUMNS):
            n, total = 0, 0.0
            for lead in range(h, h + 2 * CHAIN_SMOOTH + 1):
                if not np.isnan(medians[lead]):
                    n += 1
                    total += medians[lead]
            errors[o, h] = total / n if n else np.nan
