"""The one way from rows to the matrix: gathers from running arrays, for any mix of origins.

Training gives every row an origin of its own, serving gives all rows the same: both call
``build_matrix``. What a row carries itself (promotion, holidays) goes before the plan; what lies
around it comes from the plan. No row sees another.

Opening hours and public holidays of days without a plan are as good as known. Promotions and
school holidays are not: what would look at them is NaN there. Members learn what that means from
training rows whose plan is taken to end early (``planned_to``).

MERGED: The nearest competitor, and what else is fixed about a store.

MERGED: Promo2: the mailings that a store sends in rounds of months.
"""

from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from rossmann.features import calendars, state_space
from rossmann.features import row_lookup as asking
from rossmann.features import sales_statistics as history
from rossmann.features import schedule_counts as plan
from rossmann.numba_kernel import cached_njit
from rossmann.schema import FEATURES, OFFSET_COLUMN, FeatureMatrix, FloatArray

# Columns of the store table (stores, N_STORE), float64.
LOG_DISTANCE, COMPETITION_MONTH, ASSORTMENT, REGION, PROMO2_SINCE, PROMO2_MONTHS = range(6)
N_STORE: Final = 6

NO_COMPETITOR_M: Final = 200_000.0
"""Metres taken where no competitor is known: more than twice the largest distance in the table."""
MONTHS_BEFORE, MONTHS_AFTER = -24, 120


def log_distance(metres: FloatArray) -> FloatArray:
    """Log of the distance, NaN read as none within reach."""
    return np.asarray(np.log(np.where(np.isnan(metres), NO_COMPETITOR_M, metres) + 1.0))


@cached_njit
def months_since(month_index: int, opened: float) -> float:
    """Months since the competitor opened, kept within -24 to 120; NaN where that is not known."""
    if np.isnan(opened):
        return np.nan
    return min(max(month_index - opened, MONTHS_BEFORE), MONTHS_AFTER)


@cached_njit
def promo2_phase(month: int, months_mask: int, day: int, since: float) -> int:
    """Months since the round's last sending month, -1 where Promo2 does not run on that day."""
    if months_mask == 0 or not day >= since:
        return -1
    for back in range(12):
        if (months_mask >> ((month - 1 - back) % 12)) & 1:
            return back
    return -1


class FeatureArrays(NamedTuple):
    """All that features are gathered from. Days count from the first day of history."""

    table: npt.NDArray[np.int16]  # (plan days, 8) calendars.date_table
    terms: npt.NDArray[np.float64]  # (plan days, 8) calendars.date_terms
    cube: npt.NDArray[np.uint8]  # (plan days, stores, N_PLAN)
    masks: npt.NDArray[np.uint32]  # (stores, plan days)
    stores: npt.NDArray[np.float64]  # (stores, N_STORE)
    log_sales: npt.NDArray[np.float32]  # (stores, days)
    weekly: npt.NDArray[np.float32]  # (days, stores, N_WEEKLY)
    trailing: npt.NDArray[np.float32]  # (days, stores, N_TRAILING)
    centred: npt.NDArray[np.float32]  # (days, stores, N_CENTRED)
    states: npt.NDArray[np.float32]  # (days, stores, N_STATES)
    chain: npt.NDArray[np.float32]  # (days, CHAIN_COLUMNS)


_FIRST_HISTORY: Final = FEATURES.index("mean_weekday_91")
_FIRST_STATE: Final = FEATURES.index("kfa")
_KFB: Final = OFFSET_COLUMN
_LIFT: Final = FEATURES.index("promo_lift")
_LAST_YEAR: Final = state_space.LAST_YEAR


@cached_njit
def _plan_features(
    a: FeatureArrays,
    s: int,
    d: int,
    promo: int,
    holiday: int,
    school: int,
    out: npt.NDArray[np.float32],
) -> None:
    """Columns up to the store group that are known for any day: all but ``_schedule_features``."""
    table, before, here, after = a.table[d], a.cube[d - 1, s], a.cube[d, s], a.cube[d + 1, s]
    out[0] = table[calendars.WEEKDAY]
    out[1] = table[calendars.DAY_OF_MONTH]
    out[2] = table[calendars.WORKING_DAYS_LEFT]
    out[3] = table[calendars.EASTER]
    out[4] = table[calendars.CHRISTMAS]
    out[6] = promo
    out[10] = promo2_phase(
        table[calendars.MONTH],
        int(a.stores[s, PROMO2_MONTHS]),
        d,
        a.stores[s, PROMO2_SINCE],
    )
    out[11] = holiday
    out[12] = min(before[plan.HOLIDAY_SINCE] + 1, plan.HOLIDAY_CAP)
    out[13] = min(after[plan.HOLIDAY_UNTIL] + 1, plan.HOLIDAY_CAP)
    out[14] = here[plan.HOLIDAY_NEXT_7]
    out[18] = before[plan.CLOSED_BACK]
    out[19] = after[plan.CLOSED_AHEAD]
    out[20] = min(before[plan.SINCE_LONG_CLOSURE] + 1, plan.LONG_CLOSURE_CAP)
    out[21] = before[plan.OPEN_14]
    out[22] = a.stores[s, LOG_DISTANCE]
    out[23] = months_since(table[calendars.MONTH_INDEX], a.stores[s, COMPETITION_MONTH])
    out[24] = a.stores[s, ASSORTMENT]
    out[25] = a.stores[s, REGION]


@cached_njit
def is_schedule_complete(a: FeatureArrays, s: int, d: int, o: int, planned_to: int) -> bool:
    """Whether a plan says all days between the origin and the row's day."""
    if d - 1 <= o:
        return True
    said = int(a.cube[d - 1, s, plan.SAID_BACK])
    return planned_to >= d - 1 and said >= min(d - 1 - o, plan.SAID_CAP)


@cached_njit
def _if_seen(distance: int, cap: int, ahead: int) -> float:
    """A count of days ahead: NaN where the plan ends before what is counted to, or the cap."""
    if min(distance, cap) <= ahead:
        return min(distance, cap)
    return np.nan


@cached_njit
def _schedule_features(
    a: FeatureArrays,
    s: int,
    d: int,
    promo: int,
    school: int,
    between: bool,
    planned_to: int,
    out: npt.NDArray[np.float32],
) -> None:
    """The columns that look at promotions and school holidays of the days around.

    The day itself is left out where it has a column: what lies around it says more then.
    """
    before, here, after = a.cube[d - 1, s], a.cube[d, s], a.cube[d + 1, s]
    ahead = min(int(after[plan.SAID_AHEAD]), max(planned_to - d, 0))
    out[7] = min(before[plan.PROMO_SINCE] + 1, plan.PROMO_CAP) if between else np.nan
    out[8] = _if_seen(after[plan.PROMO_UNTIL] + 1, plan.PROMO_CAP, ahead)
    # a run of r days from D on shows itself on the day after its last, r days ahead
    out[9] = _if_seen(after[plan.PROMO_RUN] + 1, plan.RUN_CAP, ahead) if promo else 0.0
    if school:
        out[15] = 0.0
    else:
        out[15] = min(before[plan.SCHOOL_SINCE] + 1, plan.SCHOOL_CAP) if between else np.nan
    out[16] = _if_seen(after[plan.SCHOOL_UNTIL] + 1, plan.SCHOOL_CAP, ahead)
    if between and ahead >= 7 - a.table[d, calendars.WEEKDAY]:
        out[17] = here[plan.SCHOOL_WEEK] - int(here[plan.SCHOOL]) + school
    else:
        out[17] = np.nan


@cached_njit
def _history_features(
    a: FeatureArrays, s: int, d: int, o: int, promo: int, kfb: float, out: npt.NDArray[np.float32]
) -> None:
    """The thirteen as-of statistics, levels less ``kfb``."""
    h = _FIRST_HISTORY
    out[h : h + 13] = np.nan
    anchor = o - (o - d) % 7  # the last day up to the origin with the row's weekday
    at = promo * history.N_KIND
    if anchor >= 0:
        weekly = a.weekly[anchor, s]
        out[h] = weekly[history.MEAN_13] - kfb
        out[h + 2] = weekly[at + history.MEAN_26] - kfb
        out[h + 3] = weekly[at + history.MEAN_52] - kfb
        out[h + 4] = weekly[at + history.MEDIAN_52] - kfb
        out[h + 5] = weekly[at + history.SD_52]
        out[h + 6] = weekly[at + history.COUNT_52]
        out[h + 9] = weekly[at + history.CUSTOMERS_52]
    trailing = a.trailing[o, s]
    out[h + 1] = trailing[history.MEAN_28 + promo] - kfb
    out[h + 7] = trailing[history.OPEN_365]
    out[h + 8] = trailing[history.PER_CUSTOMER_365]
    past = d - _LAST_YEAR
    if 0 <= past <= o:
        out[h + 10] = a.log_sales[s, past] - kfb
    # a centred window may not reach past the origin
    if past >= 0 and past + history.CENTRED_REACH <= o:
        centred = a.centred[past, s]
        out[h + 11] = centred[history.SAME_21 + promo] - kfb
        if o >= _LAST_YEAR:
            out[h + 12] = centred[history.MEAN_7] - a.trailing[o - _LAST_YEAR, s, history.MEAN_56]


@cached_njit
def _last_year_errors(
    a: FeatureArrays, s: int, d: int, o: int, out: npt.NDArray[np.float32]
) -> None:
    """What kfb got wrong a year ago at the same horizon: this store, and the chain."""
    at = _FIRST_STATE + 3
    out[at] = out[at + 1] = np.nan
    past = d - _LAST_YEAR
    lead = min(d - o, state_space.ERROR_HORIZON)
    origin = past - lead
    if origin < 0 or past + 7 > o:
        return
    n, total = 0, 0.0
    for t in range(past - 7, past + 8):
        if t >= 1 and not np.isnan(a.log_sales[s, t]):
            n += 1
            total += a.log_sales[s, t] - state_space.predict_state(
                a.states[origin, s], state_space.KFB, state_space.N_BASE, a.masks[s, t], a.terms[t]
            )
    if n:
        out[at] = total / n
    out[at + 1] = a.chain[origin, lead - 1]


@cached_njit
def build_matrix(
    a: FeatureArrays,
    store: npt.NDArray[np.int64],
    day: npt.NDArray[np.int64],
    origin: npt.NDArray[np.int64],
    planned_to: npt.NDArray[np.int64],
    promo: npt.NDArray[np.uint8],
    state_holiday: npt.NDArray[np.uint8],
    school_holiday: npt.NDArray[np.uint8],
    out: FeatureMatrix,
) -> None:
    """Fill ``out`` (n, 46), in the order of ``schema.FEATURES``.

    ``store`` holds places in the store table; ``day`` and ``origin`` count from the first day of
    history, with 0 <= origin < day and day at least one short of the plan's end. ``planned_to``:
    the last day whose promotion and school holiday may be taken from the plan.
    """
    for i in range(len(day)):
        s, d, o, row = store[i], day[i], origin[i], out[i]
        p, kept, school = promo[i], state_holiday[i], school_holiday[i]
        between = is_schedule_complete(a, s, d, o, planned_to[i])
        _plan_features(a, s, d, p, kept, school, row)
        _schedule_features(a, s, d, p, school, between, planned_to[i], row)
        row[26] = d - o
        mask = state_space.design_mask(a.table, a.cube, d, s, p, kept, school, between)
        state, terms = a.states[o, s], a.terms[d]
        base, season = state_space.N_BASE, state_space.N_BASE + state_space.N_HARMONICS
        kfb = np.float32(state_space.predict_state(state, state_space.KFB, base, mask, terms))
        kfa = state_space.predict_state(state, state_space.KFA, base, mask, terms)
        kfc = state_space.predict_state(state, state_space.KFC, season, mask, terms)
        kfd = state_space.predict_state(state, state_space.KFD, state_space.N_FULL, mask, terms)
        row[_FIRST_STATE] = kfa - kfb
        row[_FIRST_STATE + 1] = kfc - kfb
        row[_FIRST_STATE + 2] = kfd - kfb
        row[_KFB] = kfb
        row[_LIFT] = state[state_space.KFB + state_space.PROMOTION]
        _history_features(a, s, d, o, p, float(kfb), row)
        _last_year_errors(a, s, d, o, row)


@cached_njit
def build_matrix_for_rows(
    a: FeatureArrays,
    numbers: npt.NDArray[np.int32],
    store: npt.NDArray[np.integer],
    day: npt.NDArray[np.integer],
    origin: asking.IndexArray,
    planned_to: asking.IndexArray,
    reach: tuple[int, int, int],
    promo: npt.NDArray[np.uint8],
    state_holiday: npt.NDArray[np.uint8],
    school_holiday: npt.NDArray[np.uint8],
    out: FeatureMatrix,
) -> bool:
    """``asking.place_rows`` and ``build_matrix`` in one call: a request may hold one row."""
    at = np.empty((4, len(day)), np.int64)
    if not asking.locate_rows(numbers, store, day, origin, planned_to, reach, at):
        return False
    build_matrix(a, at[0], at[1], at[2], at[3], promo, state_holiday, school_holiday, out)
    return True
