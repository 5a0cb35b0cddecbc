"""Days since 1970-01-01 (epoch days), the form in which panels and kernels hold dates."""

from datetime import date, timedelta
from functools import lru_cache
from typing import Final, TypeVar

import numpy as np
import numpy.typing as npt

EPOCH: Final = date(1970, 1, 1)

EpochDays = TypeVar("EpochDays", int, npt.NDArray[np.int32], npt.NDArray[np.int64])


def to_date(day: int) -> date:
    """The calendar date of an epoch day."""
    return EPOCH + timedelta(days=int(day))


def to_day(when: date) -> int:
    """The epoch day of a calendar date."""
    return (when - EPOCH).days


def weekday_of(day: EpochDays) -> EpochDays:
    """The weekday of an epoch day, or of an array of them: 0 for Monday to 6 for Sunday."""
    return (day + 3) % 7  # 1970-01-01 was a Thursday


@lru_cache(maxsize=1024)
def format_iso_day(day: int) -> str:
    """An epoch day as YYYY-MM-DD."""
    return to_date(day).isoformat()


def parse_iso_day(text: str) -> int | None:
    """The epoch day of a date written YYYY-MM-DD; None where it is none."""
    if len(text) != 10 or text[4] != "-" or text[7] != "-" or not text.isascii():
        return None
    try:
        return to_day(date.fromisoformat(text))
    except ValueError:
        return None
