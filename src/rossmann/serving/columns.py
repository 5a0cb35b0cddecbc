"""From a request's body to columns, with the checks that need the panel at hand."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from functools import lru_cache
from typing import Final

import numpy as np

from rossmann.errors import Fault, RequestError
from rossmann.schema import ROW_FIELDS, STATE_HOLIDAYS, DayArray, Objective, Rows
from rossmann.serving.messages import PredictRequest, Row
from rossmann.serving.ports import Calendar
from rossmann.serving.reading import FormFaults, parse_predict, shown

EPOCH: Final = date(1970, 1, 1)
_HOLIDAY_CODE: Final = {name: code for code, name in enumerate(STATE_HOLIDAYS)}
_INT32: Final = np.iinfo(np.int32)


@dataclass(frozen=True, slots=True)
class Inputs:
    """A request as columns; ``weekday_off``: the rows whose DayOfWeek contradicts their Date."""

    rows: Rows
    model_stage: str | int
    as_of: int | None
    levels: tuple[float, ...]
    objective: Objective | None
    weekday_off: Sequence[int]
    totals: tuple[str, ...] = ()


@lru_cache(maxsize=1024)
def iso(day: int) -> str:
    """A day since 1970-01-01 as YYYY-MM-DD."""
    return (EPOCH + timedelta(days=int(day))).isoformat()


@lru_cache(maxsize=16)
def furthest(last_day: int) -> int:
    """The last day that gets a forecast: a year after the end of history."""
    end = EPOCH + timedelta(days=int(last_day))
    leap = end.month == 2 and end.day == 29
    later = end.replace(year=end.year + 1, day=28 if leap else end.day)
    return later.toordinal() - EPOCH.toordinal()


def read_day(text: str) -> int | None:
    """Days since 1970-01-01 of a date written YYYY-MM-DD, or None."""
    if len(text) != 10 or text[4] != "-" or text[7] != "-" or not text.isascii():
        return None
    try:
        return date.fromisoformat(text).toordinal() - EPOCH.toordinal()
    except ValueError:
        return None


def read_inputs(body: bytes, panel: Calendar, max_rows: int) -> Inputs:
    """Read and check a body; raises ``RequestError`` or one of its kinds with every fault."""
    try:
        request = parse_predict(body, max_rows)
    except FormFaults as error:
        rows, texts = list(error.dates), list(error.dates.values())
        days, found = _read_days(panel, texts, rows)
        found += store_faults(panel, error.stores)
        found += origin_faults(panel, error.as_of, dict(zip(rows, days, strict=True)))
        raise RequestError(in_order([*error.faults, *found])) from error
    return to_inputs(request, panel)


def to_inputs(request: PredictRequest, panel: Calendar) -> Inputs:
    """A well-formed request as columns; raises ``RequestError`` with every fault."""
    inputs = request.inputs
    store = _as_int32([row["Store"] for row in inputs])
    faults: list[Fault] = []
    if np.minimum.reduce(panel.locate(store)) < 0:  # its method takes three times as long
        faults += store_faults(panel, {row: one["Store"] for row, one in enumerate(inputs)})
    days, bad = _read_days(panel, [row["Date"] for row in inputs])
    as_of = None if request.as_of is None else read_day(request.as_of)
    if faults or bad or (request.as_of is not None and as_of is None):
        more = origin_faults(panel, request.as_of, dict(enumerate(days)))
        raise RequestError(in_order(faults + bad + more))
    off: list[int] = []
    # 1970-01-01 was a Thursday.
    weekday = {day: (day + 3) % 7 + 1 for day in set(days)}
    told = [row["DayOfWeek"] for row in inputs]
    if told != (known := [weekday[day] for day in days]):
        off = [i for i, (one, other) in enumerate(zip(told, known, strict=True)) if one != other]
    levels = tuple(dict.fromkeys(request.intervals or ()))
    asked = (request.model_stage, as_of, levels, request.objective)
    totals = tuple(dict.fromkeys(request.totals or ()))
    return Inputs(_to_rows(inputs, store, np.array(days, np.int32)), *asked, off, totals)


def _to_rows(inputs: Sequence[Row], store: DayArray, day: DayArray) -> Rows:
    flags = (
        [row["Open"] for row in inputs],
        [row["Promo"] for row in inputs],
        [_HOLIDAY_CODE[row["StateHoliday"]] for row in inputs],
        [row["SchoolHoliday"] for row in inputs],
    )
    return Rows(store, day, *np.array(flags, np.uint8))


def _as_int32(numbers: Sequence[int]) -> DayArray:
    try:
        return np.array(numbers, np.int32)
    except OverflowError:
        # No panel has such a store: any number that is certainly unknown will do.
        return np.array([n if _INT32.min <= n <= _INT32.max else -1 for n in numbers], np.int32)


def store_faults(panel: Calendar, numbers: Mapping[int, int]) -> list[Fault]:
    """A fault for each store that the panel does not have; ``numbers`` by row."""
    if not numbers:
        return []
    missing = np.flatnonzero(panel.locate(_as_int32(list(numbers.values()))) < 0)
    known = panel.store_numbers
    count, low, high = len(known), int(known[0]), int(known[-1])
    together = high - low + 1 == count
    faults = []
    rows = list(numbers)
    for place in missing:
        row = rows[place]
        got = shown(numbers[row])
        msg = (
            f"Store must be between {low} and {high} (got {got})"
            if together
            else f"Store {got} is unknown: there are {count} stores, from {low} to {high}"
        )
        faults.append(Fault(("inputs", row, "Store"), msg, "unknown_store"))
    return faults


def _read_days(
    panel: Calendar, texts: Sequence[str], rows: Sequence[int] | None = None
) -> tuple[list[int], list[Fault]]:
    """The day of each of ``texts``, and a fault for each that is no date or out of reach.

    ``rows``: the numbers of their rows, if not one after another.
    """
    wrong: dict[str, tuple[str, str]] = {}
    known: dict[str, int] = {}
    # A request names few different dates: each is read once.
    for text in set(texts):
        day = read_day(text)
        fault = day_fault(panel, text, day)
        if fault:
            wrong[text] = fault
        known[text] = day or 0
    faults = []
    if wrong:
        faults = [
            Fault(("inputs", row, "Date"), *wrong[text])
            for row, text in zip(rows or range(len(texts)), texts, strict=True)
            if text in wrong
        ]
    return [known[text] for text in texts], faults


def origin_faults(panel: Calendar, text: str | None, days: Mapping[int, int]) -> list[Fault]:
    """What is amiss with the origin that was asked for, and with ``days`` (by row) as of it."""
    if text is None:
        return []
    origin = read_day(text)
    if origin is None:
        msg = f"as_of must be a real date written YYYY-MM-DD (got {shown(text)})"
        return [Fault(("as_of",), msg, "date_format")]
    early = [row for row, day in days.items() if panel.first_day < day <= origin]
    return [
        *as_of_faults(panel, origin),
        *(not_after_fault(row, days[row], origin) for row in early),
    ]


def as_of_faults(panel: Calendar, origin: int) -> list[Fault]:
    """A fault where sales are not known up to that day."""
    first, last = panel.first_day, panel.last_day
    if first <= origin <= last:
        return []
    msg = f"as_of must be from {iso(first)} to {iso(last)}, where sales are known"
    return [Fault(("as_of",), f"{msg} (got {iso(origin)})", "as_of_range")]


def not_after_fault(row: int, day: int, origin: int) -> Fault:
    """A row that is not after the origin."""
    msg = f"Date must be after as_of, {iso(origin)} (got {iso(day)})"
    return Fault(("inputs", row, "Date"), msg, "date_not_after_as_of")


def day_fault(panel: Calendar, text: str, day: int | None) -> tuple[str, str] | None:
    """What is amiss with a date, and its kind; None where it can be forecast."""
    got = f"(got {shown(text)})"
    if day is None:
        return f"Date must be a real date written YYYY-MM-DD {got}", "date_format"
    if day <= panel.first_day:
        msg = f"Date must be after {iso(panel.first_day)}, the first day of history {got}"
        return msg, "date_before_history"
    if day > furthest(panel.last_day):
        msg = f"Date must be at most a year after {iso(panel.last_day)}, where history ends {got}"
        return msg, "date_too_far"
    return None


def in_order(faults: list[Fault]) -> list[Fault]:
    """Faults as a reader meets them: the options, then row by row, field by field."""
    place = {name: number for number, name in enumerate(ROW_FIELDS)}

    def key(fault: Fault) -> tuple[int, int]:
        loc = fault.loc
        if len(loc) < 2 or not isinstance(loc[1], int) or loc[0] != "inputs":
            return (-1, 0)
        return (loc[1], place.get(str(loc[2]), 99) if len(loc) > 2 else -1)

    return sorted(faults, key=key)
