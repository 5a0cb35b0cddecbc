"""Running counts around a day: promotions, holidays, school holidays and closures.

Every count exists for every store and day, so that a row needs only look at the day before, the
day itself and the day after. A row's own flags are put in at request time (``build_features``),
which is why the counts below never need to be recomputed for it.

A state holiday counts where it shuts the store. Some stores are open on all of them, and one
state's stores on one that the raw tables flag by mistake (Corpus Christi in Saxony): around such
a day nobody shops for two.
"""

from typing import Final

import numpy as np
import numpy.typing as npt

from rossmann.numba_kernel import cached_njit

# Columns of the plan cube (days, stores, N_PLAN), uint8.
OPEN, PROMO, HOLIDAY, SCHOOL, KNOWN = range(5)
PROMO_SINCE, PROMO_UNTIL, PROMO_RUN, PROMO_LAST_WEEK = range(5, 9)
HOLIDAY_SINCE, HOLIDAY_UNTIL, HOLIDAY_NEXT_7, HOLIDAY_WEEK = range(9, 13)
SCHOOL_SINCE, SCHOOL_UNTIL, SCHOOL_WEEK = range(13, 16)
CLOSED_BACK, CLOSED_AHEAD, SINCE_LONG_CLOSURE, OPEN_14 = range(16, 20)
SAID, SAID_BACK, SAID_AHEAD = range(20, 23)
"""A plan says the day's promotion and school holiday, and for how many days in a row it does."""
N_PLAN: Final = 23

SAID_CAP: Final = 255

PROMO_CAP: Final = 14
RUN_CAP: Final = 7
HOLIDAY_CAP: Final = 30
SCHOOL_CAP: Final = 60
CLOSED_CAP: Final = 30
LONG_CLOSURE: Final = 6
LONG_CLOSURE_CAP: Final = 200
OPEN_WINDOW: Final = 14


@cached_njit
def _since(flag: npt.NDArray[np.uint8], cap: int, step: int, out: npt.NDArray[np.uint8]) -> None:
    """Days since (``step`` 1) or until (-1) the nearest flagged day, itself included."""
    n = len(flag)
    run = cap
    for i in range(n):
        t = i if step == 1 else n - 1 - i
        run = 0 if flag[t] else min(run + 1, cap)
        out[t] = run


@cached_njit
def _run(flag: npt.NDArray[np.uint8], cap: int, step: int, out: npt.NDArray[np.uint8]) -> None:
    """Length of the run of flagged days that ends (1) or begins (-1) on each day."""
    n = len(flag)
    run = 0
    for i in range(n):
        t = i if step == 1 else n - 1 - i
        run = min(run + 1, cap) if flag[t] else 0
        out[t] = run


@cached_njit
def _week_sums(
    flag: npt.NDArray[np.uint8],
    first_weekday: int,
    week: npt.NDArray[np.uint8],
    last_week: npt.NDArray[np.uint8],
) -> None:
    """Flagged days from Monday to Sunday of each day's week, and of the week before it.

    ``first_weekday`` is that of the first day, counted from 0.
    """
    n = len(flag)
    start, before = -first_weekday, 0
    while start < n:
        total = 0
        for t in range(max(start, 0), min(start + 7, n)):
            total += flag[t]
        for t in range(max(start, 0), min(start + 7, n)):
            week[t] = total
            last_week[t] = before
        start, before = start + 7, total


@cached_njit
def _closures(
    closed: npt.NDArray[np.uint8], since_long: npt.NDArray[np.uint8], opened: npt.NDArray[np.uint8]
) -> None:
    """Days since a long closure ended, and open days in the fortnight to each day."""
    run, since, count = 0, LONG_CLOSURE_CAP, 0
    for t in range(len(closed)):
        run = run + 1 if closed[t] else 0
        since = 0 if run >= LONG_CLOSURE else min(since + 1, LONG_CLOSURE_CAP)
        since_long[t] = since
        count += 1 - closed[t]
        if t >= OPEN_WINDOW:
            count -= 1 - closed[t - OPEN_WINDOW]
        opened[t] = count


@cached_njit
def is_closed_for_holiday(cube: npt.NDArray[np.uint8], t: int, s: int) -> bool:
    """Whether a state holiday shuts store ``s`` on day ``t``."""
    return bool(cube[t, s, HOLIDAY] > 0 and cube[t, s, OPEN] == 0)


@cached_njit
def fill_schedule_counts(
    cube: npt.NDArray[np.uint8], first_weekday: int, low: int, high: int
) -> None:
    """Fill the running counts of stores ``low`` to ``high`` from the cube's flags, in place."""
    days = cube.shape[0]
    flag = np.empty(days, np.uint8)
    one = np.empty(days, np.uint8)
    two = np.empty(days, np.uint8)
    for s in range(low, high):
        flag[:] = cube[:, s, PROMO]
        _since(flag, PROMO_CAP, 1, one)
        cube[:, s, PROMO_SINCE] = one
        _since(flag, PROMO_CAP, -1, one)
        cube[:, s, PROMO_UNTIL] = one
        _run(flag, RUN_CAP, -1, one)
        cube[:, s, PROMO_RUN] = one
        _week_sums(flag, first_weekday, one, two)
        cube[:, s, PROMO_LAST_WEEK] = two

        for t in range(days):
            flag[t] = is_closed_for_holiday(cube, t, s)
        _since(flag, HOLIDAY_CAP, 1, one)
        cube[:, s, HOLIDAY_SINCE] = one
        _since(flag, HOLIDAY_CAP, -1, one)
        cube[:, s, HOLIDAY_UNTIL] = one
        _week_sums(flag, first_weekday, one, two)
        cube[:, s, HOLIDAY_WEEK] = one
        for t in range(days):
            cube[t, s, HOLIDAY_NEXT_7] = flag[t + 1 : t + 8].sum()

        flag[:] = cube[:, s, SCHOOL]
        _since(flag, SCHOOL_CAP, 1, one)
        cube[:, s, SCHOOL_SINCE] = one
        _since(flag, SCHOOL_CAP, -1, one)
        cube[:, s, SCHOOL_UNTIL] = one
        _week_sums(flag, first_weekday, one, two)
        cube[:, s, SCHOOL_WEEK] = one

        flag[:] = cube[:, s, SAID]
        _run(flag, SAID_CAP, 1, one)
        cube[:, s, SAID_BACK] = one
        _run(flag, SAID_CAP, -1, one)
        cube[:, s, SAID_AHEAD] = one

        flag[:] = 1 - cube[:, s, OPEN]
        _run(flag, CLOSED_CAP, 1, one)
        cube[:, s, CLOSED_BACK] = one
        _run(flag, CLOSED_CAP, -1, one)
        cube[:, s, CLOSED_AHEAD] = one
        _closures(flag, one, two)
        cube[:, s, SINCE_LONG_CLOSURE] = one
        cube[:, s, OPEN_14] = two
