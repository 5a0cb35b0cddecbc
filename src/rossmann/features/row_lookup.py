"""Rows as kernels take them: checked and placed in one pass, because a request may hold one row.

A dozen small array operations cost more than the features of a row.
"""

from typing import Final

import numpy as np
import numpy.typing as npt

from rossmann.numba_kernel import kernel
from rossmann.schema import FAR, QUIET, SHORT, UNPLANNED

PLACE, DAY, ORIGIN, PLANNED = range(4)
"""Rows of what ``place_rows`` fills."""
RECENT: Final = 90
"""Days that show whether a store has been trading."""

Places = npt.NDArray[np.int64]


@kernel
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


@kernel
def locate(numbers: npt.NDArray[np.int32], stores: npt.NDArray[np.integer], out: Places) -> None:
    """Fill ``out`` (n,) with the places of ``stores`` (n,), -1 for those that there are not."""
    for i in range(len(stores)):
        out[i] = _place(numbers, stores[i])


@kernel
def reach(
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


@kernel
def place_rows(
    numbers: npt.NDArray[np.int32],
    store: npt.NDArray[np.integer],
    day: npt.NDArray[np.integer],
    origin: Places,
    planned_to: Places,
    reach: tuple[int, int, int],
    out: Places,
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


@kernel
def find_doubts(
    numbers: npt.NDArray[np.int32],
    store: npt.NDArray[np.integer],
    day: npt.NDArray[np.integer],
    origin: Places,
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
            found |= FAR
        if seen[s, t] < fewest:
            found |= SHORT
        if t >= RECENT and seen[s, t - RECENT] > 0 and seen[s, t] - seen[s, t - RECENT] < fewest:
            found |= QUIET
        if known[day[i] - first, s] == 0:
            found |= UNPLANNED
        out[i] = found
