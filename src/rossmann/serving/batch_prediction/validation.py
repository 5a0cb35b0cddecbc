"""First pass over an uploaded file: row records on disk, every row checked, and the one origin.

Errors are listed row by row, field by field; those beyond ``MAX_REPORTED_ERRORS`` are counted.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from rossmann.data.uploads.fields import (
    EMPTY_ROW,
    REQUIRED_FIELDS,
    FieldColumns,
    field_columns,
    field_text,
    invalid_value_error,
    normalize_text,
)
from rossmann.data.uploads.parquet_chunks import CHUNK_ROWS, to_arrow, to_series
from rossmann.data.uploads.table_reader import OpenTable
from rossmann.data.uploads.value_formats import (
    AmbiguousDatesError,
    AmbiguousNumbersError,
    DecimalMark,
    detect_date_format,
    detect_decimal_mark,
    parse_dates,
)
from rossmann.epoch_days import to_day
from rossmann.errors import (
    MAX_REPORTED_ERRORS,
    DataValidationError,
    ErrorDetail,
    PayloadTooLargeError,
    RequestError,
    cut_errors,
)
from rossmann.models.inference.forecaster import Forecaster, ForecastRequest
from rossmann.models.inference.row_checks import check_day, check_stores
from rossmann.schema import StoreDays
from rossmann.serving.batch_prediction.row_records import (
    INVALID,
    MISSING,
    ROW_DTYPE,
    ArrayFile,
    Codes,
    Records,
    encode_dates,
    field_encoder,
    is_empty_row,
    to_rows,
    weekday_encoder,
)
from rossmann.serving.batch_prediction.upload import BatchOptions

MAX_DISTINCT_DATES: Final = 50_000
"""Distinct texts in the column of dates: more of them cannot all be days."""
"""Errors that a response lists; it gives the number of the others."""
ValueErrors = dict[int, tuple[str, str]]
"""Message and type of the error of each invalid value, by its code."""
ErrorMasks = dict[str, npt.NDArray[np.bool_]]
"""Which rows have an error, (n,), by field."""


@dataclass
class ParsedFile:
    """An uploaded table and its rows as records on disk.

    ``columns``: the table's column of each field. ``dates``: the index of each distinct date text.
    ``stores``: the distinct store numbers. ``days``: the epoch day of each distinct date.
    ``decimal``: the decimal mark, None where no value depends on it.
    """

    table: OpenTable
    columns: FieldColumns
    records: ArrayFile
    decimal: DecimalMark | None = None
    count: int = 0
    has_errors: bool = False
    dates: dict[str, int] = field(default_factory=dict)
    stores: set[int] = field(default_factory=set)
    days: Codes = field(default_factory=lambda: np.empty(0, np.int32))
    date_format: str = ""

    @property
    def notes(self) -> list[str]:
        """What was skipped or read by a synonym, for people."""
        return [*self.table.notes, *self.columns.notes]

    def rows(self, start: int, count: int) -> StoreDays:
        """``count`` rows from ``start`` on, of a file without errors."""
        return to_rows(self.records.read(start, count), self.days)

    def close(self) -> None:
        """Close the file of records."""
        self.records.close()


def parse_file(
    name: str, table: OpenTable, path: Path, max_rows: int, decimal: DecimalMark | None
) -> ParsedFile:
    """Parse the fields of every row into a file at ``path``.

    Numbers are read by the whole file: where their texts turn out to need a decimal mark, the file
    is parsed once more with it. Raises ``DataValidationError`` for a table that lacks columns or
    rows, ``PayloadTooLargeError`` for one with more than ``max_rows`` rows, ``RequestError`` where
    numbers can be read in more than one way.
    """
    columns = field_columns(name, table.columns)
    parsed, marked = _parse(table, columns, path, max_rows, decimal)
    if decimal is None and any(marked):
        parsed.close()
        texts = [pl.Series(list(one), dtype=pl.String) for one in marked]
        try:
            decimal = detect_decimal_mark(texts, _decimal_comma_hints(table, columns))
        except AmbiguousNumbersError as error:
            msg = f"{error}, with decimal=. or decimal=,"
            raise RequestError([ErrorDetail(("decimal",), msg, "ambiguous_numbers")]) from error
        parsed, _ = _parse(table, columns, path, max_rows, decimal)
    if not parsed.count:
        parsed.close()
        raise DataValidationError(f"{name} has column names but no rows")
    return parsed


def _decimal_comma_hints(table: OpenTable, columns: FieldColumns) -> Iterator[pl.Series]:
    """The distinct texts of columns that no field takes, of a CSV without commas as separators."""
    if table.dialect is None or table.dialect.separator == ",":
        return
    others = [i for i in range(len(table.columns)) if i not in set(columns.index.values())]
    for index in others:
        texts: set[str] = set()
        for batch in table.read():
            texts.update(normalize_text(to_series(batch.column(index))).drop_nulls().to_list())
            if len(texts) > CHUNK_ROWS:
                break
        else:
            yield pl.Series(list(texts), dtype=pl.String)


def _parse(
    table: OpenTable, columns: FieldColumns, path: Path, max_rows: int, decimal: DecimalMark | None
) -> tuple[ParsedFile, list[set[str]]]:
    """The parsed file, and the texts of each number field that hold a point or a comma."""
    parsed = ParsedFile(table, columns, ArrayFile(path, ROW_DTYPE), decimal)
    encoder = _RowEncoder(parsed)
    for batch in table.read():
        records = encoder.encode(batch)
        parsed.count += len(records)
        parsed.records.append(records)
        if parsed.count > max_rows:
            msg = f"a file may hold at most {max_rows:,} rows: send them in parts"
            raise PayloadTooLargeError([ErrorDetail(("rows",), msg, "too_many_rows")])
        if len(parsed.dates) > MAX_DISTINCT_DATES:
            msg = (
                f"Date holds more than {MAX_DISTINCT_DATES:,} different texts: they cannot all be"
                " days"
            )
            raise RequestError([ErrorDetail(("rows", 0, "Date"), msg, "date_format")])
    parsed.records.flush()
    return parsed, encoder.marked


class _RowEncoder:
    """Encodes record batches; notes distinct dates and stores in ``parsed``."""

    def __init__(self, parsed: ParsedFile) -> None:
        self._parsed = parsed
        mark = parsed.decimal
        self._fields = {
            name: field_encoder(name, mark) for name in REQUIRED_FIELDS if name != "Date"
        }
        self._weekday = weekday_encoder(mark)

    @property
    def marked(self) -> list[set[str]]:
        return [encoder.marked for encoder in (*self._fields.values(), self._weekday)]

    def encode(self, batch: pa.RecordBatch) -> Records:
        parsed, index = self._parsed, self._parsed.columns.index
        records = np.empty(len(batch), ROW_DTYPE)
        records["Date"] = encode_dates(batch.column(index["Date"]), parsed.dates)
        records["DayOfWeek"] = MISSING
        if "DayOfWeek" in index:
            records["DayOfWeek"], _ = self._weekday.encode(batch.column(index["DayOfWeek"]))
        for name, encoder in self._fields.items():
            records[name], distinct = encoder.encode(batch.column(index[name]))
            if name == "Store":
                parsed.stores.update(distinct[distinct >= 0].tolist())
        for name in REQUIRED_FIELDS:
            parsed.has_errors = parsed.has_errors or bool(_is_invalid(records, name).any())
        return records


def _is_invalid(records: Records, field: str) -> npt.NDArray[np.bool_]:
    """Which rows have no valid value in a field; ``Open`` may be missing."""
    codes = records[field]
    return np.asarray(codes == INVALID if field == "Open" else codes < 0)


@dataclass(frozen=True)
class ValidatedFile:
    """The origin of a file, and the errors of its options and of its distinct values."""

    origin: int
    store_errors: ValueErrors
    date_errors: ValueErrors
    option_errors: list[ErrorDetail]


def validate_file(
    parsed: ParsedFile, forecaster: Forecaster, options: BatchOptions
) -> ValidatedFile:
    """Detect the date format, check each distinct value once, and resolve the origin.

    Raises ``RequestError`` where dates can be read in more than one way.
    """
    texts = list(parsed.dates)
    try:
        parsed.date_format = options.date_format or detect_date_format(texts)
    except AmbiguousDatesError as error:
        msg = f"{error}, with date_format={error.formats[0]} or another"
        raise RequestError([ErrorDetail(("date_format",), msg, "ambiguous_dates")]) from error
    dates = parse_dates(texts, parsed.date_format)
    days = [to_day(dates[text]) if text in dates else None for text in texts]
    parsed.days = np.array([0 if day is None else day for day in days], np.int32)
    panel = forecaster.panel
    numbers = sorted(parsed.stores)
    store_errors: ValueErrors = {
        numbers[int(error.loc[1])]: (error.msg, error.type)
        for error in check_stores(panel, dict(enumerate(numbers)))
    }
    date_errors: ValueErrors = {}
    for index, (text, day) in enumerate(zip(texts, days, strict=True)):
        if day is None:
            date_errors[index] = ("", "")  # gets the message of every invalid text
        elif (day_error := check_day(panel, text, day)) is not None:
            date_errors[index] = day_error
    origin, option_errors = _resolve_origin(parsed, forecaster, options, date_errors)
    return ValidatedFile(origin, store_errors, date_errors, option_errors)


def _resolve_origin(
    parsed: ParsedFile, forecaster: Forecaster, options: BatchOptions, date_errors: ValueErrors
) -> tuple[int, list[ErrorDetail]]:
    """The origin that one row for each valid date gets, and errors of options.

    Dates that the forecaster refuses are added to ``date_errors``.
    """
    valid = [index for index in range(len(parsed.days)) if index not in date_errors]
    panel = forecaster.panel
    day = parsed.days[valid] if valid else np.array([panel.last_day + 1], np.int32)
    store = np.full(len(day), panel.store_numbers[0], np.int32)
    zeros = np.zeros(len(day), np.uint8)
    sample = StoreDays(store, day, zeros, zeros, zeros, zeros)
    request = ForecastRequest(
        sample, options.as_of, options.levels, options.objective, options.quantiles
    )
    try:
        return forecaster.resolve_origin(request), []
    except RequestError as error:
        row_errors = [detail for detail in error.errors if detail.loc[0] == "inputs"]
        if valid:
            for detail in row_errors:
                date_errors[valid[int(detail.loc[1])]] = (detail.msg, detail.type)
        return 0, [detail for detail in error.errors if detail.loc[0] != "inputs"]


def raise_row_errors(parsed: ParsedFile, validated: ValidatedFile) -> None:
    """Raise ``RequestError`` with the errors of options and rows, if there are any."""
    value_errors = {"Store": validated.store_errors, "Date": validated.date_errors}
    if not (parsed.has_errors or any(value_errors.values()) or validated.option_errors):
        return
    errors, count, done = list(validated.option_errors), 0, 0
    for batch, positions in parsed.table.numbered():
        length = len(batch)
        records = parsed.records.read(done, length)
        masks = _error_masks(records, value_errors)
        count += sum(int(mask.sum()) for mask in masks.values())
        if len(errors) < MAX_REPORTED_ERRORS:
            rows = np.flatnonzero(np.logical_or.reduce(list(masks.values())))[:MAX_REPORTED_ERRORS]
            masks = {name: mask[rows] for name, mask in masks.items()}
            places = [parsed.table.position(number) for number in positions[rows].tolist()]
            texts = _texts(batch, rows, parsed)
            invalid = _InvalidRows(done + rows, places, records[rows], masks, texts)
            errors += invalid.errors(value_errors, parsed.date_format)
        done += length
    raise RequestError(cut_errors(errors, count + len(validated.option_errors)))


def _error_masks(records: Records, value_errors: dict[str, ValueErrors]) -> ErrorMasks:
    """Which rows have an error, by field; a row without any field has only one, of the field ''."""
    empty = is_empty_row(records, REQUIRED_FIELDS)
    masks: ErrorMasks = {"": empty}
    for name in REQUIRED_FIELDS:
        invalid = _is_invalid(records, name)
        if codes := value_errors.get(name):
            invalid = invalid | np.isin(records[name], list(codes))
        masks[name] = invalid & ~empty
    return masks


def _texts(
    batch: pa.RecordBatch, rows: npt.NDArray[np.int64], parsed: ParsedFile
) -> dict[str, list[str | None]]:
    """The texts of some rows of a batch, by field."""
    texts = {}
    for name in REQUIRED_FIELDS:
        column = batch.column(parsed.columns.index[name]).take(to_arrow(rows))
        column = column.dictionary_decode() if pa.types.is_dictionary(column.type) else column
        texts[name] = field_text(name, to_series(column), parsed.decimal).to_list()
    return texts


@dataclass(frozen=True)
class _InvalidRows:
    """Rows with errors: number, place in the file, record, error masks and texts, each (n,)."""

    numbers: npt.NDArray[np.int64]
    places: list[str]
    records: Records
    masks: ErrorMasks
    texts: dict[str, list[str | None]]

    def errors(
        self, value_errors: dict[str, ValueErrors], date_format: str
    ) -> Iterator[ErrorDetail]:
        """Their errors, by row, then by field."""
        for index, (number, place) in enumerate(
            zip(self.numbers.tolist(), self.places, strict=True)
        ):
            if self.masks[""][index]:
                yield ErrorDetail(("rows", number), f"{place}: {EMPTY_ROW}", "missing")
            for name in REQUIRED_FIELDS:
                if not self.masks[name][index]:
                    continue
                code = int(self.records[name][index])
                msg, error_type = value_errors.get(name, {}).get(code, ("", ""))
                if not msg:
                    text = None if code == MISSING else self.texts[name][index]
                    msg, error_type = invalid_value_error(name, text, date_format)
                yield ErrorDetail(("rows", number, name), f"{place}: {msg}", error_type)
