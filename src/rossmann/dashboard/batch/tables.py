"""A finished batch as tables and files: in the order uploaded, by store, by day."""

from datetime import date
from io import BytesIO
from typing import Final

import numpy as np
import polars as pl

from rossmann.dashboard.batch.job import BatchRun
from rossmann.data.prepare_predictions import Upload
from rossmann.errors import ErrorDetail

FORECAST: Final = "Forecast"
LOW: Final = "Low80"
HIGH: Final = "High80"
NOTE: Final = "Note"


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
    uploaded = upload.frame.drop(FORECAST, LOW, HIGH, NOTE, strict=False)
    columns = {FORECAST: run.sales, LOW: run.low, HIGH: run.high}
    return uploaded.with_columns(
        _to_integers(uploaded[name]) for name in uploaded.columns
    ).with_columns(
        *(pl.Series(name, values).fill_nan(None) for name, values in columns.items()),
        pl.Series(NOTE, notes, dtype=pl.String),
    )


def _to_integers(column: pl.Series) -> pl.Series:
    """A column of whole numbers as integers, so that a spreadsheet can sum them; else unchanged."""
    numbers = column.cast(pl.Int64, strict=False)
    return numbers if numbers.null_count() == column.null_count() else column


def by_store(run: BatchRun) -> pl.DataFrame:
    """One row per store: days, days open, total forecast, mean per open day; largest first."""
    return (
        _forecast_rows(run)
        .group_by("Store")
        .agg(
            pl.len().alias("Days"),
            pl.col("open").sum().alias("Days open"),
            pl.col("sales").sum().alias("Total forecast"),
            pl.col("sales").filter(pl.col("open") == 1).mean().alias("Per open day"),
        )
        .sort("Total forecast", "Store", descending=[True, False])
    )


def by_day(run: BatchRun) -> pl.DataFrame:
    """One row per day: day, total (all stores), stores (that are open)."""
    return (
        _forecast_rows(run)
        .group_by("day")
        .agg(pl.col("sales").sum().alias("total"), pl.col("open").sum().alias("stores"))
        .sort("day")
    )


def _forecast_rows(run: BatchRun) -> pl.DataFrame:
    frame = pl.DataFrame(
        {
            "Store": run.rows.store,
            "day": run.rows.day.astype(np.int32),
            "open": run.rows.open.astype(np.int32),
            "sales": run.sales[run.file_rows],
        }
    )
    return frame.filter(pl.Series(run.usable)).with_columns(pl.col("day").cast(pl.Date))


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
    """A workbook: the forecasts, the summary by store, and a sheet with ``description``."""
    from xlsxwriter import Workbook  # type: ignore[import-untyped]

    file = BytesIO()
    with Workbook(file, {"in_memory": True}) as workbook:
        table.write_excel(workbook, worksheet="Forecasts", autofit=table.height < 5_000)
        stores.write_excel(workbook, worksheet="By store", float_precision=0)
        sheet = workbook.add_worksheet("About")
        sheet.write_string(0, 0, description)
        sheet.write_string(1, 0, f"Written on {date.today().isoformat()}")
    return file.getvalue()
