"""Rows of a request: their stores and days looked up, and checked, in one compiled pass.

A request may hold one row, and a dozen small array operations cost more than that row's features.
Numba unpacks a plain tuple at once and a named one in a microsecond: what Python passes to a
kernel is a plain tuple, and kernels pass each other named ones.
"""

from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from rossmann.features.schedule_counts import DayFlags
from rossmann.numba_kernel import cached_njit
from rossmann.schema import (
    BEYOND_HORIZON,
    NO_SCHEDULE,
    RECENTLY_IDLE,
    SHORT_HISTORY,
    DayArray,
    FlagArray,
)

STORE, DAY, ORIGIN, PLANNED_TO = range(4)
"""Rows of the index array (4, n) that ``locate_rows`` fills."""
RECENT_DAYS: Final = 90
"""Days that show whether a store has been trading."""

IndexArray = npt.NDArray[np.int64]
RowQuery = tuple[DayArray, DayArray, DayArray, IndexArray, IndexArray, tuple[int, int, int, int]]
"""The panel's sorted store numbers; store number and day (n,) of each row; ``origin`` and
``planned_to``, one for all rows or one for each; the first and last day of history, the last day
that can be forecast, and the day whose knowledge of regions holds (-1: each row's origin). Days
since 1970-01-01."""
RowFlags = tuple[FlagArray, FlagArray, FlagArray]
"""Promotion, state holiday and school holiday of each row: (n,) each."""


class Row(NamedTuple):
    """One row: its store's index, days counted from the first day of history, its own flags.

    ``planned_to``: the last day whose promotion and school holiday may come from the schedule.
    """

    store: int
    day: int
    origin: int
    planned_to: int
    flags: DayFlags


@cached_njit
def get_row(index: IndexArray, flags: RowFlags, i: int) -> Row:
    """Row ``i`` of an index array and its flags."""
    promo, state_holiday, school_holiday = flags
    return Row(
        index[STORE, i],
        index[DAY, i],
        index[ORIGIN, i],
        index[PLANNED_TO, i],
        DayFlags(promo[i], state_holiday[i], school_holiday[i]),
    )


@cached_njit
def _store_index(numbers: DayArray, store: int) -> int:
    """The index of a store number in the sorted ``numbers``, -1 where it is not among them."""
    low, high = 0, len(numbers)
    while low < high:
        middle = (low + high) // 2
        if numbers[middle] < store:
            low = middle + 1
        else:
            high = middle
    return low if low < len(numbers) and numbers[low] == store else -1


@cached_njit
def store_indices(numbers: DayArray, stores: npt.NDArray[np.integer], out: IndexArray) -> None:
    """Fill ``out`` (n,) with the indices of ``stores`` (n,), -1 for unknown ones."""
    for i in range(len(stores)):
        out[i] = _store_index(numbers, stores[i])


@cached_njit
def row_extent(
    numbers: DayArray, stores: npt.NDArray[np.integer], days: npt.NDArray[np.integer]
) -> tuple[int, int, int]:
    """The lowest index of ``stores`` (n,), -1 where one is unknown; first and last of ``days``."""
    lowest, first, last = len(numbers), days[0], days[0]
    for i in range(len(stores)):
        lowest = min(lowest, _store_index(numbers, stores[i]))
        first, last = min(first, days[i]), max(last, days[i])
    return lowest, first, last


@cached_njit
def locate_rows(query: RowQuery, out: IndexArray) -> bool:
    """Fill the index array ``out`` (4, n); False where a row cannot be forecast.

    It can where its store is known and first <= origin < day <= furthest, origin <= last.
    """
    numbers, store, day, origin, planned_to, (first, last, furthest, _) = query
    for i in range(len(store)):
        index = _store_index(numbers, store[i])
        since = origin[i if len(origin) > 1 else 0]
        if index < 0 or since < first or since > last or since >= day[i] or day[i] > furthest:
            return False
        out[STORE, i] = index
        out[DAY, i] = day[i] - first
        out[ORIGIN, i] = since - first
        out[PLANNED_TO, i] = planned_to[i if len(planned_to) > 1 else 0] - first
    return True


@cached_njit
def find_warning_flags(
    rows: tuple[DayArray, DayArray, DayArray, IndexArray],
    limits: tuple[int, int, int],
    sales_days: npt.NDArray[np.int16],
    known: FlagArray,
    out: FlagArray,
) -> None:
    """Fill ``out`` (n,) with the bits of ``schema`` (``BEYOND_HORIZON`` ...) that hold for rows.

    ``rows``: the first four of ``RowQuery``. ``limits``: the first day of history, the longest
    horizon, and the days with sales below which a store has few. ``sales_days`` (stores, days)
    counts days with sales up to each; ``known`` (days, stores): the tables hold the day.
    """
    numbers, store, day, origin = rows
    first_day, max_horizon, min_days = limits
    for i in range(len(day)):
        s, since = _store_index(numbers, store[i]), origin[i if len(origin) > 1 else 0]
        t, bits = since - first_day, 0
        if day[i] - since > max_horizon:
            bits |= BEYOND_HORIZON
        if sales_days[s, t] < min_days:
            bits |= SHORT_HISTORY
        if (
            t >= RECENT_DAYS
            and sales_days[s, t - RECENT_DAYS] > 0
            and sales_days[s, t] - sales_days[s, t - RECENT_DAYS] < min_days
        ):
            bits |= RECENTLY_IDLE
        if known[day[i] - first_day, s] == 0:
            bits |= NO_SCHEDULE
        out[i] = bits
