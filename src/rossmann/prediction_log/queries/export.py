"""Reads a prediction log for people: totals, export to CSV, Parquet or Excel, deletion of old rows.

An export reads one snapshot of the log, page by page, and never holds all rows in memory.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import IO, Any, Final

import polars as pl
import sqlalchemy as sa

from rossmann.errors import DataNotFoundError, DataValidationError
from rossmann.prediction_log.database.sql_store import count_before, prune_batch
from rossmann.prediction_log.database.tables import (
    SCHEMA_VERSION,
    forecasts,
    open_engine,
    predictions_query,
    requests,
    schema_version,
    translate_errors,
)

FORMATS: Final = (".csv", ".parquet", ".xlsx")
MAX_EXCEL_ROWS: Final = 1_048_575
LOCK_TIMEOUT: Final = 30.0
_PAGE_ROWS: Final = 20_000
_PRUNE_ROWS: Final = 5_000
_PRUNE_PAUSE: Final = 0.05
_TIMESTAMP_FORMAT: Final = "%Y-%m-%dT%H:%M:%S%.6fZ"
_DTYPES: Final[dict[str, pl.DataType]] = {
    "request_id": pl.String(),
    "row": pl.Int32(),
    "answered_at": pl.Datetime("us", "UTC"),
    "door": pl.String(),
    "role": pl.String(),
    "caller": pl.String(),
    "model_version": pl.Int32(),
    "model_stage": pl.String(),
    "as_of": pl.Date(),
    "objective": pl.String(),
    "store": pl.Int32(),
    "date": pl.Date(),
    "open": pl.Int16(),
    "promo": pl.Int16(),
    "state_holiday": pl.String(),
    "school_holiday": pl.Int16(),
    "horizon": pl.Int32(),
    "forecast": pl.Float64(),
    "lower_80": pl.Float64(),
    "upper_80": pl.Float64(),
    "lower_95": pl.Float64(),
    "upper_95": pl.Float64(),
    "bounds": pl.String(),
    "latency_seconds": pl.Float64(),
    "batch": pl.Int64(),
    "in_training": pl.Int16(),
}


@dataclass(frozen=True, slots=True)
class ExportFilter:
    """Which rows: answered on the days ``first`` to ``last`` (UTC), of a store, of a version."""

    first: date | None = None
    last: date | None = None
    store: int | None = None
    version: int | None = None

    def conditions(self) -> list[sa.ColumnElement[bool]]:
        """The conditions of a query."""
        conditions: list[sa.ColumnElement[bool]] = []
        if self.first is not None:
            conditions.append(requests.c.answered_at >= _midnight(self.first))
        if self.last is not None:
            conditions.append(requests.c.answered_at < _midnight(self.last + timedelta(days=1)))
        if self.store is not None:
            conditions.append(forecasts.c.store == self.store)
        if self.version is not None:
            conditions.append(requests.c.model_version == self.version)
        return conditions


@dataclass(frozen=True, slots=True)
class LogTotals:
    """Contents of the database: ``versions`` holds the rows of each model version."""

    rows: int
    requests: int
    first: datetime | None
    last: datetime | None
    versions: dict[int, int]


class LogReader:
    """Reads an existing prediction log. Raises ``SettingsError`` for a URL that cannot be used.

    Every method raises ``ServiceError`` where the database does not answer, ``DataNotFoundError``
    where it holds no log, ``NewerSchemaError`` where a newer release created it.
    """

    def __init__(self, url: str, lock_timeout: float = LOCK_TIMEOUT) -> None:
        """``lock_timeout``: seconds to wait for a locked SQLite file."""
        self._engine = open_engine(url, busy_seconds=lock_timeout)

    def totals(self) -> LogTotals:
        """Numbers of rows and requests, and the moments of the first and the last."""
        with self.snapshot() as connection:
            totals = sa.select(
                sa.func.coalesce(sa.func.sum(requests.c.rows), 0),
                sa.func.count(),
                sa.func.min(requests.c.answered_at),
                sa.func.max(requests.c.answered_at),
            )
            rows, count, first, last = connection.execute(totals).one()
            by_version = (
                sa.select(requests.c.model_version, sa.func.sum(requests.c.rows))
                .group_by(requests.c.model_version)
                .order_by(requests.c.model_version.desc())
            )
            versions = {version: int(n) for version, n in connection.execute(by_version)}
        first, last = (None if moment is None else to_utc(moment) for moment in (first, last))
        return LogTotals(int(rows), count, first, last, versions)

    def export(self, row_filter: ExportFilter, output: Path, report: Callable[[str], None]) -> int:
        """Write rows to a file, see ``export``; returns their number."""
        with self.snapshot() as connection:
            return export(connection, row_filter, output, report)

    def prune(self, days: int, report: Callable[[str], None]) -> int:
        """Delete rows answered more than ``days`` days ago, in steps; returns their number."""
        before = datetime.now(UTC) - timedelta(days=days)
        with self.snapshot() as connection:
            total = count_before(connection, before)
        deleted, reported = 0, 0
        with translate_errors(self._engine):
            while step := prune_batch(self._engine, before, _PRUNE_ROWS):
                deleted += step
                time.sleep(_PRUNE_PAUSE)  # other processes write meanwhile
                if deleted - reported >= 20 * _PRUNE_ROWS:
                    report(f"{deleted:,} of {total:,} rows")
                    reported = deleted
        return deleted

    def close(self) -> None:
        """Close the connections."""
        self._engine.dispose()

    @contextmanager
    def snapshot(self) -> Iterator[sa.Connection]:
        """A read-only connection to the state of the log at one moment."""
        file = self._engine.url.database
        if self._engine.dialect.name == "sqlite" and not Path(str(file)).is_file():
            raise DataNotFoundError(f"nothing was logged yet: there is no {file}")
        engine = self._engine.execution_options(log_reads=True)
        with translate_errors(self._engine), engine.begin() as connection:
            if schema_version(connection) is None:
                raise DataNotFoundError(
                    "nothing was logged yet: the database holds no prediction log"
                )
            yield connection


def export(
    connection: sa.Connection,
    row_filter: ExportFilter,
    output: Path,
    report: Callable[[str], None] = lambda _: None,
) -> int:
    """Write rows to CSV, Parquet or Excel by the file's suffix; returns their number.

    Raises ``DataValidationError`` where there are more rows than an Excel sheet can hold.
    """
    suffix = output.suffix.lower()
    draft = output.with_name(f".{output.name}.draft")
    write = {".csv": _write_csv, ".parquet": _write_parquet, ".xlsx": _write_excel}[suffix]
    exported = 0

    def counted_pages() -> Iterator[pl.DataFrame]:
        nonlocal exported
        for page in pages(connection, row_filter):
            exported += page.height
            if suffix == ".xlsx" and exported > MAX_EXCEL_ROWS:
                raise DataValidationError(
                    f"a sheet of Excel holds {MAX_EXCEL_ROWS:,} rows and there are more: name fewer"
                    " days with --from and --to, or write .csv or .parquet"
                )
            yield page
            if exported % (10 * _PAGE_ROWS) == 0:
                report(f"{exported:,} rows")

    try:
        with draft.open("wb") as file:
            write(file, counted_pages())
        draft.replace(output)
    finally:
        draft.unlink(missing_ok=True)
    return exported


def pages(connection: sa.Connection, row_filter: ExportFilter) -> Iterator[pl.DataFrame]:
    """Rows in the order of their responses, ``_PAGE_ROWS`` at a time."""
    query = (
        predictions_query(schema_version(connection) or SCHEMA_VERSION)
        .where(*row_filter.conditions())
        .order_by(requests.c.answered_at, requests.c.id, forecasts.c.row)
        .execution_options(stream_results=True, yield_per=_PAGE_ROWS)
    )
    for part in connection.execute(query).partitions():
        columns = zip(*part, strict=True)
        yield pl.DataFrame(
            [
                _to_series(name, dtype, values)
                for (name, dtype), values in zip(_DTYPES.items(), columns, strict=True)
            ]
        )


def _write_csv(file: IO[bytes], pages: Iterator[pl.DataFrame]) -> None:
    file.write((",".join(_DTYPES) + "\n").encode())
    for page in pages:
        _format_timestamps(page).write_csv(file, include_header=False)


def _write_parquet(file: IO[bytes], pages: Iterator[pl.DataFrame]) -> None:
    import pyarrow.parquet as pq  # writes one row group at a time, polars only a whole frame

    schema = pl.DataFrame(schema=_DTYPES).to_arrow().schema
    with pq.ParquetWriter(file, schema, compression="zstd") as writer:
        for page in pages:
            writer.write_table(page.to_arrow())


def _write_excel(file: IO[bytes], pages: Iterator[pl.DataFrame]) -> None:
    import xlsxwriter  # type: ignore[import-untyped]

    # With constant_memory each row is written to disk when the next begins.
    book = xlsxwriter.Workbook(file, {"constant_memory": True, "strings_to_formulas": False,
                                      "strings_to_urls": False})  # fmt: skip
    sheet = book.add_worksheet("predictions")
    date_format = book.add_format({"num_format": "yyyy-mm-dd"})
    sheet.write_row(0, 0, list(_DTYPES))
    row = 1
    for page in pages:
        for values in _format_timestamps(page).iter_rows():
            for column, value in enumerate(values):
                if isinstance(value, date):
                    sheet.write_datetime(row, column, value, date_format)
                elif value is not None:
                    sheet.write(row, column, value)
            row += 1
    book.close()


def _format_timestamps(page: pl.DataFrame) -> pl.DataFrame:
    return page.with_columns(pl.col("answered_at").dt.to_string(_TIMESTAMP_FORMAT))


def _to_series(name: str, dtype: pl.DataType, values: Any) -> pl.Series:
    if name == "answered_at":
        values = [to_utc(moment) for moment in values]
    return pl.Series(name, values, dtype=dtype)


def _midnight(day: date) -> datetime:
    return datetime.combine(day, datetime.min.time(), UTC)


def to_utc(moment: datetime) -> datetime:
    """A moment from the database in UTC; SQLite returns it in UTC without a time zone."""
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
