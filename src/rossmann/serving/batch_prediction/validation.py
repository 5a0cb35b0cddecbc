"""The first reading of a file: every rule for every row, and the one origin of them all.

MERGED: Every fault of every row of a file, with its place; the first thousand in words.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from rossmann.data.uploads.fields import (
    REQUIRED_FIELDS,
    AmbiguousDatesError,
    detect_date_format,
    field_columns,
    field_text,
    invalid_value_error,
    matching_columns,
    parse_dates,
)
from rossmann.data.uploads.table_chunks import TableChunks, to_arrow, to_series
from rossmann.data.uploads.table_reader import normalize_text
from rossmann.epoch_days import EPOCH
from rossmann.errors import DataValidationError, ErrorDetail, PayloadTooLargeError, RequestError
from rossmann.models.inference.forecaster import Forecaster
from rossmann.models.inference.row_checks import check_day, check_stores
from rossmann.schema import Objective, StoreDays
from rossmann.serving.batch_prediction.row_records import (
    INVALID,
    MISSING,
    ROW_DTYPE,
    ArrayFile,
    Codes,
    ColumnEncoder,
    Records,
    date_codes,
    field_encoder,
    is_empty_row,
    to_rows,
    weekday_encoder,
)
from rossmann.serving.batch_prediction.upload import BatchOptions

MAX_DISTINCT_DATES: Final = 50_000
"""Different texts in the column of dates: more are no days."""
ValueErrors = dict[int, tuple[str, str]]
"""By a value: what is amiss with it, and the kind of that."""


@dataclass
class ParsedFile:
    """A file's rows as records on disk; ``close`` lets go of them.

    ``columns``: the file's column of each field. ``dates``: the different dates and their places.
    ``stores``: the different numbers. ``days``: the day of each date.
    """

    columns: dict[str, str]
    records: ArrayFile
    count: int = 0
    faulty: bool = False
    dates: dict[str, int] = field(default_factory=dict)
    stores: set[int] = field(default_factory=set)
    days: Codes = field(default_factory=lambda: np.empty(0, np.int32))
    date_format: str = ""

    def rows(self, start: int, count: int) -> StoreDays:
        """``count`` of the rows from ``start`` on, where none has a fault."""
        return to_rows(self.records.at(start, count), self.days)

    def close(self) -> None:
        """Let go of the file of records."""
        self.records.close()


def parse_file(name: str, parts: TableChunks, path: Path, most: int) -> ParsedFile:
    """Read the fields of every row into a file at ``path``.

    Raises ``BrokenRule`` for a table that lacks columns or rows, ``TooLarge`` for one with more
    than ``most`` rows.
    """
    columns = field_columns(name, parts.columns)
    reading = ParsedFile(columns, ArrayFile(path, ROW_DTYPE))
    known = {name: field_encoder(name) for name in REQUIRED_FIELDS if name != "Date"}
    weekday = _Weekday(weekday_encoder(), matching_columns(parts.columns, "DayOfWeek")[:1])
    filled = 0
    for batch in parts.read():
        records = _records(batch, reading, known, weekday)
        some = np.flatnonzero(~is_empty_row(records, REQUIRED_FIELDS))
        filled = reading.count + int(some[-1]) + 1 if len(some) else filled
        reading.count += len(records)
        reading.records.add(records)
        if reading.count > most:
            msg = f"a file may hold at most {most:,} rows: send them in parts"
            raise PayloadTooLargeError([ErrorDetail(("rows",), msg, "too_many_rows")])
        if len(reading.dates) > MAX_DISTINCT_DATES:
            msg = f"Date holds more than {MAX_DISTINCT_DATES:,} different texts: they cannot all be days"
            raise RequestError([ErrorDetail(("rows", 0, "Date"), msg, "date_format")])
    reading.records.done()
    if filled < reading.count:
        reading.count = _end(parts, filled)
    if not reading.count:
        raise DataValidationError(f"{name} has column names but no rows")
    return reading


@dataclass(frozen=True)
class _Weekday:
    """The column of weekdays, where there is one."""

    values: ColumnEncoder
    column: list[str]

    def codes(self, batch: pa.RecordBatch) -> Codes | int:
        """What each row says."""
        return self.values.codes(batch.column(self.column[0]))[0] if self.column else MISSING


def _records(
    batch: pa.RecordBatch, reading: ParsedFile, known: dict[str, ColumnEncoder], weekday: _Weekday
) -> Records:
    records = np.empty(len(batch), ROW_DTYPE)
    records["Date"] = date_codes(batch.column(reading.columns["Date"]), reading.dates)
    records["DayOfWeek"] = weekday.codes(batch)
    for name, values in known.items():
        records[name], different = values.codes(batch.column(reading.columns[name]))
        if name == "Store":
            reading.stores.update(different[different >= 0].tolist())
    for name in REQUIRED_FIELDS:
        wrong = records[name] == INVALID if name == "Open" else records[name] < 0
        reading.faulty = reading.faulty or bool(wrong.any())
    return records


def _end(parts: TableChunks, filled: int) -> int:
    """How many rows there are without the empty ones at the end, of which ``filled`` are known."""
    done = 0
    for batch in parts.read():
        begin = max(filled - done, 0)
        for column in batch.slice(begin).columns if begin < len(batch) else ():
            some = normalize_text(to_series(column)).is_not_null().arg_true()
            last = done + begin + int(some[-1]) + 1 if len(some) else 0
            filled = max(filled, last)
        done += len(batch)
    return filled


@dataclass(frozen=True)
class ValidatedFile:
    """What the values of a file may be, and its origin; words for those that may not."""

    origin: int
    stores: ValueErrors
    dates: ValueErrors
    options: list[ErrorDetail]


def validate_file(
    reading: ParsedFile, forecaster: Forecaster, asked: BatchOptions, objective: Objective
) -> ValidatedFile:
    """Settle how dates are read, and the origin; looks at each different value once.

    Raises ``RequestError`` where dates can be read in more than one way.
    """
    texts = list(reading.dates)
    try:
        reading.date_format = asked.date_format or detect_date_format(texts)
    except AmbiguousDatesError as error:
        msg = f"{error}, with date_format={error.formats[0]} or another"
        raise RequestError([ErrorDetail(("date_format",), msg, "ambiguous_dates")]) from error
    read = parse_dates(texts, reading.date_format)
    epoch = EPOCH.toordinal()
    days = [read[text].toordinal() - epoch if text in read else None for text in texts]
    reading.days = np.array([0 if day is None else day for day in days], np.int32)
    panel = forecaster.panel
    numbers = sorted(reading.stores)
    unknown: ValueErrors = {
        numbers[int(fault.loc[1])]: (fault.msg, fault.type)
        for fault in check_stores(panel, dict(enumerate(numbers)))
    }
    dates: ValueErrors = {}
    for place, (text, day) in enumerate(zip(texts, days, strict=True)):
        if day is None:
            dates[place] = ("", "")  # worded row by row, as every other text that is no value
        elif (said := check_day(panel, text, day)) is not None:
            dates[place] = said
    options: list[ErrorDetail] = []
    origin = _origin(reading, forecaster, asked, objective, dates, options)
    return ValidatedFile(origin, unknown, dates, options)


def _origin(
    reading: ParsedFile,
    forecaster: Forecaster,
    asked: BatchOptions,
    objective: Objective,
    dates: ValueErrors,
    options: list[ErrorDetail],
) -> int:
    """The origin that the forecaster gives one row for each good date."""
    good = [place for place in range(len(reading.days)) if place not in dates]
    panel = forecaster.panel
    day = reading.days[good] if good else np.array([panel.last_day + 1], np.int32)
    store = np.full(len(day), panel.store_numbers[0], np.int32)
    none = np.zeros(len(day), np.uint8)
    sample = StoreDays(store, day, none, none, none, none)
    try:
        return forecaster.resolve_origin(sample, asked.as_of, asked.levels, objective)
    except RequestError as error:
        for fault in error.faults:
            if fault.loc[0] == "inputs" and good:
                dates[good[int(fault.loc[1])]] = (fault.msg, fault.type)
            elif fault.loc[0] != "inputs":
                options.append(fault)
    return 0


MAX_REPORTED_ERRORS: Final = 1_000
"""Faults that an answer lists; it tells how many more there are."""
ErrorMasks = dict[str, npt.NDArray[np.bool_]]


def raise_row_errors(parts: TableChunks, reading: ParsedFile, settled: ValidatedFile) -> None:
    """Raise ``RequestError`` with the faults of options and rows, if there are any."""
    if not (reading.faulty or settled.stores or settled.dates or settled.options):
        return
    told, count, done = list(settled.options), 0, 0
    for batch in parts.read():
        length = min(len(batch), reading.count - done)
        records = reading.records.at(done, length)
        marks = _marks(records, settled)
        count += sum(int(mark.sum()) for mark in marks.values())
        if len(told) < MAX_REPORTED_ERRORS:
            told += _worded(batch, records, marks, done, reading, settled)
        done += length
    if not told and not count:
        return  # what looked amiss were empty rows at the end
    more = count + len(settled.options) - len(told[:MAX_REPORTED_ERRORS])
    told = told[:MAX_REPORTED_ERRORS]
    if more:
        told.append(ErrorDetail(("rows",), f"{more:,} more faults are not listed", "more_faults"))
    raise RequestError(told)


def _marks(records: Records, settled: ValidatedFile) -> ErrorMasks:
    """Which rows are at fault, by field; an empty row's fault is that of the field ''."""
    empty = is_empty_row(records, REQUIRED_FIELDS)
    marks: ErrorMasks = {"": empty}
    for name in REQUIRED_FIELDS:
        codes = records[name]
        bad = codes == INVALID if name == "Open" else codes < 0
        for known, words in (("Store", settled.stores), ("Date", settled.dates)):
            if name == known and words:
                bad = bad | np.isin(codes, list(words))
        marks[name] = bad & ~empty
    return marks


def _worded(
    batch: pa.RecordBatch,
    records: Records,
    marks: ErrorMasks,
    start: int,
    reading: ParsedFile,
    settled: ValidatedFile,
) -> Iterator[ErrorDetail]:
    """The faults of a part's first bad rows, by row, then by field."""
    any_bad = np.logical_or.reduce(list(marks.values()))
    rows = np.flatnonzero(any_bad)[:MAX_REPORTED_ERRORS]
    texts = {
        name: field_text(to_series(_taken(batch.column(reading.columns[name]), rows))).to_list()
        for name in REQUIRED_FIELDS
    }
    for place, row in enumerate(rows.tolist()):
        at = start + row
        if marks[""][row]:
            yield ErrorDetail(("rows", at), "the row is empty", "missing")
        for name in REQUIRED_FIELDS:
            if marks[name][row]:
                words: ValueErrors = {"Store": settled.stores, "Date": settled.dates}.get(name, {})
                code = int(records[name][row])
                said = words.get(code, ("", "")) if code >= 0 else ("", "")
                if not said[0]:
                    got = None if code == MISSING else texts[name][place]
                    said = invalid_value_error(name, got, reading.date_format)
                yield ErrorDetail(("rows", at, name), *said)


def _taken(column: pa.Array, rows: npt.NDArray[np.int64]) -> pa.Array:
    found = column.take(to_arrow(rows))
    return found.dictionary_decode() if pa.types.is_dictionary(found.type) else found
