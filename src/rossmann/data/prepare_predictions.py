"""A user's table to rows that can be forecast: six fields, each fault with its row and column.

One bad row costs no other. What is filled or decided by rule is said in ``notes``.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date

import numpy as np
import numpy.typing as npt
import polars as pl

from rossmann.data.uploads.fields import (
    REQUIRED_FIELDS,
    default_open,
    detect_date_format,
    field_columns,
    field_text,
    field_value,
    invalid_value_error,
    matching_columns,
    parse_dates,
)
from rossmann.data.uploads.table_reader import read_table
from rossmann.errors import DataValidationError, ErrorDetail
from rossmann.schema import StoreDays


@dataclass
class Upload:
    """A table as uploaded, and what of it can be forecast.

    ``rows``: the n good rows, in the file's order; ``index``: the place in ``frame`` of each,
    shape (n,); ``frame``: every row and column as text; ``faults``: each with ``loc`` (row number
    from 1, column); ``notes``: what was filled or decided by rule, for people.
    """

    rows: StoreDays
    index: npt.NDArray[np.int64]
    frame: pl.DataFrame
    faults: list[ErrorDetail]
    notes: list[str]


def read_upload(name: str, content: bytes, date_format: str | None = None) -> Upload:
    """Read CSV, Parquet or Excel with the six fields; other columns are kept, in any order.

    ``date_format``: one of ``DATE_FORMATS``; None finds it. Raises ``BrokenRule`` for a file that
    is no table, lacks columns or has no rows, and ``AmbiguousDates`` where dates can be read in
    more than one way.
    """
    frame = read_table(name, content)
    text = _six_fields(name, frame)
    dates = text["Date"].drop_nulls().unique(maintain_order=True).to_list()
    chosen = date_format.strip().upper() if date_format else detect_date_format(dates)
    values = _values(text, parse_dates(dates, chosen))
    notes = list(_notes(frame, text, values))
    values = values.with_columns(
        pl.when(_unsaid(text)).then(_usual()).otherwise("Open").alias("Open")
    )
    faults = _faults(text, values, chosen)
    good = values.select(~pl.any_horizontal(pl.all().is_null())).to_series()
    index = np.asarray(good.arg_true().to_numpy(), np.int64)
    return Upload(_rows(values.filter(good)), index, frame, faults, notes)


def template_csv() -> str:
    """A table to fill in: the six fields and three rows as an example."""
    rows = (
        "1,2015-08-01,1,0,0,1",
        "1,2015-08-02,0,0,0,1",
        "1,2015-08-03,1,1,0,1",
    )
    return "\n".join((",".join(REQUIRED_FIELDS), *rows, ""))


def _six_fields(name: str, frame: pl.DataFrame) -> pl.DataFrame:
    """The six columns under their own names."""
    found = field_columns(name, frame.columns)
    if frame.is_empty():
        raise DataValidationError(f"{name} has column names but no rows")
    return pl.DataFrame([field_text(frame[column]).alias(field) for field, column in found.items()])


def _values(text: pl.DataFrame, days: dict[str, date]) -> pl.DataFrame:
    """Typed columns, null where the text is no such value (or, for Open, empty)."""
    return text.select(field_value(field, days) for field in REQUIRED_FIELDS)


def _unsaid(text: pl.DataFrame) -> pl.Series:
    """Rows that leave Open empty, but are not empty altogether."""
    some = text.select(pl.any_horizontal(pl.all().is_not_null())).to_series()
    return some & text["Open"].is_null()


def _usual() -> pl.Expr:
    return default_open(pl.col("Date").dt.weekday(), pl.col("StateHoliday"))


def _notes(frame: pl.DataFrame, text: pl.DataFrame, values: pl.DataFrame) -> Iterator[str]:
    unsaid = int(_unsaid(text).sum())
    if unsaid:
        yield (
            f"{_count(unsaid)} not say whether the store opens: "
            "taken as open, but for Sundays and state holidays"
        )
    named = matching_columns(frame.columns, "DayOfWeek")
    if named:
        weekday = frame[named[0]].cast(pl.Int64, strict=False)
        off = int((weekday != values["Date"].dt.weekday()).sum())
        if off:
            yield f"{_count(off)} not have the weekday of their Date: the Date decides"


def _count(rows: int) -> str:
    return "1 row does" if rows == 1 else f"{rows:,} rows do"


def _faults(text: pl.DataFrame, values: pl.DataFrame, date_format: str) -> list[ErrorDetail]:
    """Every value that is none, by row, then by column."""
    empty = text.select(pl.all_horizontal(pl.all().is_null())).to_series()
    found: list[tuple[int, int, ErrorDetail]] = [
        (row, 0, ErrorDetail((row + 1,), "the row is empty", "missing"))
        for row in empty.arg_true().to_list()
    ]
    for place, field in enumerate(REQUIRED_FIELDS):
        rows = (values[field].is_null() & ~empty).arg_true()
        for row, got in zip(rows.to_list(), _gather(text[field], rows), strict=True):
            found.append(
                (
                    row,
                    place,
                    ErrorDetail((row + 1, field), *invalid_value_error(field, got, date_format)),
                )
            )
    return [fault for _, _, fault in sorted(found, key=lambda item: item[:2])]


def _gather(column: pl.Series, rows: pl.Series) -> Sequence[str | None]:
    texts: list[str | None] = column.gather(rows).to_list()
    return texts


def _rows(values: pl.DataFrame) -> StoreDays:
    return StoreDays(
        store=values["Store"].to_numpy().astype(np.int32),
        day=values["Date"].to_physical().to_numpy().astype(np.int32),
        open=values["Open"].to_numpy().astype(np.uint8),
        promo=values["Promo"].to_numpy().astype(np.uint8),
        state_holiday=values["StateHoliday"].to_numpy().astype(np.uint8),
        school_holiday=values["SchoolHoliday"].to_numpy().astype(np.uint8),
    )
