"""Rows as kernels take them: checked and placed in one pass, because a request may hold one row.

A dozen small array operations cost more than the features of a row.
"""

from typing import Final

import numpy as np
import numpy.typing as npt

from rossmann.numba_kernel import cached_njit
from rossmann.schema import BEYOND_HORIZON, NO_SCHEDULE, RECENTLY_IDLE, SHORT_HISTORY

PLACE, DAY, ORIGIN, PLANNED = range(4)
"""Rows of what ``place_rows`` fills."""
RECENT_DAYS: Final = 90
"""Days that show whether a store has been trading."""

IndexArray = npt.NDArray[np.int64]


@cached_njit
def _place(numbers: npt.NDArray[np.int32], store: int) -> int:
    """The place of a store number in the sorted ``numbers``, -1 where there is none."""
    low, high = 0, len(numbers)
    while low < high:
        middle = (low + high) // 2
        if numbers[middle] < store:
            low = middle + 1
        else:
            high = middle
    return low if low < len(numbers) and numbers[low] == store else -1


@cached_njit
def store_indices(
    numbers: npt.NDArray[np.int32], stores: npt.NDArray[np.integer], out: IndexArray
) -> None:
    """Fill ``out`` (n,) with the places of ``stores`` (n,), -1 for those that there are not."""
    for i in range(len(stores)):
        out[i] = _place(numbers, stores[i])


@cached_njit
def row_extent(
    numbers: npt.NDArray[np.int32],
    stores: npt.NDArray[np.integer],
    days: npt.NDArray[np.integer],
) -> tuple[int, int, int]:
    """The lowest place of ``stores`` (n,), -1 where one is unknown; the first and last of days."""
    lowest, first, last = len(numbers), days[0], days[0]
    for i in range(len(stores)):
        lowest = min(lowest, _place(numbers, stores[i]))
        first, last = min(first, days[i]), max(last, days[i])
    return lowest, first, last


@cached_njit
def locate_rows(
    numbers: npt.NDArray[np.int32],
    store: npt.NDArray[np.integer],
    day: npt.NDArray[np.integer],
    origin: IndexArray,
    planned_to: IndexArray,
    reach: tuple[int, int, int],
    out: IndexArray,
) -> bool:
    """Fill ``out`` (4, n), days counted from the first; False where a row cannot be asked.

    ``origin`` and ``planned_to`` are one for all rows or one for each. A row can be asked where
    its store is known and first <= origin < day <= furthest, with its origin up to last, which are
    the days of ``reach``.
    """
    first, last, furthest = reach
    for i in range(len(store)):
        place = _place(numbers, store[i])
        since = origin[i if len(origin) > 1 else 0]
        if place < 0 or since < first or since > last or since >= day[i] or day[i] > furthest:
            return False
        out[PLACE, i] = place
        out[DAY, i] = day[i] - first
        out[ORIGIN, i] = since - first
        out[PLANNED, i] = planned_to[i if len(planned_to) > 1 else 0] - first
    return True


@cached_njit
def find_warning_flags(
    numbers: npt.NDArray[np.int32],
    store: npt.NDArray[np.integer],
    day: npt.NDArray[np.integer],
    origin: IndexArray,
    first: int,
    furthest_horizon: int,
    fewest: int,
    seen: npt.NDArray[np.int16],
    known: npt.NDArray[np.uint8],
    out: npt.NDArray[np.uint8],
) -> None:
    """Fill ``out`` (n,) with bits (``doubt_bits``) of what each row may be in doubt for.

    ``origin`` is one for all rows or one for each. ``seen`` (stores, days) counts days with sales;
    ``known`` (days, stores) says what a plan says.
    """
    for i in range(len(day)):
        s, since = _place(numbers, store[i]), origin[i if len(origin) > 1 else 0]
        t, found = since - first, 0
        if day[i] - since > furthest_horizon:
            found |= BEYOND_HORIZON
        if seen[s, t] < fewest:
            found |= SHORT_HISTORY
        if (
            t >= RECENT_DAYS
            and seen[s, t - RECENT_DAYS] > 0
            and seen[s, t] - seen[s, t - RECENT_DAYS] < fewest
        ):
            found |= RECENTLY_IDLE
        if known[day[i] - first, s] == 0:
            found |= NO_SCHEDULE
        out[i] = found
