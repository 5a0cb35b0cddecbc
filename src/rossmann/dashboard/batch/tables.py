"""A finished batch as tables and files: in the order uploaded, by store, by day.

The files hold every forecast as the service gave it. What is shown is rounded once, row by row:
totals are sums of the rounded rows, so that they add up on the page.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import numpy as np
import polars as pl

from rossmann.dashboard.batch.job import AS_OF, FORECAST, HIGH, LOW, VERSION, WARNINGS, BatchRun
from rossmann.dashboard.shared.formats import round_sales
from rossmann.data.prepare_predictions import result_table, sort_by_row
from rossmann.data.uploads.file_formats import FileFormat
from rossmann.data.uploads.result_files import ResultFormat, kept_columns
from rossmann.errors import ErrorDetail

FAULT: Final = "error"
"""The column of a result that says what is wrong with a row; only where one has a fault."""
TOTAL: Final = "Total forecast"
MAX_EXACT_INTEGER: Final = 2**53
"""The browser's table holds larger integers only approximately."""


def run_columns(run: BatchRun) -> dict[str, pl.Series]:
    """The columns that a finished run adds to its file: those of ``POST /predict/file``.

    An invalid row has none of them; where there is one, a further column holds its errors.
    """
    count = run.upload.frame.height
    answered = np.zeros(count, np.bool_)
    answered[run.file_rows[run.usable]] = True
    day = pl.Series([run.as_of], dtype=pl.String).str.to_date()
    columns = {
        FORECAST: pl.Series(run.sales).fill_nan(None),
        LOW: pl.Series(run.low).fill_nan(None),
        HIGH: pl.Series(run.high).fill_nan(None),
        VERSION: _where(answered, pl.Series([run.version], dtype=pl.Int32)),
        AS_OF: _where(answered, day),
        WARNINGS: pl.Series(run.row_warnings.tolist(), dtype=pl.String),
    }
    texts: list[str | None] = [None] * count
    for error in [*run.upload.errors, *run.errors]:
        row = int(error.loc[0]) - 1
        texts[row] = f"{texts[row]}; {error.msg}" if texts[row] else error.msg
    if any(texts):
        columns[FAULT] = pl.Series(texts, dtype=pl.String)
    return columns


def _where(mask: np.ndarray[tuple[int], np.dtype[np.bool_]], value: pl.Series) -> pl.Series:
    """The one ``value`` in the rows of ``mask``, null in the others, (n,)."""
    index = pl.Series(np.zeros(len(mask), np.uint32)).set(pl.Series(~mask), None)
    return value.gather(index)


def result_file(run: BatchRun, form: ResultFormat) -> bytes:
    """A finished run's file: the rows as uploaded, then ``run_columns``.

    ``form``: its format and sheets; a CSV file has the dialect of the upload.
    """
    table = result_table(run.upload.source, run_columns(run), form.file_format)
    table = replace(table, form=replace(table.form, about=form.about, sheets=form.sheets))
    with TemporaryDirectory(prefix="rossmann-result-") as folder:
        path = Path(folder) / "result"
        table.write(path)
        return path.read_bytes()


def shown_table(run: BatchRun) -> pl.DataFrame:
    """Every row as uploaded, with whole forecasts; uploaded numbers are numbers to sort by."""
    columns = run_columns(run)
    uploaded = run.upload.frame
    file_format: FileFormat = "xlsx"  # names without repetitions
    names, _ = kept_columns(uploaded.columns, list(columns), file_format)
    table = uploaded.rename(dict(zip(uploaded.columns, names, strict=True)))
    table = table.with_columns(_to_integers(column) for column in table.get_columns())
    rounded = {
        name: pl.Series(round_sales(columns[name].cast(pl.Float64).to_numpy()))
        .fill_nan(None)
        .cast(pl.Int64)
        for name in (FORECAST, LOW, HIGH)
    }
    shown = {**rounded, **{name: columns[name] for name in (WARNINGS, FAULT) if name in columns}}
    return table.with_columns(values.alias(name) for name, values in shown.items())


def _to_integers(column: pl.Series) -> pl.Series:
    """A column of whole numbers as integers; else, and where they have zeros before, unchanged."""
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


def errors_table(errors: list[ErrorDetail], position: Callable[[int], str]) -> pl.DataFrame:
    """One row per error, by rows of the file: Where, Column (if any has one), What is wrong.

    ``position``: where the row with an index stands in the file.
    """
    ordered = sort_by_row(errors)
    columns = [str(error.loc[1]) if len(error.loc) > 1 else "" for error in ordered]
    table = {
        "Where": [position(int(error.loc[0]) - 1) for error in ordered],
        "Column": columns,
        "What is wrong": [error.msg for error in ordered],
    }
    if not any(columns):
        del table["Column"]
    return pl.DataFrame(table, schema=dict.fromkeys(table, pl.String))
