"""The feature matrix of rows, gathered from running arrays, for any mix of forecast origins.

Training gives every row its own origin, serving one for all rows: both call
``build_matrix_for_rows``. A row's own flags (promotion, holidays) override the schedule; the days
around it come from the schedule. No row depends on another.

Public holidays of days without a schedule are nearly certain, and stores are taken to open as
usual there: a closure that is not planned stays unknown. Promotions and school holidays are not
certain: features that depend on them are NaN there. Members learn both from training rows whose
schedule is taken to end early (``planned_to``).
"""

from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from rossmann.features import calendars, sales_statistics, schedule_counts, state_space
from rossmann.features.row_lookup import Row, RowFlags, RowQuery, get_row, locate_rows
from rossmann.numba_kernel import cached_njit
from rossmann.schema import FEATURES, OFFSET_COLUMN, FeatureMatrix, FloatArray

# Columns of the store table (stores, N_STORE), float64.
LOG_DISTANCE, COMPETITION_MONTH, ASSORTMENT, PROMO2_SINCE, PROMO2_MONTHS = range(5)
N_STORE: Final = 5

NO_COMPETITOR_M: Final = 200_000.0
"""Metres assumed where no competitor is known: over twice the largest distance in the table."""
MONTHS_BEFORE, MONTHS_AFTER = -24, 120


def log_distance(metres: FloatArray) -> FloatArray:
    """Log of the distance; NaN means that no competitor is near."""
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
    """The arrays that features are gathered from. Days count from the first day of history."""

    table: npt.NDArray[np.int16]  # (plan days, 8) calendars.date_table
    terms: npt.NDArray[np.float64]  # (plan days, 8) calendars.date_regressors
    cube: npt.NDArray[np.uint8]  # (plan days, stores, N_PLAN)
    masks: npt.NDArray[np.uint32]  # (stores, plan days)
    stores: npt.NDArray[np.float64]  # (stores, N_STORE)
    regions: npt.NDArray[np.int16]  # (days, stores) as of the end of each day
    log_sales: npt.NDArray[np.float32]  # (stores, days)
    weekly: npt.NDArray[np.float32]  # (days, stores, N_WEEKLY)
    trailing: npt.NDArray[np.float32]  # (days, stores, N_TRAILING)
    centred: npt.NDArray[np.float32]  # (days, stores, N_CENTRED)
    states: npt.NDArray[np.float32]  # (days, stores, N_STATES)
    chain: npt.NDArray[np.float32]  # (days, CHAIN_COLUMNS)


_FIRST_HISTORY: Final = FEATURES.index("mean_weekday_91")
_FIRST_STATE: Final = FEATURES.index("kfa")
_PROMO_LIFT: Final = FEATURES.index("promo_lift")
_REGION: Final = FEATURES.index("region")
_LAST_YEAR: Final = state_space.LAST_YEAR


@cached_njit
def _calendar_features(
    a: FeatureArrays, row: Row, opening: schedule_counts.OpeningCounts, out: npt.NDArray[np.float32]
) -> None:
    """Columns up to the store group that are known for any day: all but ``_schedule_features``."""
    s, d = row.store, row.day
    table, before, today, after = a.table[d], a.cube[d - 1, s], a.cube[d, s], a.cube[d + 1, s]
    out[0] = table[calendars.WEEKDAY]
    out[1] = table[calendars.DAY_OF_MONTH]
    out[2] = table[calendars.WORKING_DAYS_LEFT]
    out[3] = table[calendars.EASTER]
    out[4] = table[calendars.CHRISTMAS]
    out[6] = row.flags.promo
    out[10] = promo2_phase(
        table[calendars.MONTH], int(a.stores[s, PROMO2_MONTHS]), d, a.stores[s, PROMO2_SINCE]
    )
    out[11] = row.flags.state_holiday
    out[12] = min(before[schedule_counts.HOLIDAY_SINCE] + 1, schedule_counts.HOLIDAY_CAP)
    out[13] = min(after[schedule_counts.HOLIDAY_UNTIL] + 1, schedule_counts.HOLIDAY_CAP)
    out[14] = today[schedule_counts.HOLIDAY_NEXT_7]
    out[18] = opening.closed_back
    out[19] = opening.closed_ahead
    out[20] = min(opening.since_long_closure + 1, schedule_counts.LONG_CLOSURE_CAP)
    out[21] = opening.open_14
    out[22] = a.stores[s, LOG_DISTANCE]
    out[23] = months_since(table[calendars.MONTH_INDEX], a.stores[s, COMPETITION_MONTH])
    out[24] = a.stores[s, ASSORTMENT]
    out[26] = d - row.origin


@cached_njit
def _opening(a: FeatureArrays, row: Row) -> schedule_counts.OpeningCounts:
    """Closed and open days around the row, as far as its schedule says them."""
    if row.planned_to >= min(row.day + schedule_counts.CLOSED_CAP, len(a.cube) - 1):
        return schedule_counts.planned_opening(a.cube, row.store, row.day)
    first_weekday = int(a.table[0, calendars.WEEKDAY]) - 1
    place = (row.store, row.day)
    return schedule_counts.unplanned_opening(
        a.cube, first_weekday, place, row.origin, row.planned_to
    )


@cached_njit
def is_schedule_complete(a: FeatureArrays, row: Row) -> bool:
    """Whether the schedule specifies all days between the row's origin and its day."""
    between = row.day - 1 - row.origin
    if between <= 0:
        return True
    specified = int(a.cube[row.day - 1, row.store, schedule_counts.SPECIFIED_BACK])
    return row.planned_to >= row.day - 1 and specified >= min(
        between, schedule_counts.SPECIFIED_CAP
    )


@cached_njit
def _count_if_known(distance: int, cap: int, known_days: int) -> float:
    """A capped count of days ahead; NaN where it reaches beyond the ``known_days`` ahead."""
    if min(distance, cap) <= known_days:
        return min(distance, cap)
    return np.nan


@cached_njit
def _schedule_features(
    a: FeatureArrays, row: Row, complete: bool, out: npt.NDArray[np.float32]
) -> None:
    """The columns that depend on promotions and school holidays of the days around.

    The day itself is left out where it has a column: what lies around it says more then.
    ``complete``: as ``is_schedule_complete``.
    """
    d, school = row.day, row.flags.school_holiday
    before, today = a.cube[d - 1, row.store], a.cube[d, row.store]
    after = a.cube[d + 1, row.store]
    ahead = min(int(after[schedule_counts.SPECIFIED_AHEAD]), max(row.planned_to - d, 0))
    out[7] = (
        min(before[schedule_counts.PROMO_SINCE] + 1, schedule_counts.PROMO_CAP)
        if complete
        else np.nan
    )
    out[8] = _count_if_known(
        after[schedule_counts.PROMO_UNTIL] + 1, schedule_counts.PROMO_CAP, ahead
    )
    # the end of a run of r days from D on is known from the day after it, r days ahead
    run = after[schedule_counts.PROMO_RUN] + 1
    out[9] = _count_if_known(run, schedule_counts.RUN_CAP, ahead) if row.flags.promo else 0.0
    if school:
        out[15] = 0.0
    else:
        out[15] = (
            min(before[schedule_counts.SCHOOL_SINCE] + 1, schedule_counts.SCHOOL_CAP)
            if complete
            else np.nan
        )
    out[16] = _count_if_known(
        after[schedule_counts.SCHOOL_UNTIL] + 1, schedule_counts.SCHOOL_CAP, ahead
    )
    if complete and ahead >= 7 - a.table[d, calendars.WEEKDAY]:
        out[17] = today[schedule_counts.SCHOOL_WEEK] - int(today[schedule_counts.SCHOOL]) + school
    else:
        out[17] = np.nan


@cached_njit
def _history_features(a: FeatureArrays, row: Row, kfb: float, out: npt.NDArray[np.float32]) -> None:
    """The thirteen as-of statistics, levels less ``kfb``."""
    s, d, o, promo = row.store, row.day, row.origin, row.flags.promo
    h = _FIRST_HISTORY
    out[h : h + 13] = np.nan
    anchor = o - (o - d) % 7  # the last day up to the origin with the row's weekday
    at = promo * sales_statistics.N_KIND
    if anchor >= 0:
        weekly = a.weekly[anchor, s]
        out[h] = weekly[sales_statistics.MEAN_13] - kfb
        out[h + 2] = weekly[at + sales_statistics.MEAN_26] - kfb
        out[h + 3] = weekly[at + sales_statistics.MEAN_52] - kfb
        out[h + 4] = weekly[at + sales_statistics.MEDIAN_52] - kfb
        out[h + 5] = weekly[at + sales_statistics.SD_52]
        out[h + 6] = weekly[at + sales_statistics.COUNT_52]
        out[h + 9] = weekly[at + sales_statistics.CUSTOMERS_52]
    trailing = a.trailing[o, s]
    out[h + 1] = trailing[sales_statistics.MEAN_28 + promo] - kfb
    out[h + 7] = trailing[sales_statistics.OPEN_365]
    out[h + 8] = trailing[sales_statistics.PER_CUSTOMER_365]
    past = d - _LAST_YEAR
    if 0 <= past <= o:
        out[h + 10] = a.log_sales[s, past] - kfb
    # a centred window may not reach past the origin
    if past >= 0 and past + sales_statistics.CENTRED_REACH <= o:
        centred = a.centred[past, s]
        out[h + 11] = centred[sales_statistics.SAME_21 + promo] - kfb
        if o >= _LAST_YEAR:
            out[h + 12] = (
                centred[sales_statistics.MEAN_7]
                - a.trailing[o - _LAST_YEAR, s, sales_statistics.MEAN_56]
            )


@cached_njit
def _last_year_errors(a: FeatureArrays, row: Row, out: npt.NDArray[np.float32]) -> None:
    """Mean error of kfb a year ago at the same horizon: of this store, and of the chain."""
    at = _FIRST_STATE + 3
    out[at] = out[at + 1] = np.nan
    past = row.day - _LAST_YEAR
    lead = min(row.day - row.origin, state_space.ERROR_HORIZON)
    origin = past - lead
    if origin < 0 or past + 7 > row.origin:
        return
    s, n, total = row.store, 0, 0.0
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
def build_matrix_for_rows(
    a: FeatureArrays, query: RowQuery, flags: RowFlags, out: FeatureMatrix
) -> bool:
    """Fill ``out`` (n, 46), in the order of ``schema.FEATURES``.

    False where a row cannot be forecast, as ``locate_rows``.
    """
    index = np.empty((4, len(out)), np.int64)
    if not locate_rows(query, index):
        return False
    region_day = query[5][3]
    base, season = state_space.N_BASE, state_space.N_BASE + state_space.N_HARMONICS
    for i in range(len(out)):
        row, features = get_row(index, flags, i), out[i]
        complete, opening = is_schedule_complete(a, row), _opening(a, row)
        _calendar_features(a, row, opening, features)
        features[_REGION] = a.regions[row.origin if region_day < 0 else region_day, row.store]
        _schedule_features(a, row, complete, features)
        mask = state_space.design_mask(a.table, a.cube, row.day, row.store, row.flags, complete)
        mask = state_space.set_reopened(mask, opening.closed_back)
        state, terms = a.states[row.origin, row.store], a.terms[row.day]
        kfb = np.float32(state_space.predict_state(state, state_space.KFB, base, mask, terms))
        kfa = state_space.predict_state(state, state_space.KFA, base, mask, terms)
        kfc = state_space.predict_state(state, state_space.KFC, season, mask, terms)
        kfd = state_space.predict_state(state, state_space.KFD, state_space.N_FULL, mask, terms)
        features[_FIRST_STATE] = kfa - kfb
        features[_FIRST_STATE + 1] = kfc - kfb
        features[_FIRST_STATE + 2] = kfd - kfb
        features[OFFSET_COLUMN] = kfb
        features[_PROMO_LIFT] = state[state_space.KFB + state_space.PROMOTION]
        _history_features(a, row, float(kfb), features)
        _last_year_errors(a, row, features)
    return True
