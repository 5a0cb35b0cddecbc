"""What a forecast should be taken with care for: warnings, one of a kind, each naming its rows."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from rossmann.epoch_days import format_iso_day
from rossmann.schema import (
    BEYOND_HORIZON,
    MAX_HORIZON,
    NO_SCHEDULE,
    RECENTLY_IDLE,
    SHORT_HISTORY,
    StoreDays,
)

if TYPE_CHECKING:
    from rossmann.data.panel.panel import Panel


WarningMasks = list[tuple[str, str, npt.NDArray[np.bool_]]]
"""What to take with care: a kind, a text, and which of n rows it touches, (n,)."""
WarningFlags = npt.NDArray[np.uint8]

MAX_EXAMPLE_ROWS: Final = 10
"""Rows that a warning names; its count tells how many there are."""


@dataclass(frozen=True, slots=True)
class RowWarning:
    """A warning: its kind, its text, how many rows it touches, and the first of them."""

    type: str
    msg: str
    count: int
    rows: tuple[int, ...]


def row_warning(kind: str, msg: str, rows: npt.NDArray[np.integer[Any]]) -> RowWarning:
    """A warning about ``rows`` (their numbers)."""
    return RowWarning(kind, msg, len(rows), tuple(rows[:MAX_EXAMPLE_ROWS].tolist()))


def find_warnings(
    panel: "Panel", rows: StoreDays, origin: int, bits: WarningFlags, short_history: int
) -> WarningMasks:
    """What ``bits`` (n,) of ``Panel.doubts`` say of the rows: days far ahead or unplanned, stores
    with fewer than ``short_history`` sales, or long idle.
    """
    of_any = int(np.bitwise_or.reduce(bits))
    if not of_any:
        return []
    found: WarningMasks = []
    if of_any & BEYOND_HORIZON:
        msg = (
            f"days more than {MAX_HORIZON} after {format_iso_day(origin)} lie beyond what the model "
            "is trained for: take them as rough"
        )
        found.append(("horizon", msg, bits & BEYOND_HORIZON > 0))
    if of_any & SHORT_HISTORY:
        msg = (
            f"stores with less than {short_history} days of sales up to {format_iso_day(origin)} "
            "are forecast from what stores have in common"
        )
        found.append(("short_history", msg, bits & SHORT_HISTORY > 0))
    if of_any & RECENTLY_IDLE:
        idle = panel.idle_days(panel.store_indices(rows.store), origin, short_history)
        if idle.any():
            msg = (
                f"stores that had no sales for up to {idle.max()} days, until {format_iso_day(origin)} or "
                "shortly before, are forecast from what they sold before that"
            )
            found.append(("reopened", msg, idle > 0))
    if of_any & NO_SCHEDULE:
        msg = (
            "days without a schedule: the promotions and school holidays around them are "
            "taken as not known, opening as usual; with a schedule the forecast is better"
        )
        found.append(("no_schedule", msg, bits & NO_SCHEDULE > 0))
    return found
