"""Convert a user's table to forecast rows: six fields, each error with its row and column.

An invalid row does not stop the others. ``notes`` report what was filled or decided by rule.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from rossmann.data.uploads.fields import (
    EMPTY_ROW,
    REQUIRED_FIELDS,
    FieldColumns,
    default_open,
    field_columns,
    field_value,
    invalid_value_error,
    normalize_text,
    repeated_day_errors,
)
from rossmann.data.uploads.file_formats import FileFormat
from rossmann.data.uploads.result_files import (
    ResultFormat,
    kept_columns,
    result_decimal,
    write_frame,
)
from rossmann.data.uploads.sandboxed_reader import SandboxedReader
from rossmann.data.uploads.table_reader import WholeTable, read_table, unique_names
from rossmann.data.uploads.value_formats import DecimalMark, detect_date_format, parse_dates
from rossmann.epoch_days import weekday_of
from rossmann.errors import DataValidationError, ErrorDetail
from rossmann.schema import STATE_HOLIDAYS, FloatArray, StoreDays


@dataclass(frozen=True)
class UploadSource:
    """The table of an upload as its file has it.

    ``decimal``: None where no value depends on it. ``values``: the six fields of every row as
    numbers and dates, null where they are invalid.
    """

    table: WholeTable
    columns: FieldColumns
    decimal: DecimalMark | None
    date_format: str
    values: pl.DataFrame


@dataclass
class Upload:
    """An uploaded table and its valid rows.

    ``rows``: the n valid rows, in the file's order; ``index`` (n,): their row numbers in ``frame``;
    ``frame``: every row and column as text; ``errors``: each with ``loc`` (row number from 1,
    column); ``notes``: for people, what was filled or decided by rule; ``weekday_mismatch`` (n,):
    DayOfWeek contradicts Date; ``open_missing`` (n,): the row leaves Open empty.
    """

    rows: StoreDays
    index: npt.NDArray[np.int64]
    frame: pl.DataFrame
    errors: list[ErrorDetail]
    notes: list[str]
    weekday_mismatch: npt.NDArray[np.bool_]
    open_missing: npt.NDArray[np.bool_]
    source: UploadSource

    def repeated_days(self, usable: npt.NDArray[np.bool_] | None = None) -> list[ErrorDetail]:
        """An error for each valid row whose store and day an earlier one has; see ``errors``.

        Totals must not hold such rows. ``usable`` (n,): the valid rows that count; else all.
        """
        rows = np.arange(len(self.rows)) if usable is None else np.flatnonzero(usable)
        index = self.index[rows]
        repeated = repeated_day_errors(
            self.rows.take(rows), lambda row: self.source.table.position(index[row])
        )
        return [replace(error, loc=(int(index[int(error.loc[0])]) + 1,)) for error in repeated]

    def stores_and_days(self, invalid_only: bool = False) -> "StoresAndDays":
        """The stores and days of all rows, or of the invalid ones: a row may have both faults."""
        values = self.source.values.select("Store", "Date").with_row_index("row")
        if invalid_only:
            values = values.filter(~pl.col("row").is_in(self.index))
        parts = [
            values.drop_nulls(field)
            .group_by(field, maintain_order=True)
            .agg("row")
            .with_columns(field=pl.lit(field))
            for field in ("Date", "Store")
        ]
        found = pl.concat(parts, how="diagonal").with_columns(
            # Of a row only one value counts; the other must be of the right kind.
            pl.col("Store").fill_null(1),
            pl.col("Date").fill_null(pl.col("Date").max()).fill_null(date(2015, 8, 1)),
        )
        zeros = np.zeros(found.height, np.uint8)
        return StoresAndDays(
            StoreDays(
                found["Store"].to_numpy().astype(np.int32),
                found["Date"].to_physical().to_numpy().astype(np.int32),
                *(zeros, zeros, zeros, zeros),
            ),
            found.select("field", "row"),
        )

    def without(self, errors: Sequence[ErrorDetail]) -> "Upload":
        """The same without the valid rows that have one of ``errors``, which are added."""
        faulty = {int(error.loc[0]) - 1 for error in errors}
        keep = np.array([row not in faulty for row in self.index.tolist()], np.bool_)
        return replace(
            self,
            rows=self.rows.take(np.flatnonzero(keep)),
            index=self.index[keep],
            errors=sort_by_row([*self.errors, *errors]),
            weekday_mismatch=self.weekday_mismatch[keep],
            open_missing=self.open_missing[keep],
        )


@dataclass(frozen=True)
class StoresAndDays:
    """One row for each store and for each day of an upload, for checks that need a panel.

    ``rows``: the m rows; all but the value of ``source``'s ``field`` are substitutes.
    ``source`` (m rows): ``field`` and the indices ``row`` of the file's rows with that value.
    """

    rows: StoreDays
    source: pl.DataFrame

    def refused_table(self) -> pl.DataFrame:
        """The m >= 1 rows as a table that a service checks and always refuses: seven fields.

        Rows that nobody asked for must be neither forecast nor logged: the first Open is invalid.
        """
        rows, zeros = self.rows, self.rows.promo
        day, opens = pl.Series(rows.day).cast(pl.Date), pl.Series([9, *rows.open[1:].tolist()])
        values = (rows.store, day, opens, zeros, zeros, zeros)
        fields = dict(zip(REQUIRED_FIELDS, values, strict=True))
        return pl.DataFrame({**fields, "DayOfWeek": weekday_of(rows.day) + 1})

    def errors_of(self, found: Iterable[ErrorDetail]) -> list[ErrorDetail]:
        """Errors of a request with ``rows`` as those of the file's rows; see ``Upload.errors``."""
        errors = []
        for error in found:
            match error.loc:
                case (_, int(index), str(field)) if self.source["field"][index] == field:
                    rows = self.source["row"][index].to_list()
                    errors += [replace(error, loc=(row + 1, field)) for row in rows]
        return sort_by_row(errors)


def sort_by_row(errors: Sequence[ErrorDetail]) -> list[ErrorDetail]:
    """Errors of an upload by row, then by field."""
    order = {field: place for place, field in enumerate(REQUIRED_FIELDS)}
    return sorted(errors, key=lambda one: (int(one.loc[0]), order.get(str(one.loc[-1]), -1)))


def read_upload(
    name: str,
    content: bytes,
    date_format: str | None = None,
    decimal: DecimalMark | None = None,
    sheet: str | None = None,
    reader: SandboxedReader | None = None,
) -> Upload:
    """Read a table with the six fields; other columns are kept, in any order.

    ``date_format`` (one of ``DATE_FORMATS``), ``decimal`` and ``sheet`` decide where the file does
    not. ``reader``: for formats other than CSV. Raises ``DataValidationError`` for a file that is
    no table, lacks columns or has no rows, ``AmbiguousDatesError`` and ``AmbiguousNumbersError``
    where values have more than one reading.
    """
    table = read_table(name, content, sheet, reader)
    columns = field_columns(name, table.columns)
    if table.frame.is_empty():
        raise DataValidationError(f"{name} has column names but no rows")
    mark = decimal or table.decimal_mark(columns)
    texts = table.field_texts(columns, mark)
    text = pl.DataFrame([texts[field] for field in REQUIRED_FIELDS])
    dates = text["Date"].drop_nulls().unique(maintain_order=True).to_list()
    date_format = date_format or detect_date_format(dates)
    days = parse_dates(dates, date_format)
    values = text.select(field_value(field, days) for field in REQUIRED_FIELDS)
    mismatch = _weekday_mismatches(texts.get("DayOfWeek"), values)
    filled = text.select(pl.any_horizontal(pl.all().is_not_null())).to_series()
    open_missing = filled & text["Open"].is_null()
    default = default_open(pl.col("Date").dt.weekday(), pl.col("StateHoliday"))
    values = values.with_columns(
        pl.when(open_missing).then(default).otherwise("Open").alias("Open")
    )
    valid = values.select(~pl.any_horizontal(pl.all().is_null())).to_series()
    return Upload(
        rows=_rows(values.filter(valid)),
        index=np.asarray(valid.arg_true().to_numpy(), np.int64),
        frame=_as_text(table, texts, columns.index),
        errors=_errors(text, values, date_format),
        notes=[*table.notes, *columns.notes, *_notes(mismatch, open_missing)],
        weekday_mismatch=mismatch.filter(valid).to_numpy(),
        open_missing=open_missing.filter(valid).to_numpy(),
        source=UploadSource(table, columns, mark, date_format, values),
    )


def _as_text(table: WholeTable, texts: dict[str, pl.Series], index: dict[str, int]) -> pl.DataFrame:
    """Every column under its own name as text; the fields as they were read."""
    field_of = {at: field for field, at in index.items()}
    names = unique_names(table.columns)
    return pl.DataFrame(
        [
            (texts[field_of[at]] if at in field_of else table.frame[:, at].cast(pl.String)).alias(n)
            for at, n in enumerate(names)
        ]
    )


@dataclass(frozen=True)
class ResultTable:
    """An upload's rows with added columns, ready to be written.

    ``frame``: the values; ``names``: of its columns in the file. ``notes``: what was renamed.
    """

    frame: pl.DataFrame
    names: list[str]
    form: ResultFormat
    notes: list[str]

    def write(self, path: Path) -> None:
        """Write it; raises ``OSError``."""
        write_frame(self.frame, self.names, self.form, path)


def result_table(
    source: UploadSource,
    added: Mapping[str, pl.Series],
    file_format: FileFormat,
    rows: npt.NDArray[np.int64] | None = None,
) -> ResultTable:
    """The file's own columns as they came, then ``added``, in the file's dialect of CSV.

    ``rows``: those that are written, in their order; without it, all. In Parquet and Excel from
    CSV or Excel, the six fields are numbers and dates, unless a value could not be read as one.
    """
    frame = source.table.frame
    if file_format != "csv" and source.table.file_format != "parquet":
        frame = frame.with_columns(_typed_fields(source))
    frame = frame if rows is None else frame[rows]
    names, notes = kept_columns(source.table.columns, list(added), file_format)
    decimal = result_decimal(source.table.dialect, source.decimal, source.date_format)
    form = ResultFormat(file_format, source.table.dialect, decimal)
    columns = [values.alias(f"added_{index}") for index, values in enumerate(added.values())]
    return ResultTable(frame.with_columns(columns), [*names, *added], form, notes)


def _typed_fields(source: UploadSource) -> Iterator[pl.Series]:
    """The columns of the six fields as the service writes them, but for unreadable ones."""
    for field in REQUIRED_FIELDS:
        index, values = source.columns.index[field], source.values[field]
        text = source.table.frame[:, index]
        if (values.is_null() & normalize_text(text).is_not_null()).any():
            continue
        if field == "StateHoliday":
            values = pl.Series(STATE_HOLIDAYS, dtype=pl.String).gather(values)
        elif values.dtype == pl.UInt8:
            values = values.cast(pl.Int8)
        yield values.alias(f"c{index}")


def submission_table(upload: Upload, sales: FloatArray) -> pl.DataFrame:
    """What the Kaggle competition takes: a row ``Id``, ``Sales`` for every row of the upload.

    ``sales`` (n,): of its valid rows, which must be all. Raises ``DataValidationError`` for a table
    without a column of ids, and for an id that is missing, no whole number, or there twice.
    """
    table = upload.source.table
    named = [at for at, name in enumerate(table.columns) if name.strip().lower() == "id"]
    if len(named) != 1:
        raise DataValidationError(
            f"{table.name} must have one column Id for a submission, as Kaggle's test.csv has;"
            f" it has {len(named)}"
        )
    text = normalize_text(table.frame[:, named[0]].cast(pl.String))
    ids = text.cast(pl.Int64, strict=False)
    wrong = (ids.is_null() | ids.is_duplicated()).arg_true()
    if len(wrong):
        raise DataValidationError(
            f"{table.name} has {len(wrong):,} rows whose Id is missing, no whole number or there"
            f" twice, the first in {table.position(int(wrong[0]))}: {text[int(wrong[0])]}"
        )
    return pl.DataFrame({"Id": ids.gather(upload.index), "Sales": sales})


def template_csv() -> str:
    """A table to fill in: the six fields and three rows as an example."""
    rows = ("1,2015-08-01,1,0,0,1", "1,2015-08-02,0,0,0,1", "1,2015-08-03,1,1,0,1")
    return "\n".join((",".join(REQUIRED_FIELDS), *rows, ""))


def _weekday_mismatches(weekday: pl.Series | None, values: pl.DataFrame) -> pl.Series:
    """Rows whose DayOfWeek contradicts their Date; False where either is missing or invalid."""
    if weekday is None:
        return pl.repeat(False, values.height, dtype=pl.Boolean, eager=True)
    number = weekday.cast(pl.Int64, strict=False)
    return (number != values["Date"].dt.weekday()).fill_null(False)


def _notes(weekday_mismatch: pl.Series, open_missing: pl.Series) -> Iterator[str]:
    if open_missing.any():
        yield (
            f"{_count(open_missing)} not say whether the store opens: "
            "taken as open, but for Sundays and state holidays"
        )
    if weekday_mismatch.any():
        yield f"{_count(weekday_mismatch)} not have the weekday of their Date: the Date decides"


def _count(mask: pl.Series) -> str:
    rows = int(mask.sum())
    return "1 row does" if rows == 1 else f"{rows:,} rows do"


def _errors(text: pl.DataFrame, values: pl.DataFrame, date_format: str) -> list[ErrorDetail]:
    """The error of each row without fields and of each invalid value, by row, then by field."""
    empty = text.select(pl.all_horizontal(pl.all().is_null())).to_series()
    errors: dict[tuple[int, int], ErrorDetail] = {
        (row, 0): ErrorDetail((row + 1,), EMPTY_ROW, "missing")
        for row in empty.arg_true().to_list()
    }
    for position, field in enumerate(REQUIRED_FIELDS):
        rows = (values[field].is_null() & ~empty).arg_true()
        for row, value in zip(rows.to_list(), text[field].gather(rows).to_list(), strict=True):
            message, error_type = invalid_value_error(field, value, date_format)
            errors[row, position] = ErrorDetail((row + 1, field), message, error_type)
    return [errors[key] for key in sorted(errors)]


def _rows(values: pl.DataFrame) -> StoreDays:
    return StoreDays(
        store=values["Store"].to_numpy().astype(np.int32),
        day=values["Date"].to_physical().to_numpy().astype(np.int32),
        open=values["Open"].to_numpy().astype(np.uint8),
        promo=values["Promo"].to_numpy().astype(np.uint8),
        state_holiday=values["StateHoliday"].to_numpy().astype(np.uint8),
        school_holiday=values["SchoolHoliday"].to_numpy().astype(np.uint8),
    )
