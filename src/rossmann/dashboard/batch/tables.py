"""A finished batch as tables and files: in the order uploaded, by store, by day.

The files hold every forecast as the service gave it. What is shown is rounded once, row by row:
totals are sums of the rounded rows, so that they add up on the page.
"""

from datetime import date
from io import BytesIO
from typing import Any, Final

import numpy as np
import polars as pl

from rossmann.dashboard.batch.job import BatchRun
from rossmann.dashboard.shared.number_format import round_sales
from rossmann.data.prepare_predictions import Upload
from rossmann.errors import ErrorDetail

FORECAST: Final = "Forecast"
LOW: Final = "Low80"
HIGH: Final = "High80"
NOTE: Final = "Note"
TOTAL: Final = "Total forecast"
_SALES_FORMAT: Final = "#,##0"
MAX_EXACT_INTEGER: Final = 2**53
"""Spreadsheets hold larger integers only approximately."""


def result_table(upload: Upload, run: BatchRun) -> pl.DataFrame:
    """Every row as uploaded and in that order, with ``Forecast``, ``Low80``, ``High80``, ``Note``.

    An invalid row has no forecast; its note holds the error.
    """
    notes = [""] * upload.frame.height
    for error in [*upload.errors, *run.errors]:
        row = int(error.loc[0]) - 1
        notes[row] = f"{notes[row]}; {error.msg}" if notes[row] else error.msg
    for row in run.file_rows[(run.rows.open == 0) & run.usable].tolist():
        notes[row] = "closed"
    uploaded = _rename_own_columns(upload.frame)
    columns = {FORECAST: run.sales, LOW: run.low, HIGH: run.high}
    return uploaded.with_columns(
        *(pl.Series(name, values).fill_nan(None) for name, values in columns.items()),
        pl.Series(NOTE, notes, dtype=pl.String),
    )


def _rename_own_columns(frame: pl.DataFrame) -> pl.DataFrame:
    """The uploaded columns; those named like a column of ours get "uploaded" added."""
    names = set(frame.columns) | {FORECAST, LOW, HIGH, NOTE}
    renamed = {}
    for name in frame.columns:
        if name in (FORECAST, LOW, HIGH, NOTE):
            new = f"{name} (uploaded)"
            while new in names:
                new += "'"
            names.add(new)
            renamed[name] = new
    return frame.rename(renamed)


def shown_table(table: pl.DataFrame) -> pl.DataFrame:
    """The result table with whole forecasts; uploaded numbers are numbers, which sort as such."""
    return _with_integers(table).with_columns(
        pl.Series(name, round_sales(table[name].to_numpy())).fill_nan(None).cast(pl.Int64)
        for name in (FORECAST, LOW, HIGH)
    )


def _with_integers(table: pl.DataFrame) -> pl.DataFrame:
    return table.with_columns(
        _to_integers(table[name]) for name in table.columns if table[name].dtype == pl.String
    )


def _to_integers(column: pl.Series) -> pl.Series:
    """A column of whole numbers as integers, so that a spreadsheet can sum them; else unchanged.

    Numbers that would not come back as they were written (01067, 100000000000000012) stay text.
    """
    numbers = column.cast(pl.Int64, strict=False)
    same = (numbers.cast(pl.String) == column).all(ignore_nulls=False)
    complete = numbers.null_count() == column.null_count()
    if not complete or same is False or not numbers.abs().le(MAX_EXACT_INTEGER).all():
        return column
    return numbers


def by_store(run: BatchRun) -> pl.DataFrame:
    """One row per store: days, days open, total forecast, mean per open day; largest first."""
    return (
        _forecast_rows(run)
        .group_by("Store")
        .agg(
            pl.len().alias("Days"),
            pl.col("open").sum().alias("Days open"),
            pl.col("sales").sum().alias(TOTAL),
        )
        .with_columns(
            pl.when(pl.col("Days open") > 0)
            .then((pl.col(TOTAL) / pl.col("Days open")).round())
            .cast(pl.Int64)
            .alias("Per open day")
        )
        .sort(TOTAL, "Store", descending=[True, False])
    )


def by_day(run: BatchRun) -> pl.DataFrame:
    """One row per day: Day, Total forecast (of all stores), Stores open."""
    return (
        _forecast_rows(run)
        .group_by("Day")
        .agg(pl.col("sales").sum().alias(TOTAL), pl.col("open").sum().alias("Stores open"))
        .sort("Day")
    )


def _forecast_rows(run: BatchRun) -> pl.DataFrame:
    """Rows with a forecast: Store, Day, open, sales in whole numbers."""
    frame = pl.DataFrame(
        {
            "Store": run.rows.store,
            "Day": run.rows.day.astype(np.int32),
            "open": run.rows.open.astype(np.int32),
            "sales": round_sales(run.sales[run.file_rows]),
        }
    )
    return frame.filter(pl.Series(run.usable)).with_columns(
        pl.col("Day").cast(pl.Date), pl.col("sales").cast(pl.Int64)
    )


def errors_table(errors: list[ErrorDetail]) -> pl.DataFrame:
    """One row per error: Row (in the file, the first row of data is 1), Column, What is wrong."""
    return pl.DataFrame(
        {
            "Row": [int(error.loc[0]) for error in errors],
            "Column": [str(error.loc[1]) if len(error.loc) > 1 else "" for error in errors],
            "What is wrong": [error.msg for error in errors],
        },
        schema={"Row": pl.Int64, "Column": pl.String, "What is wrong": pl.String},
    ).sort("Row", maintain_order=True)


def to_csv(table: pl.DataFrame) -> bytes:
    """The table as CSV in UTF-8."""
    return table.write_csv().encode()


def to_excel(table: pl.DataFrame, stores: pl.DataFrame, description: str) -> bytes:
    """A workbook: the forecasts, the summary by store, and a sheet with ``description``.

    Text stays text: a cell that begins with = is no formula, and an address is no link.
    """
    from xlsxwriter import Workbook  # type: ignore[import-untyped]

    file = BytesIO()
    options = {"in_memory": True, "strings_to_formulas": False, "strings_to_urls": False}
    formats: dict[Any, Any] = dict.fromkeys((FORECAST, LOW, HIGH), _SALES_FORMAT)
    with Workbook(file, options) as workbook:
        _with_integers(table).write_excel(
            workbook,
            worksheet="Forecasts",
            autofit=table.height < 5_000,
            column_formats=formats,
            dtype_formats={pl.Int64: "0"},
            freeze_panes=(1, 0),
        )
        stores.write_excel(
            workbook,
            worksheet="By store",
            dtype_formats={pl.Int64: _SALES_FORMAT},
            column_formats={"Store": "0"},
            freeze_panes=(1, 0),
        )
        sheet = workbook.add_worksheet("About")
        sheet.write_string(0, 0, description)
        sheet.write_string(1, 0, f"Written on {date.today().isoformat()}")
    return file.getvalue()
