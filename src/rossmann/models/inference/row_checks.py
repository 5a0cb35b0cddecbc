"""Row checks that need the panel: unknown stores, dates out of reach, rows before the origin."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Final

import numpy as np

from rossmann.epoch_days import format_iso_day, parse_iso_day, to_date, to_day
from rossmann.errors import ErrorDetail
from rossmann.schema import ROW_FIELDS, DayArray, StoreDays

if TYPE_CHECKING:
    from rossmann.data.panel.panel import Panel

_INT32: Final = np.iinfo(np.int32)


def format_value(value: object) -> str:
    """A value from a client, shortened for an error message."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, int) and abs(value) >= 10**15:
        return "a number of more than 15 digits"
    if isinstance(value, list | dict):
        return "a list" if isinstance(value, list) else "an object"
    text = str(value)
    text = text if len(text) <= 40 else text[:37] + "..."
    return f'"{text}"' if isinstance(value, str) else text


@lru_cache(maxsize=16)
def last_forecast_day(last_day: int) -> int:
    """The last epoch day that gets a forecast: a year after the end of history."""
    end = to_date(last_day)
    leap_day = end.month == 2 and end.day == 29
    return to_day(end.replace(year=end.year + 1, day=28 if leap_day else end.day))


def as_int32(numbers: Sequence[int]) -> DayArray:
    """Store numbers as int32 (n,); one that does not fit becomes -1, which no panel has."""
    try:
        return np.array(numbers, np.int32)
    except OverflowError:
        return np.array([n if _INT32.min <= n <= _INT32.max else -1 for n in numbers], np.int32)


def check_stores(panel: "Panel", numbers: Mapping[int, int]) -> list[ErrorDetail]:
    """An error for each store that the panel does not have; ``numbers`` by row."""
    if not numbers:
        return []
    unknown = np.flatnonzero(panel.store_indices(as_int32(list(numbers.values()))) < 0)
    stores = panel.store_numbers
    count, low, high = len(stores), int(stores[0]), int(stores[-1])
    contiguous = high - low + 1 == count
    errors = []
    rows = list(numbers)
    for index in unknown:
        row = rows[index]
        got = format_value(numbers[row])
        msg = (
            f"Store must be between {low} and {high} (got {got})"
            if contiguous
            else f"Store {got} is unknown: there are {count} stores, from {low} to {high}"
        )
        errors.append(ErrorDetail(("inputs", row, "Store"), msg, "unknown_store"))
    return errors


def read_days(
    panel: "Panel", texts: Sequence[str], rows: Sequence[int] | None = None
) -> tuple[list[int], list[ErrorDetail]]:
    """The epoch day of each of ``texts``, and an error for each that is no date or out of reach.

    ``rows``: the numbers of their rows, if not one after another.
    """
    invalid: dict[str, tuple[str, str]] = {}
    day_of: dict[str, int] = {}
    # A request names few different dates: each is parsed once.
    for text in set(texts):
        day = parse_iso_day(text)
        error = check_day(panel, text, day)
        if error:
            invalid[text] = error
        day_of[text] = day or 0
    errors = []
    if invalid:
        errors = [
            ErrorDetail(("inputs", row, "Date"), *invalid[text])
            for row, text in zip(rows or range(len(texts)), texts, strict=True)
            if text in invalid
        ]
    return [day_of[text] for text in texts], errors


def check_origin(panel: "Panel", text: str | None, days: Mapping[int, int]) -> list[ErrorDetail]:
    """Errors of the requested origin, and of ``days`` (by row) that are not after it."""
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
    """An error where sales are not known up to ``origin``."""
    if panel.first_day <= origin <= panel.last_day:
        return []
    first, last = format_iso_day(panel.first_day), format_iso_day(panel.last_day)
    msg = f"as_of must be from {first} to {last}, where sales are known"
    return [ErrorDetail(("as_of",), f"{msg} (got {format_iso_day(origin)})", "as_of_range")]


def not_after_origin_error(row: int, day: int, origin: int) -> ErrorDetail:
    """The error of a row that is not after the origin."""
    msg = f"Date must be after as_of, {format_iso_day(origin)} (got {format_iso_day(day)})"
    return ErrorDetail(("inputs", row, "Date"), msg, "date_not_after_as_of")


def check_day(panel: "Panel", text: str, day: int | None) -> tuple[str, str] | None:
    """Message and type of a date's error; None where the day can be forecast."""
    got = f"(got {format_value(text)})"
    if day is None:
        return f"Date must be a real date written YYYY-MM-DD {got}", "date_format"
    if day <= panel.first_day:
        first = format_iso_day(panel.first_day)
        return f"Date must be after {first}, the first day of history {got}", "date_before_history"
    if day > last_forecast_day(panel.last_day):
        last = format_iso_day(panel.last_day)
        msg = f"Date must be at most a year after {last}, where history ends {got}"
        return msg, "date_too_far"
    return None


def check_rows(panel: "Panel", rows: StoreDays, origin: int) -> list[ErrorDetail]:
    """Errors of rows that are columns already, field by field."""
    first, last = panel.first_day, panel.last_day
    unknown = panel.store_indices(rows.store) < 0
    too_early, too_far = rows.day <= first, rows.day > last_forecast_day(last)
    far_msg = f"Date must be at most a year after {format_iso_day(last)}"
    numbers = {int(row): int(rows.store[row]) for row in np.flatnonzero(unknown)}
    errors = check_stores(panel, numbers)
    for mask, msg, error_type in (
        (too_early, f"Date must be after {format_iso_day(first)}", "date_before_history"),
        (too_far, far_msg, "date_too_far"),
    ):
        errors += [
            ErrorDetail(
                ("inputs", int(row), "Date"),
                f"{msg} (got {format_iso_day(rows.day[row])})",
                error_type,
            )
            for row in np.flatnonzero(mask)
        ]
    early = np.flatnonzero((rows.day <= origin) & (rows.day > first))
    return errors + [not_after_origin_error(int(i), int(rows.day[i]), origin) for i in early]


def sort_errors(errors: list[ErrorDetail]) -> list[ErrorDetail]:
    """Errors in reading order: the options, then row by row, field by field."""
    field_index = {name: index for index, name in enumerate(ROW_FIELDS)}

    def key(error: ErrorDetail) -> tuple[int, int]:
        loc = error.loc
        if len(loc) < 2 or not isinstance(loc[1], int) or loc[0] != "inputs":
            return (-1, 0)
        return (loc[1], field_index.get(str(loc[2]), 99) if len(loc) > 2 else -1)

    return sorted(errors, key=key)
