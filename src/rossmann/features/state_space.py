"""State-space model of log sales: components, variances, design vector, four parameter sets.

The model is a local level with regression effects that may drift (Durbin and Koopman, *Time
Series Analysis by State Space Methods*, 2nd ed., ch. 3 and 6.2), updated once for each day with
sales. Prior and process variances are those measured on the real tables. The state after
day t is the filter's estimate as of t; a forecast for day D is its product with D's design vector.
"""

from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from rossmann.features.calendars import (
    DAY_OF_MONTH,
    EASTER,
    HARMONICS,
    MONTH,
    RAMP,
    TREND,
    WEEKDAY,
    WORKING_DAYS_LEFT,
)
from rossmann.features.schedule_counts import (
    CLOSED_BACK,
    HOLIDAY,
    HOLIDAY_WEEK,
    PROMO,
    PROMO_LAST_WEEK,
    SCHOOL,
    DayFlags,
    is_closed_for_holiday,
)
from rossmann.numba_kernel import cached_njit
from rossmann.schema import FlagArray, FloatArray

# Components of the state. Those below N_MASK are on or off on a day, and are kept as a bit
# mask; the December ramp, the harmonics and the trend depend on the date alone.
LEVEL, FIRST_WEEKDAY, PROMOTION, PROMO_MONDAY, PROMO_FRIDAY, PROMO_TUESDAY = 0, 1, 8, 9, 10, 11
SCHOOL_DAY, MONTH_START, MONTH_END, MID_MONTH, BEFORE_HOLIDAY, AFTER_HOLIDAY = range(12, 18)
HOLIDAY_IN_WEEK, AFTER_PROMO_WEEK, REOPENED = range(18, 21)
BEFORE_MONTH_END, OPEN_HOLIDAY, EASTER_WEEK, MOTHERS_DAY = range(21, 25)
BEFORE_CHRISTMAS, CHRISTMAS_EVE, AFTER_CHRISTMAS, YEAR_END, NEW_YEARS_EVE = range(25, 30)
N_MASK: Final = 30
DECEMBER: Final = 30
N_BASE: Final = 31
N_HARMONICS: Final = 6
N_FULL: Final = N_BASE + N_HARMONICS + 1

# Offsets of the four filters' states in one vector of N_STATES numbers.
KFB, KFA, KFC, KFD = 0, N_BASE, 2 * N_BASE, 3 * N_BASE + N_HARMONICS
N_STATES: Final = KFD + N_FULL

SLOW_VARIANCE: Final = 1e-8
PROMO_PRIOR_MEAN: Final = 0.25

LAST_YEAR: Final = 364
ERROR_HORIZON: Final = 48
CHAIN_SMOOTH: Final = 3
CHAIN_COLUMNS: Final = ERROR_HORIZON

States = npt.NDArray[np.float32]


@cached_njit
def fill_prior_mean(level: float, mean: FloatArray) -> None:
    """Fill the fixed prior's mean of one filter, given the level."""
    mean[:] = 0.0
    mean[LEVEL] = level
    mean[PROMOTION] = PROMO_PRIOR_MEAN


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
    out[BEFORE_MONTH_END], out[OPEN_HOLIDAY] = 0.006, 0.05
    out[EASTER_WEEK], out[MOTHERS_DAY], out[BEFORE_CHRISTMAS] = 0.01, 0.01, 0.02
    out[CHRISTMAS_EVE] = out[NEW_YEARS_EVE] = 0.05  # shops close at two
    out[AFTER_CHRISTMAS], out[YEAR_END] = 0.03, 0.02
    for k in (1, 2, 3):
        out[N_BASE + 2 * k - 2 : N_BASE + 2 * k] = 0.003 / k
    out[N_FULL - 1] = 0.01
    return out


class FilterSpec(NamedTuple):
    """A filter: where its state begins, how many components it has, daily process variances."""

    offset: int
    size: int
    level_variance: float
    weekday_variance: float  # of promotions too


FILTERS: Final = (
    FilterSpec(KFB, N_BASE, 3e-6, 3e-7),
    FilterSpec(KFA, N_BASE, 3e-5, 3e-7),
    FilterSpec(KFC, N_BASE + N_HARMONICS, 3e-6, 3e-7),
    FilterSpec(KFD, N_FULL, 1e-7, 3e-8),
)


def process_variances(spec: FilterSpec) -> FloatArray:
    """Daily process variance of each of a filter's components."""
    out = np.full(spec.size, SLOW_VARIANCE)
    out[LEVEL] = spec.level_variance
    out[FIRST_WEEKDAY : PROMOTION + 1] = spec.weekday_variance
    return out


@cached_njit
def _calendar_mask(table: npt.NDArray[np.int16], t: int) -> int:
    """The components switched on by the date alone."""
    mask = 1 | (1 << int(table[t, WEEKDAY]))
    day = int(table[t, DAY_OF_MONTH])
    if day <= 3:
        mask |= 1 << MONTH_START
    elif 14 <= day <= 17:
        mask |= 1 << MID_MONTH
    if table[t, WORKING_DAYS_LEFT] == 0:
        mask |= 1 << MONTH_END
    elif table[t, WORKING_DAYS_LEFT] == 1:
        mask |= 1 << BEFORE_MONTH_END
    if -6 <= table[t, EASTER] < 0:
        mask |= 1 << EASTER_WEEK
    if table[t, MONTH] == 5 and table[t, WEEKDAY] == 6 and 7 <= day <= 13:
        mask |= 1 << MOTHERS_DAY  # the second Sunday in May: people buy the day before
    return mask


@cached_njit
def _year_end_mask(table: npt.NDArray[np.int16], t: int) -> int:
    """The components of the last days of the year."""
    day = int(table[t, DAY_OF_MONTH])
    if table[t, MONTH] != 12 or day < 20:
        return 0
    if day <= 23:
        return 1 << BEFORE_CHRISTMAS
    if day == 24:
        return 1 << CHRISTMAS_EVE
    if day == 31:
        return 1 << NEW_YEARS_EVE
    mask = 1 << AFTER_CHRISTMAS if day >= 27 else 0
    if day >= 29:
        mask |= 1 << YEAR_END
    return mask


_CLOSED_DAYS: Final = 4
"""Closed days in a row after which the first open day sells more."""


@cached_njit
def design_mask(
    table: npt.NDArray[np.int16],
    cube: FlagArray,
    t: int,
    s: int,
    flags: DayFlags,
    last_week_known: bool = True,
) -> int:
    """The switched components of day ``t`` and store ``s`` as bits, with the row's own ``flags``.

    ``t`` must be neither the first nor the last day of the cube. ``last_week_known``: the
    promotions of the week before are known.
    """
    mask = _calendar_mask(table, t) | _year_end_mask(table, t)
    weekday = table[t, WEEKDAY]
    if flags.promo:
        mask |= 1 << PROMOTION
        if weekday == 1:
            mask |= 1 << PROMO_MONDAY
        elif weekday == 5:
            mask |= 1 << PROMO_FRIDAY
        elif weekday == 2:
            mask |= 1 << PROMO_TUESDAY
    elif last_week_known and cube[t, s, PROMO_LAST_WEEK]:
        mask |= 1 << AFTER_PROMO_WEEK
    if flags.school_holiday:
        mask |= 1 << SCHOOL_DAY
    eve = mask & (1 << CHRISTMAS_EVE | 1 << NEW_YEARS_EVE)
    if is_closed_for_holiday(cube, t + 1, s) and not eve:
        mask |= 1 << BEFORE_HOLIDAY
    if is_closed_for_holiday(cube, t - 1, s):
        mask |= 1 << AFTER_HOLIDAY
    if flags.state_holiday:
        mask |= 1 << OPEN_HOLIDAY
    if cube[t, s, HOLIDAY_WEEK] - is_closed_for_holiday(cube, t, s):
        mask |= 1 << HOLIDAY_IN_WEEK
    return set_reopened(mask, cube[t - 1, s, CLOSED_BACK])


@cached_njit
def set_reopened(mask: int, closed_days_before: int) -> int:
    """The mask with the component of the first day after a closure as ``closed_days_before``."""
    cleared = mask & ~(1 << REOPENED)
    return cleared | (1 << REOPENED) if closed_days_before >= _CLOSED_DAYS else cleared


@cached_njit
def fill_masks(
    table: npt.NDArray[np.int16],
    cube: FlagArray,
    low: int,
    high: int,
    masks: npt.NDArray[np.uint32],
) -> None:
    """Fill ``masks`` (stores, days) of stores ``low`` to ``high`` from the cube's own flags."""
    for s in range(low, high):
        for t in range(1, cube.shape[0] - 1):
            flags = DayFlags(cube[t, s, PROMO], cube[t, s, HOLIDAY], cube[t, s, SCHOOL])
            masks[s, t] = design_mask(table, cube, t, s, flags)


@cached_njit
def predict_state(state: States, at: int, size: int, mask: int, terms: FloatArray) -> float:
    """Forecast of the filter at offset ``at`` with ``size`` components: state times design."""
    total = 0.0
    for k in range(N_MASK):
        if (mask >> k) & 1:
            total += state[at + k]
    total += state[at + DECEMBER] * terms[RAMP]
    for k in range(N_BASE, min(size, N_BASE + N_HARMONICS)):
        total += state[at + k] * terms[HARMONICS + k - N_BASE]
    if size == N_FULL:
        total += state[at + N_FULL - 1] * terms[TREND]
    return float(total)
