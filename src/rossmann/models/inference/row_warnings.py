"""What a forecast should be taken with care for: warnings, one of a kind, each naming its rows."""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from rossmann.epoch_days import iso
from rossmann.models.inference.protocols import PanelLike
from rossmann.schema import FAR, MAX_HORIZON, QUIET, SHORT, UNPLANNED, Rows

Touched = list[tuple[str, str, npt.NDArray[np.bool_]]]
"""What to take with care: a kind, a text, and which of n rows it touches, (n,)."""
Bits = npt.NDArray[np.uint8]

FIRST: Final = 10
"""Rows that a warning names; its count tells how many there are."""


@dataclass(frozen=True, slots=True)
class Warned:
    """A warning: its kind, its text, how many rows it touches, and the first of them."""

    type: str
    msg: str
    count: int
    rows: tuple[int, ...]


def warned(kind: str, msg: str, rows: npt.NDArray[np.integer[Any]]) -> Warned:
    """A warning about ``rows`` (their numbers)."""
    return Warned(kind, msg, len(rows), tuple(rows[:FIRST].tolist()))


def touched(panel: PanelLike, rows: Rows, origin: int, bits: Bits, short_history: int) -> Touched:
    """What ``bits`` (n,) of ``Panel.doubts`` say of the rows: days far ahead or unplanned, stores
    with fewer than ``short_history`` sales, or long idle.
    """
    of_any = int(np.bitwise_or.reduce(bits))
    if not of_any:
        return []
    found: Touched = []
    if of_any & FAR:
        msg = (
            f"days more than {MAX_HORIZON} after {iso(origin)} lie beyond what the model "
            "is trained for: take them as rough"
        )
        found.append(("horizon", msg, bits & FAR > 0))
    if of_any & SHORT:
        msg = (
            f"stores with less than {short_history} days of sales up to {iso(origin)} "
            "are forecast from what stores have in common"
        )
        found.append(("short_history", msg, bits & SHORT > 0))
    if of_any & QUIET:
        idle = panel.idle_days(panel.locate(rows.store), origin, short_history)
        if idle.any():
            msg = (
                f"stores that had no sales for up to {idle.max()} days, until {iso(origin)} or "
                "shortly before, are forecast from what they sold before that"
            )
            found.append(("reopened", msg, idle > 0))
    if of_any & UNPLANNED:
        msg = (
            "days without a schedule: the promotions and school holidays around them are "
            "taken as not known, opening as usual; with a schedule the forecast is better"
        )
        found.append(("no_schedule", msg, bits & UNPLANNED > 0))
    return found
