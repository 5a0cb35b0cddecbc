"""The Kalman filters: a state per store and day, and what they got wrong a year before.

Measured on the real tables: innovations are clipped at three standard deviations once a store
has shown itself, because a few days (a shop fitted out, a strike) would else bend the level.
"""

from typing import Final

import numpy as np
import numpy.typing as npt

from rossmann.features.calendars import HARMONICS, RAMP
from rossmann.features.cold_start import PROMO_PRIOR_MEAN
from rossmann.features.state_space import (
    CHAIN_COLUMNS,
    CHAIN_SMOOTH,
    DECEMBER,
    ERROR_HORIZON,
    KFB,
    LEVEL,
    N_BASE,
    N_MASK,
    PROMOTION,
    States,
    predict_state,
)
from rossmann.numba_kernel import cached_njit
from rossmann.schema import FloatArray

OBSERVATION_VARIANCE: Final = 0.011
CLIP_SD: Final = 3.0
CLIP_AFTER: Final = 15
CHAIN_DAYS: Final = 90
_LEADS: Final = ERROR_HORIZON + 2 * CHAIN_SMOOTH


@cached_njit
def _design(
    mask: int,
    terms: npt.NDArray[np.float64],
    size: int,
    places: npt.NDArray[np.int64],
    values: npt.NDArray[np.float64],
) -> int:
    """The non-zero components of a design vector; returns how many there are."""
    n = 0
    for k in range(N_MASK):
        if (mask >> k) & 1:
            places[n], values[n] = k, 1.0
            n += 1
    if terms[RAMP] != 0.0:
        places[n], values[n] = DECEMBER, terms[RAMP]
        n += 1
    for k in range(N_BASE, size):
        places[n], values[n] = k, terms[HARMONICS + k - N_BASE]
        n += 1
    return n


@cached_njit
def _update(
    y: float,
    seen: int,
    places: npt.NDArray[np.int64],
    values: npt.NDArray[np.float64],
    mean: npt.NDArray[np.float64],
    cov: npt.NDArray[np.float64],
    cov_x: npt.NDArray[np.float64],
) -> None:
    """One measurement: move ``mean`` and ``cov`` in place; ``cov_x`` is room to work in."""
    size, n = len(mean), len(places)
    expected, variance = 0.0, OBSERVATION_VARIANCE
    for k in range(size):
        total = 0.0
        for j in range(n):
            total += cov[k, places[j]] * values[j]
        cov_x[k] = total
    for j in range(n):
        expected += mean[places[j]] * values[j]
        variance += cov_x[places[j]] * values[j]
    innovation = y - expected
    if seen >= CLIP_AFTER:
        bound = CLIP_SD * np.sqrt(variance)
        innovation = min(max(innovation, -bound), bound)
    for k in range(size):
        gain = cov_x[k] / variance
        mean[k] += gain * innovation
        for j in range(size):
            cov[k, j] -= gain * cov_x[j]


@cached_njit
def _follow(
    log_sales: npt.NDArray[np.float32],
    masks: npt.NDArray[np.uint32],
    terms: npt.NDArray[np.float64],
    first: int,
    mean: npt.NDArray[np.float64],
    cov: npt.NDArray[np.float64],
    process: npt.NDArray[np.float64],
    kept: States,
) -> None:
    """Filter one store from day ``first`` on and keep each day's ``mean`` in ``kept``.

    ``log_sales`` and ``masks`` are (days,), ``kept`` is (days, size).
    """
    size = len(mean)
    cov_x = np.empty(size)
    places = np.empty(size, np.int64)
    values = np.empty(size)
    seen = 0
    for t in range(first, len(log_sales)):
        for k in range(size):
            cov[k, k] += process[k]
        y = float(log_sales[t])
        if not np.isnan(y):
            n = _design(masks[t], terms[t], size, places, values)
            _update(y, seen, places[:n], values[:n], mean, cov, cov_x)
            seen += 1
        for k in range(size):
            kept[t, k] = mean[k]


@cached_njit
def run_filter(
    log_sales: npt.NDArray[np.float32],
    masks: npt.NDArray[np.uint32],
    terms: npt.NDArray[np.float64],
    chain_level: npt.NDArray[np.float64],
    prior: npt.NDArray[np.float64],
    process: npt.NDArray[np.float64],
    size: int,
    at: int,
    low: int,
    high: int,
    states: States,
) -> None:
    """Filter stores ``low`` to ``high`` and keep every day's state at place ``at`` of ``states``.

    ``log_sales`` (stores, days) holds NaN on days without sales; ``chain_level`` (days,) is the
    chain's mean as of each day, from which a store without history starts; ``states`` is
    (days, stores, N_STATES).
    """
    days = log_sales.shape[1]
    mean = np.empty(size)
    cov = np.empty((size, size))
    for s in range(low, high):
        kept = states[:, s, at : at + size]
        mean[:] = 0.0
        mean[PROMOTION] = PROMO_PRIOR_MEAN
        cov[:] = 0.0
        for k in range(size):
            cov[k, k] = prior[k]
        t = 0
        while t < days and np.isnan(log_sales[s, t]):
            for k in range(size):
                cov[k, k] += process[k]
            mean[LEVEL] = chain_level[t]
            for k in range(size):
                kept[t, k] = mean[k]
            t += 1
        if t < days:
            mean[LEVEL] = chain_level[t]
            _follow(log_sales[s], masks[s], terms, t, mean, cov, process, kept)


@cached_njit
def run_filter_with_priors(
    log_sales: npt.NDArray[np.float32],
    masks: npt.NDArray[np.uint32],
    terms: npt.NDArray[np.float64],
    first: npt.NDArray[np.int64],
    kind: npt.NDArray[np.int64],
    means: FloatArray,
    cov: FloatArray,
    process: npt.NDArray[np.float64],
    at: int,
    states: States,
) -> None:
    """Filter stores that joined later, from what the chain's stores are like.

    ``first`` (stores,) is each one's first day with sales; until then its state is the mean of
    its ``kind`` in ``means`` (days, kinds, N_STATES), and ``cov`` (stores, size, size) is its
    prior. Arrays are those of these stores alone; otherwise as ``run_filter``.
    """
    size = cov.shape[1]
    for s in range(log_sales.shape[0]):
        kept = states[:, s, at : at + size]
        for t in range(first[s]):
            for k in range(size):
                kept[t, k] = means[t, kind[s], at + k]
        if first[s] < log_sales.shape[1]:
            mean = means[first[s], kind[s], at : at + size].copy()
            _follow(log_sales[s], masks[s], terms, first[s], mean, cov[s], process, kept)


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
    log_sales: npt.NDArray[np.float32],
    masks: npt.NDArray[np.uint32],
    terms: npt.NDArray[np.float64],
    states: States,
    low: int,
    high: int,
    errors: npt.NDArray[np.float32],
) -> None:
    """The chain's error of kfb by origin and horizon, for origins ``low`` to ``high``.

    ``errors`` is (days, CHAIN_COLUMNS); column h - 1 holds the mean, over the dates o + h give or
    take 3 days, of the median over open stores of log sales less the forecast made at o. It looks
    at days up to o + h + 3, so it may be read only from an origin after them.
    """
    stores, days = log_sales.shape
    found = np.empty(stores)
    medians = np.empty(_LEADS)
    for o in range(low, high):
        for lead in range(_LEADS):
            t = o + lead + 1 - CHAIN_SMOOTH
            n = 0
            if 0 <= t < days:
                for s in range(stores):
                    if not np.isnan(log_sales[s, t]):
                        found[n] = log_sales[s, t] - predict_state(
                            states[o, s], KFB, N_BASE, masks[s, t], terms[t]
                        )
                        n += 1
            # a date on which nearly all are shut says nothing of the chain
            medians[lead] = np.median(found[:n]) if n > 0 and 10 * n >= stores else np.nan
        for h in range(CHAIN_COLUMNS):
            n, total = 0, 0.0
            for lead in range(h, h + 2 * CHAIN_SMOOTH + 1):
                if not np.isnan(medians[lead]):
                    n += 1
                    total += medians[lead]
            errors[o, h] = total / n if n else np.nan
