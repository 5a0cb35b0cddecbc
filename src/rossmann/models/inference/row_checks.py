"""Row checks that need the panel: unknown stores, dates out of reach, days before the origin."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Final

import numpy as np

from rossmann.epoch_days import EPOCH, format_iso_day, parse_iso_day
from rossmann.errors import ErrorDetail
from rossmann.schema import ROW_FIELDS, DayArray

if TYPE_CHECKING:
    from rossmann.data.panel.panel import Panel


def format_value(value: object) -> str:
    """A value from a client, short enough to print back whatever it is."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, int) and abs(value) >= 10**15:
        return "a number of more than 15 digits"
    if isinstance(value, list | dict):
        return "a list" if isinstance(value, list) else "an object"
    text = str(value)
    text = text if len(text) <= 40 else text[:37] + "..."
    return f'"{text}"' if isinstance(value, str) else text


_INT32: Final = np.iinfo(np.int32)


@lru_cache(maxsize=16)
def last_forecast_day(last_day: int) -> int:
    """The last day that gets a forecast: a year after the end of history."""
    end = EPOCH + timedelta(days=int(last_day))
    leap = end.month == 2 and end.day == 29
    later = end.replace(year=end.year + 1, day=28 if leap else end.day)
    return later.toordinal() - EPOCH.toordinal()


def as_int32(numbers: Sequence[int]) -> DayArray:
    """Store numbers as int32 (n,); one that does not fit becomes -1, which no panel has."""
    try:
        return np.array(numbers, np.int32)
    except OverflowError:
        # No panel has such a store: any number that is certainly unknown will do.
        return np.array([n if _INT32.min <= n <= _INT32.max else -1 for n in numbers], np.int32)


def check_stores(panel: "Panel", numbers: Mapping[int, int]) -> list[ErrorDetail]:
    """A fault for each store that the panel does not have; ``numbers`` by row."""
    if not numbers:
        return []
    missing = np.flatnonzero(panel.store_indices(as_int32(list(numbers.values()))) < 0)
    known = panel.store_numbers
    count, low, high = len(known), int(known[0]), int(known[-1])
    together = high - low + 1 == count
    faults = []
    rows = list(numbers)
    for place in missing:
        row = rows[place]
        got = format_value(numbers[row])
        msg = (
            f"Store must be between {low} and {high} (got {got})"
            if together
            else f"Store {got} is unknown: there are {count} stores, from {low} to {high}"
        )
        faults.append(ErrorDetail(("inputs", row, "Store"), msg, "unknown_store"))
    return faults


def read_days(
    panel: "Panel", texts: Sequence[str], rows: Sequence[int] | None = None
) -> tuple[list[int], list[ErrorDetail]]:
    """The day of each of ``texts``, and a fault for each that is no date or out of reach.

    ``rows``: the numbers of their rows, if not one after another.
    """
    wrong: dict[str, tuple[str, str]] = {}
    known: dict[str, int] = {}
    # A request names few different dates: each is read once.
    for text in set(texts):
        day = parse_iso_day(text)
        fault = check_day(panel, text, day)
        if fault:
            wrong[text] = fault
        known[text] = day or 0
    faults = []
    if wrong:
        faults = [
            ErrorDetail(("inputs", row, "Date"), *wrong[text])
            for row, text in zip(rows or range(len(texts)), texts, strict=True)
            if text in wrong
        ]
    return [known[text] for text in texts], faults


def check_origin(panel: "Panel", text: str | None, days: Mapping[int, int]) -> list[ErrorDetail]:
    """What is amiss with the origin that was asked for, and with ``days`` (by row) as of it."""
    if text is None:
        return []
    origin = parse_iso_day(text)
    if origin is None:
        msg = f"as_of must be a real date written YYYY-MM-DD (got {format_value(text)})"
        return [ErrorDetail(("as_of",), msg, "date_format")]
    early = [row for row, day in days.items() if panel.first_day < day <= origin]
    return [
        *check_as_of(panel, origin),
        *(not_after_origin_error(row, days[row], origin) for row in early),
    ]


def check_as_of(panel: "Panel", origin: int) -> list[ErrorDetail]:
    """A fault where sales are not known up to that day."""
    first, last = panel.first_day, panel.last_day
    if first <= origin <= last:
        return []
    msg = f"as_of must be from {format_iso_day(first)} to {format_iso_day(last)}, where sales are known"
    return [ErrorDetail(("as_of",), f"{msg} (got {format_iso_day(origin)})", "as_of_range")]


def not_after_origin_error(row: int, day: int, origin: int) -> ErrorDetail:
    """A row that is not after the origin."""
    msg = f"Date must be after as_of, {format_iso_day(origin)} (got {format_iso_day(day)})"
    return ErrorDetail(("inputs", row, "Date"), msg, "date_not_after_as_of")


def check_day(panel: "Panel", text: str, day: int | None) -> tuple[str, str] | None:
    """What is amiss with a date, and its kind; None where it can be forecast."""
    got = f"(got {format_value(text)})"
    if day is None:
        return f"Date must be a real date written YYYY-MM-DD {got}", "date_format"
    if day <= panel.first_day:
        msg = (
            f"Date must be after {format_iso_day(panel.first_day)}, the first day of history {got}"
        )
        return msg, "date_before_history"
    if day > last_forecast_day(panel.last_day):
        msg = f"Date must be at most a year after {format_iso_day(panel.last_day)}, where history ends {got}"
        return msg, "date_too_far"
    return None


def sort_errors(faults: list[ErrorDetail]) -> list[ErrorDetail]:
    """Faults as a reader meets them: the options, then row by row, field by field."""
    place = {name: number for number, name in enumerate(ROW_FIELDS)}

    def key(fault: ErrorDetail) -> tuple[int, int]:
        loc = fault.loc
        if len(loc) < 2 or not isinstance(loc[1], int) or loc[0] != "inputs":
            return (-1, 0)
        return (loc[1], place.get(str(loc[2]), 99) if len(loc) > 2 else -1)

    return sorted(faults, key=key)
