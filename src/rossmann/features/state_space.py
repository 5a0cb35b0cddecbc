"""Kalman filters on log sales: one state per store and day, for four settings of one model.

The model is a local level with regression effects that may drift (Durbin and Koopman, *Time
Series Analysis by State Space Methods*, 2nd ed., ch. 3 and 6.2), updated once for each day with
sales. Prior and process variances are those measured on the real tables. The states after day
t hold all that the filter knows as of t; a forecast for day D is their product with D's design.
"""

from typing import Final

import numpy as np
import numpy.typing as npt
from numba import njit

from rossmann.features.calendars import (
    DAY_OF_MONTH,
    DAYS_LEFT,
    HARMONICS,
    RAMP,
    TREND,
    WEEKDAY,
)
from rossmann.features.plan import (
    CLOSED_BACK,
    HOLIDAY,
    HOLIDAY_WEEK,
    PROMO,
    PROMO_LAST_WEEK,
    SCHOOL,
)
from rossmann.schema import FloatArray

# Components of the state. Those up to N_MASK are switched on or off by a day, and travel as a
# bit mask; the December ramp, the harmonics and the trend depend on the date alone.
LEVEL, FIRST_WEEKDAY, PROMOTION, PROMO_MONDAY, PROMO_FRIDAY, PROMO_TUESDAY = 0, 1, 8, 9, 10, 11
SCHOOL_DAY, MONTH_START, MONTH_END, MID_MONTH, BEFORE_HOLIDAY, AFTER_HOLIDAY = range(12, 18)
HOLIDAY_IN_WEEK, AFTER_PROMO_WEEK, REOPENED = range(18, 21)
N_MASK: Final = 21
DECEMBER: Final = 21
N_BASE: Final = 22
N_HARMONICS: Final = 6
N_FULL: Final = N_BASE + N_HARMONICS + 1

# The four filters, side by side in one record of N_STATES numbers.
KFB, KFA, KFC, KFD = 0, N_BASE, 2 * N_BASE, 3 * N_BASE + N_HARMONICS
N_STATES: Final = KFD + N_FULL

OBSERVATION_VARIANCE: Final = 0.011
CLIP_SD: Final = 3.0
CLIP_AFTER: Final = 15
SLOW: Final = 1e-8
PROMO_PRIOR_MEAN: Final = 0.25
CHAIN_DAYS: Final = 90

LAST_YEAR: Final = 364
ERROR_HORIZON: Final = 48
CHAIN_SMOOTH: Final = 3
CHAIN_COLUMNS: Final = ERROR_HORIZON
_LEADS: Final = ERROR_HORIZON + 2 * CHAIN_SMOOTH

States = npt.NDArray[np.float32]


def prior_variances() -> FloatArray:
    """Prior variance of each of the N_FULL components."""
    out = np.empty(N_FULL)
    out[LEVEL] = 4.0
    out[FIRST_WEEKDAY : FIRST_WEEKDAY + 7] = 0.03
    out[FIRST_WEEKDAY + 6] = 0.3  # Sunday: few stores open, and those sell twice as much
    out[PROMOTION] = 0.06
    out[PROMO_MONDAY], out[PROMO_FRIDAY], out[PROMO_TUESDAY] = 0.02, 0.01, 0.01
    out[SCHOOL_DAY], out[MONTH_START], out[MONTH_END], out[MID_MONTH] = 0.004, 0.004, 0.006, 0.003
    out[BEFORE_HOLIDAY], out[AFTER_HOLIDAY], out[HOLIDAY_IN_WEEK] = 0.02, 0.02, 0.01
    out[AFTER_PROMO_WEEK], out[REOPENED], out[DECEMBER] = 0.003, 0.02, 0.03
    for k in (1, 2, 3):
        out[N_BASE + 2 * k - 2 : N_BASE + 2 * k] = 0.003 / k
    out[N_FULL - 1] = 0.01
    return out


def process_variances(level: float, weekday: float) -> FloatArray:
    """Daily process variance of each component."""
    out = np.full(N_FULL, SLOW)
    out[LEVEL] = level
    out[FIRST_WEEKDAY : PROMOTION + 1] = weekday
    return out


FILTERS: Final = (
    # place in the record, components, daily process variance of level, of weekday and promotion
    (KFB, N_BASE, 3e-6, 3e-7),
    (KFA, N_BASE, 3e-5, 3e-7),
    (KFC, N_BASE + N_HARMONICS, 3e-6, 3e-7),
    (KFD, N_FULL, 1e-7, 3e-8),
)


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def design_mask(
    table: npt.NDArray[np.int16],
    cube: npt.NDArray[np.uint8],
    t: int,
    s: int,
    promo: int,
    holiday: int,
    school: int,
) -> int:
    """The switched components of day ``t`` and store ``s`` as bits, with the day's own flags.

    ``t`` must be neither the first nor the last day of the cube.
    """
    weekday = table[t, WEEKDAY]
    mask = 1 | (1 << weekday)
    if promo:
        mask |= 1 << PROMOTION
        if weekday == 1:
            mask |= 1 << PROMO_MONDAY
        elif weekday == 5:
            mask |= 1 << PROMO_FRIDAY
        elif weekday == 2:
            mask |= 1 << PROMO_TUESDAY
    elif cube[t, s, PROMO_LAST_WEEK]:
        mask |= 1 << AFTER_PROMO_WEEK
    if school:
        mask |= 1 << SCHOOL_DAY
    day = table[t, DAY_OF_MONTH]
    if day <= 3:
        mask |= 1 << MONTH_START
    elif 14 <= day <= 17:
        mask |= 1 << MID_MONTH
    if table[t, DAYS_LEFT] < 2:
        mask |= 1 << MONTH_END
    if cube[t + 1, s, HOLIDAY]:
        mask |= 1 << BEFORE_HOLIDAY
    if cube[t - 1, s, HOLIDAY]:
        mask |= 1 << AFTER_HOLIDAY
    kept = cube[t, s, HOLIDAY_WEEK] - (cube[t, s, HOLIDAY] > 0) + (holiday > 0)
    if kept:
        mask |= 1 << HOLIDAY_IN_WEEK
    if cube[t - 1, s, CLOSED_BACK] >= 4:
        mask |= 1 << REOPENED
    return mask


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def fill_masks(
    table: npt.NDArray[np.int16],
    cube: npt.NDArray[np.uint8],
    low: int,
    high: int,
    masks: npt.NDArray[np.uint32],
) -> None:
    """The masks of stores ``low`` to ``high`` as planned, into ``masks`` (stores, days)."""
    for s in range(low, high):
        for t in range(1, cube.shape[0] - 1):
            masks[s, t] = design_mask(
                table, cube, t, s, cube[t, s, PROMO], cube[t, s, HOLIDAY], cube[t, s, SCHOOL]
            )


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def predict_state(
    state: States, at: int, size: int, mask: int, terms: npt.NDArray[np.float64]
) -> float:
    """Forecast of the filter at place ``at`` with ``size`` components: state times design."""
    total = 0.0
    for k in range(N_MASK):
        if (mask >> k) & 1:
            total += state[at + k]
    total += state[at + DECEMBER] * terms[RAMP]
    for k in range(N_BASE, min(size, N_BASE + N_HARMONICS)):
        total += state[at + k] * terms[HARMONICS + k - N_BASE]
    if size == N_FULL:
        total += state[at + N_FULL - 1] * terms[TREND]
    return total


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
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


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
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
    cov_x = np.empty(size)
    places = np.empty(size, np.int64)
    values = np.empty(size)
    for s in range(low, high):
        mean[:] = 0.0
        mean[PROMOTION] = PROMO_PRIOR_MEAN
        cov[:] = 0.0
        for k in range(size):
            cov[k, k] = prior[k]
        seen = 0
        for t in range(days):
            for k in range(size):
                cov[k, k] += process[k]
            y = log_sales[s, t]
            if seen == 0:
                mean[LEVEL] = chain_level[t]
            if not np.isnan(y):
                n = _design(masks[s, t], terms[t], size, places, values)
                expected, variance = 0.0, OBSERVATION_VARIANCE
                for k in range(size):
                    acc = 0.0
                    for j in range(n):
                        acc += cov[k, places[j]] * values[j]
                    cov_x[k] = acc
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
                seen += 1
            for k in range(size):
                states[t, s, at + k] = mean[k]


def chain_levels(log_sales: npt.NDArray[np.float32]) -> FloatArray:
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


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
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
