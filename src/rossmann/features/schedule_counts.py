"""Running counts around a day: promotions, holidays, school holidays and closures.

Every count exists for every store and day, so that a row reads only the day before, the day
itself and the day after. A row's own flags are applied at request time (``build_features``),
so the counts need not be computed anew for it.

A state holiday counts where it closes the store. Some stores are open on all of them, and one
state's stores on one that the raw tables flag by mistake (Corpus Christi in Saxony): customers do
not shop for two days around such a day.
"""

from typing import Final, NamedTuple

import numpy as np

from rossmann.numba_kernel import cached_njit
from rossmann.schema import FlagArray

# Columns of the plan cube (days, stores, N_PLAN), uint8.
OPEN, PROMO, HOLIDAY, SCHOOL, KNOWN = range(5)
PROMO_SINCE, PROMO_UNTIL, PROMO_RUN, PROMO_LAST_WEEK = range(5, 9)
HOLIDAY_SINCE, HOLIDAY_UNTIL, HOLIDAY_NEXT_7, HOLIDAY_WEEK = range(9, 13)
SCHOOL_SINCE, SCHOOL_UNTIL, SCHOOL_WEEK = range(13, 16)
CLOSED_BACK, CLOSED_AHEAD, SINCE_LONG_CLOSURE, OPEN_14 = range(16, 20)
SPECIFIED, SPECIFIED_BACK, SPECIFIED_AHEAD = range(20, 23)
"""The day's promotion and school holiday are specified, and on how many days in a row."""
N_PLAN: Final = 23

PROMO_CAP: Final = 14
RUN_CAP: Final = 7
HOLIDAY_CAP: Final = 30
SCHOOL_CAP: Final = 60
CLOSED_CAP: Final = 30
SPECIFIED_CAP: Final = 255
LONG_CLOSURE: Final = 6
LONG_CLOSURE_CAP: Final = 200
OPEN_WINDOW: Final = 14
USUAL_DAYS: Final = 8
USUAL_WEEKS: Final = 26
"""Days of a weekday that its usual opening is told from, and how far back they are looked for."""
_SUNDAY: Final = 6
_PAST, _FUTURE = 1, -1
"""Direction of a count: over the days up to a day, or over those from it on."""


class DayFlags(NamedTuple):
    """The flags of one store and day; ``state_holiday``: index in ``STATE_HOLIDAYS``."""

    promo: int
    state_holiday: int
    school_holiday: int


@cached_njit
def _days_to_flag(flag: FlagArray, cap: int, step: int, out: FlagArray) -> None:
    """Days since (``_PAST``) or until (``_FUTURE``) the nearest flagged day, itself included."""
    n = len(flag)
    run = cap
    for i in range(n):
        t = i if step == _PAST else n - 1 - i
        run = 0 if flag[t] else min(run + 1, cap)
        out[t] = run


@cached_njit
def _run_lengths(flag: FlagArray, cap: int, step: int, out: FlagArray) -> None:
    """Length of the run of flagged days that ends (``_PAST``) or begins on each day."""
    n = len(flag)
    run = 0
    for i in range(n):
        t = i if step == _PAST else n - 1 - i
        run = min(run + 1, cap) if flag[t] else 0
        out[t] = run


@cached_njit
def _week_sums(flag: FlagArray, first_weekday: int, last_week: bool, out: FlagArray) -> None:
    """Flagged days from Monday to Sunday of each day's week, or of the week before it.

    ``first_weekday`` is that of the first day, counted from 0.
    """
    n = len(flag)
    start, before = -first_weekday, 0
    while start < n:
        total = 0
        for t in range(max(start, 0), min(start + 7, n)):
            total += flag[t]
        for t in range(max(start, 0), min(start + 7, n)):
            out[t] = before if last_week else total
        start, before = start + 7, total


@cached_njit
def _closures(closed: FlagArray, since_long: FlagArray, open_days: FlagArray) -> None:
    """Days since a long closure ended, and open days in the fortnight to each day."""
    run, since, count = 0, LONG_CLOSURE_CAP, 0
    for t in range(len(closed)):
        run = run + 1 if closed[t] else 0
        since = 0 if run >= LONG_CLOSURE else min(since + 1, LONG_CLOSURE_CAP)
        since_long[t] = since
        count += 1 - closed[t]
        if t >= OPEN_WINDOW:
            count -= 1 - closed[t - OPEN_WINDOW]
        open_days[t] = count


@cached_njit
def usual_opening(cube: FlagArray, first_weekday: int, s: int, last: int) -> int:
    """The weekdays on which store ``s`` usually opens, as bits from Monday (1) on.

    By the latest known days up to ``last`` with the weekday, holidays aside: at most
    ``USUAL_DAYS`` of ``USUAL_WEEKS`` weeks. Without any: all but Sunday.
    """
    mask = 0
    for weekday in range(7):
        t = last - (first_weekday + last - weekday) % 7
        opened, total = 0, 0
        for _ in range(USUAL_WEEKS):
            if t < 0 or total == USUAL_DAYS:
                break
            if cube[t, s, KNOWN] and not cube[t, s, HOLIDAY]:
                total += 1
                opened += int(cube[t, s, OPEN])
            t -= 7
        if 2 * opened > total or (total == 0 and weekday != _SUNDAY):
            mask |= 1 << weekday
    return mask


@cached_njit
def is_usually_open(cube: FlagArray, usual: int, first_weekday: int, t: int, s: int) -> bool:
    """Whether store ``s`` opens on day ``t`` by its ``usual_opening``; holidays are as planned."""
    if cube[t, s, HOLIDAY]:
        return bool(cube[t, s, OPEN])
    return bool((usual >> ((first_weekday + t) % 7)) & 1)


@cached_njit
def is_closed_for_holiday(cube: FlagArray, t: int, s: int) -> bool:
    """Whether a state holiday closes store ``s`` on day ``t``."""
    return bool(cube[t, s, HOLIDAY] > 0 and cube[t, s, OPEN] == 0)


class OpeningCounts(NamedTuple):
    """What the cube holds of the day before in ``CLOSED_BACK``, ``SINCE_LONG_CLOSURE`` and
    ``OPEN_14``, and of the day after in ``CLOSED_AHEAD``.
    """

    closed_back: int
    since_long_closure: int
    open_14: int
    closed_ahead: int


@cached_njit
def planned_opening(cube: FlagArray, s: int, d: int) -> OpeningCounts:
    """The counts around day ``d`` of store ``s`` with all that the tables hold."""
    before = cube[d - 1, s]
    # 0 + makes compiled integers of bytes
    return OpeningCounts(
        0 + before[CLOSED_BACK],
        0 + before[SINCE_LONG_CLOSURE],
        0 + before[OPEN_14],
        0 + cube[d + 1, s, CLOSED_AHEAD],
    )


@cached_njit
def unplanned_opening(
    cube: FlagArray, first_weekday: int, place: tuple[int, int], origin: int, planned_to: int
) -> OpeningCounts:
    """The same where opening after day ``planned_to`` is not known, and taken as usual.

    ``place``: store and day. So a closure that was not planned at the origin stays hidden.
    """
    s, d = place
    usual = usual_opening(cube, first_weekday, s, origin)
    since = 0 + cube[min(planned_to, d - 1), s, SINCE_LONG_CLOSURE]
    run = 0 + cube[min(planned_to, d - 1), s, CLOSED_BACK]
    for t in range(planned_to + 1, d):
        run = 0 if is_usually_open(cube, usual, first_weekday, t, s) else run + 1
        since = 0 if run >= LONG_CLOSURE else min(since + 1, LONG_CLOSURE_CAP)
    open_days = 0
    for t in range(max(d - OPEN_WINDOW, 0), d):
        if t <= planned_to:
            open_days += cube[t, s, OPEN]
        elif is_usually_open(cube, usual, first_weekday, t, s):
            open_days += 1
    ahead = 0
    for t in range(d + 1, min(d + 1 + CLOSED_CAP, len(cube))):
        known = t <= planned_to
        if cube[t, s, OPEN] if known else is_usually_open(cube, usual, first_weekday, t, s):
            break
        ahead += 1
    return OpeningCounts(min(run, CLOSED_CAP), since, open_days, ahead)


@cached_njit
def fill_schedule_counts(cube: FlagArray, first_weekday: int, low: int, high: int) -> None:
    """Fill the running counts of stores ``low`` to ``high`` from the cube's flags, in place."""
    flag = np.empty(cube.shape[0], np.uint8)
    for s in range(low, high):
        plan = cube[:, s]
        flag[:] = plan[:, PROMO]
        _days_to_flag(flag, PROMO_CAP, _PAST, plan[:, PROMO_SINCE])
        _days_to_flag(flag, PROMO_CAP, _FUTURE, plan[:, PROMO_UNTIL])
        _run_lengths(flag, RUN_CAP, _FUTURE, plan[:, PROMO_RUN])
        _week_sums(flag, first_weekday, True, plan[:, PROMO_LAST_WEEK])

        for t in range(len(flag)):
            flag[t] = is_closed_for_holiday(cube, t, s)
        _days_to_flag(flag, HOLIDAY_CAP, _PAST, plan[:, HOLIDAY_SINCE])
        _days_to_flag(flag, HOLIDAY_CAP, _FUTURE, plan[:, HOLIDAY_UNTIL])
        _week_sums(flag, first_weekday, False, plan[:, HOLIDAY_WEEK])
        for t in range(len(flag)):
            plan[t, HOLIDAY_NEXT_7] = flag[t + 1 : t + 8].sum()

        flag[:] = plan[:, SCHOOL]
        _days_to_flag(flag, SCHOOL_CAP, _PAST, plan[:, SCHOOL_SINCE])
        _days_to_flag(flag, SCHOOL_CAP, _FUTURE, plan[:, SCHOOL_UNTIL])
        _week_sums(flag, first_weekday, False, plan[:, SCHOOL_WEEK])

        flag[:] = plan[:, SPECIFIED]
        _run_lengths(flag, SPECIFIED_CAP, _PAST, plan[:, SPECIFIED_BACK])
        _run_lengths(flag, SPECIFIED_CAP, _FUTURE, plan[:, SPECIFIED_AHEAD])

        flag[:] = 1 - plan[:, OPEN]
        _run_lengths(flag, CLOSED_CAP, _PAST, plan[:, CLOSED_BACK])
        _run_lengths(flag, CLOSED_CAP, _FUTURE, plan[:, CLOSED_AHEAD])
        _closures(flag, plan[:, SINCE_LONG_CLOSURE], plan[:, OPEN_14])
