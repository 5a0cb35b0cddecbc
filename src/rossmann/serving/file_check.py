"""The first reading of a file: every rule for every row, and the one origin of them all."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa

from rossmann.data.upload_dates import AmbiguousDates, parse_dates, settle_format
from rossmann.data.upload_parts import Parts, series_of
from rossmann.data.upload_tables import plain
from rossmann.data.upload_values import FIELDS, field_columns, spellings
from rossmann.errors import BrokenRule, Fault, RequestError, TooLarge
from rossmann.schema import Objective, Rows
from rossmann.serving.columns import EPOCH, day_fault, store_faults
from rossmann.serving.file_options import Asked
from rossmann.serving.file_records import (
    MISSING,
    RECORD,
    WRONG,
    Codes,
    Records,
    Scratch,
    Values,
    all_missing,
    date_codes,
    field_values,
    to_rows,
    weekday_values,
)
from rossmann.serving.forecaster import Forecaster

MOST_DATES: Final = 50_000
"""Different texts in the column of dates: more are no days."""
Words = dict[int, tuple[str, str]]
"""By a value: what is amiss with it, and the kind of that."""


@dataclass
class Reading:
    """A file's rows as records on disk; ``close`` lets go of them.

    ``columns``: the file's column of each field. ``dates``: the different dates and their places.
    ``stores``: the different numbers. ``days``: the day of each date.
    """

    columns: dict[str, str]
    records: Scratch
    count: int = 0
    faulty: bool = False
    dates: dict[str, int] = field(default_factory=dict)
    stores: set[int] = field(default_factory=set)
    days: Codes = field(default_factory=lambda: np.empty(0, np.int32))
    date_format: str = ""

    def rows(self, start: int, count: int) -> Rows:
        """``count`` of the rows from ``start`` on, where none has a fault."""
        return to_rows(self.records.at(start, count), self.days)

    def close(self) -> None:
        """Let go of the file of records."""
        self.records.close()


def read_records(name: str, parts: Parts, path: Path, most: int) -> Reading:
    """Read the fields of every row into a file at ``path``.

    Raises ``BrokenRule`` for a table that lacks columns or rows, ``TooLarge`` for one with more
    than ``most`` rows.
    """
    columns = field_columns(name, parts.columns)
    reading = Reading(columns, Scratch(path, RECORD))
    known = {name: field_values(name) for name in FIELDS if name != "Date"}
    weekday = _Weekday(weekday_values(), spellings(parts.columns, "DayOfWeek")[:1])
    filled = 0
    for batch in parts.read():
        records = _records(batch, reading, known, weekday)
        some = np.flatnonzero(~all_missing(records, FIELDS))
        filled = reading.count + int(some[-1]) + 1 if len(some) else filled
        reading.count += len(records)
        reading.records.add(records)
        if reading.count > most:
            msg = f"a file may hold at most {most:,} rows: send them in parts"
            raise TooLarge([Fault(("rows",), msg, "too_many_rows")])
        if len(reading.dates) > MOST_DATES:
            msg = f"Date holds more than {MOST_DATES:,} different texts: they cannot all be days"
            raise RequestError([Fault(("rows", 0, "Date"), msg, "date_format")])
    reading.records.done()
    if filled < reading.count:
        reading.count = _end(parts, filled)
    if not reading.count:
        raise BrokenRule(f"{name} has column names but no rows")
    return reading


@dataclass(frozen=True)
class _Weekday:
    """The column of weekdays, where there is one."""

    values: Values
    column: list[str]

    def codes(self, batch: pa.RecordBatch) -> Codes | int:
        """What each row says."""
        return self.values.codes(batch.column(self.column[0]))[0] if self.column else MISSING


def _records(
    batch: pa.RecordBatch, reading: Reading, known: dict[str, Values], weekday: _Weekday
) -> Records:
    records = np.empty(len(batch), RECORD)
    records["Date"] = date_codes(batch.column(reading.columns["Date"]), reading.dates)
    records["DayOfWeek"] = weekday.codes(batch)
    for name, values in known.items():
        records[name], different = values.codes(batch.column(reading.columns[name]))
        if name == "Store":
            reading.stores.update(different[different >= 0].tolist())
    for name in FIELDS:
        wrong = records[name] == WRONG if name == "Open" else records[name] < 0
        reading.faulty = reading.faulty or bool(wrong.any())
    return records


def _end(parts: Parts, filled: int) -> int:
    """How many rows there are without the empty ones at the end, of which ``filled`` are known."""
    done = 0
    for batch in parts.read():
        begin = max(filled - done, 0)
        for column in batch.slice(begin).columns if begin < len(batch) else ():
            some = plain(series_of(column)).is_not_null().arg_true()
            last = done + begin + int(some[-1]) + 1 if len(some) else 0
            filled = max(filled, last)
        done += len(batch)
    return filled


@dataclass(frozen=True)
class Settled:
    """What the values of a file may be, and its origin; words for those that may not."""

    origin: int
    stores: Words
    dates: Words
    options: list[Fault]


def settle(reading: Reading, forecaster: Forecaster, asked: Asked, objective: Objective) -> Settled:
    """Settle how dates are read, and the origin; looks at each different value once.

    Raises ``RequestError`` where dates can be read in more than one way.
    """
    texts = list(reading.dates)
    try:
        reading.date_format = asked.date_format or settle_format(texts)
    except AmbiguousDates as error:
        msg = f"{error}, with date_format={error.formats[0]} or another"
        raise RequestError([Fault(("date_format",), msg, "ambiguous_dates")]) from error
    read = parse_dates(texts, reading.date_format)
    epoch = EPOCH.toordinal()
    days = [read[text].toordinal() - epoch if text in read else None for text in texts]
    reading.days = np.array([0 if day is None else day for day in days], np.int32)
    panel = forecaster.panel
    numbers = sorted(reading.stores)
    unknown: Words = {
        numbers[int(fault.loc[1])]: (fault.msg, fault.type)
        for fault in store_faults(panel, dict(enumerate(numbers)))
    }
    dates: Words = {}
    for place, (text, day) in enumerate(zip(texts, days, strict=True)):
        if day is None:
            dates[place] = ("", "")  # worded row by row, as every other text that is no value
        elif (said := day_fault(panel, text, day)) is not None:
            dates[place] = said
    options: list[Fault] = []
    origin = _origin(reading, forecaster, asked, objective, dates, options)
    return Settled(origin, unknown, dates, options)


def _origin(
    reading: Reading,
    forecaster: Forecaster,
    asked: Asked,
    objective: Objective,
    dates: Words,
    options: list[Fault],
) -> int:
    """The origin that the forecaster gives one row for each good date."""
    good = [place for place in range(len(reading.days)) if place not in dates]
    panel = forecaster.panel
    day = reading.days[good] if good else np.array([panel.last_day + 1], np.int32)
    store = np.full(len(day), panel.store_numbers[0], np.int32)
    none = np.zeros(len(day), np.uint8)
    sample = Rows(store, day, none, none, none, none)
    try:
        return forecaster.settle(sample, asked.as_of, asked.levels, objective)
    except RequestError as error:
        for fault in error.faults:
            if fault.loc[0] == "inputs" and good:
                dates[good[int(fault.loc[1])]] = (fault.msg, fault.type)
            elif fault.loc[0] != "inputs":
                options.append(fault)
    return 0
