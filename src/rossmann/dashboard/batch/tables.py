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


def result_table(upload: Upload, job: BatchRun) -> pl.DataFrame:
    """Every row as uploaded and in that order, with ``Forecast``, ``Low80``, ``High80``, ``Note``.

    A row at fault has no forecast; its note says why.
    """
    notes = [""] * upload.frame.height
    for fault in [*upload.faults, *job.faults]:
        line = int(fault.loc[0]) - 1
        notes[line] = f"{notes[line]}; {fault.msg}" if notes[line] else fault.msg
    for line in job.lines[(job.rows.open == 0) & job.usable].tolist():
        notes[line] = "closed"
    kept = upload.frame.drop(FORECAST, LOW, HIGH, NOTE, strict=False)
    columns = {FORECAST: job.sales, LOW: job.low, HIGH: job.high}
    return kept.with_columns(_as_number(kept[name]) for name in kept.columns).with_columns(
        *(pl.Series(name, values).fill_nan(None) for name, values in columns.items()),
        pl.Series(NOTE, notes, dtype=pl.String),
    )


def _as_number(column: pl.Series) -> pl.Series:
    """Whole numbers as such, so that a spreadsheet can sum them; anything else as uploaded."""
    numbers = column.cast(pl.Int64, strict=False)
    return numbers if numbers.null_count() == column.null_count() else column


def by_store(job: BatchRun) -> pl.DataFrame:
    """One row per store: days, days open, total forecast, mean per open day; largest first."""
    return (
        _answers(job)
        .group_by("Store")
        .agg(
            pl.len().alias("Days"),
            pl.col("open").sum().alias("Days open"),
            pl.col("sales").sum().alias("Total forecast"),
            pl.col("sales").filter(pl.col("open") == 1).mean().alias("Per open day"),
        )
        .sort("Total forecast", "Store", descending=[True, False])
    )


def by_day(job: BatchRun) -> pl.DataFrame:
    """One row per day: day, total (all stores), stores (that are open)."""
    return (
        _answers(job)
        .group_by("day")
        .agg(pl.col("sales").sum().alias("total"), pl.col("open").sum().alias("stores"))
        .sort("day")
    )


def _answers(job: BatchRun) -> pl.DataFrame:
    frame = pl.DataFrame(
        {
            "Store": job.rows.store,
            "day": job.rows.day.astype(np.int32),
            "open": job.rows.open.astype(np.int32),
            "sales": job.sales[job.lines],
        }
    )
    return frame.filter(pl.Series(job.usable)).with_columns(pl.col("day").cast(pl.Date))


def faults_table(faults: list[ErrorDetail]) -> pl.DataFrame:
    """One row per fault: Row (as counted in the file, the first row of data is 1), Column, What."""
    return pl.DataFrame(
        {
            "Row": [int(fault.loc[0]) for fault in faults],
            "Column": [str(fault.loc[1]) if len(fault.loc) > 1 else "" for fault in faults],
            "What is wrong": [fault.msg for fault in faults],
        },
        schema={"Row": pl.Int64, "Column": pl.String, "What is wrong": pl.String},
    ).sort("Row", maintain_order=True)


def as_csv(table: pl.DataFrame) -> bytes:
    """The table as CSV in UTF-8."""
    return table.write_csv().encode()


def as_excel(table: pl.DataFrame, stores: pl.DataFrame, made: str) -> bytes:
    """A workbook: the forecasts, the summary by store, and a sheet that says what made them."""
    from xlsxwriter import Workbook  # type: ignore[import-untyped]

    book = BytesIO()
    with Workbook(book, {"in_memory": True}) as workbook:
        table.write_excel(workbook, worksheet="Forecasts", autofit=table.height < 5_000)
        stores.write_excel(workbook, worksheet="By store", float_precision=0)
        sheet = workbook.add_worksheet("About")
        sheet.write_string(0, 0, made)
        sheet.write_string(1, 0, f"Written on {date.today().isoformat()}")
    return book.getvalue()
