"""Logged rows to a file, read in one sweep and never all in memory.

MERGED: The prediction log for people: how much is there, out to a file, old rows away.
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
    forecasts,
    open_engine,
    predictions_view,
    requests,
    schema_of,
    translate_errors,
)

FORMATS: Final = (".csv", ".parquet", ".xlsx")
MOST_IN_EXCEL: Final = 1_048_575
_PAGE: Final = 20_000
_KINDS: Final[dict[str, pl.DataType]] = {
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
}
_STAMP: Final = "%Y-%m-%dT%H:%M:%S%.6fZ"


@dataclass(frozen=True, slots=True)
class ExportFilter:
    """Which rows: answered on the days ``first`` to ``last`` (UTC), of a store, of a version."""

    first: date | None = None
    last: date | None = None
    store: int | None = None
    version: int | None = None

    def conditions(self) -> list[sa.ColumnElement[bool]]:
        """The conditions of a query."""
        rules: list[sa.ColumnElement[bool]] = []
        if self.first is not None:
            rules.append(requests.c.answered_at >= _midnight(self.first))
        if self.last is not None:
            rules.append(requests.c.answered_at < _midnight(self.last + timedelta(days=1)))
        if self.store is not None:
            rules.append(forecasts.c.store == self.store)
        if self.version is not None:
            rules.append(requests.c.model_version == self.version)
        return rules


def pages(connection: sa.Connection, wanted: ExportFilter) -> Iterator[pl.DataFrame]:
    """The rows in the order of their answers, some at a time; all of one moment."""
    query = (
        predictions_view.where(*wanted.conditions())
        .order_by(requests.c.answered_at, requests.c.id, forecasts.c.row)
        .execution_options(stream_results=True, yield_per=_PAGE)
    )
    for part in connection.execute(query).partitions():
        columns = zip(*part, strict=True)
        yield pl.DataFrame(
            [
                _column(name, kind, values)
                for (name, kind), values in zip(_KINDS.items(), columns, strict=True)
            ]
        )


def export(
    connection: sa.Connection,
    wanted: ExportFilter,
    output: Path,
    report: Callable[[str], None] = lambda _: None,
) -> int:
    """Write what is wanted to CSV, Parquet or Excel by the file's ending; how many rows.

    Raises ``BrokenRule`` where there are more rows than a sheet of Excel can hold.
    """
    ending = output.suffix.lower()
    draft = output.with_name(f".{output.name}.draft")
    write = {".csv": _write_csv, ".parquet": _write_parquet, ".xlsx": _write_excel}[ending]
    done = 0

    def counted() -> Iterator[pl.DataFrame]:
        nonlocal done
        for page in pages(connection, wanted):
            done += page.height
            if ending == ".xlsx" and done > MOST_IN_EXCEL:
                raise DataValidationError(
                    f"a sheet of Excel holds {MOST_IN_EXCEL:,} rows and there are more: name fewer"
                    " days with --from and --to, or write .csv or .parquet"
                )
            yield page
            if done % (10 * _PAGE) == 0:
                report(f"{done:,} rows")

    try:
        with draft.open("wb") as file:
            write(file, counted())
        draft.replace(output)
    finally:
        draft.unlink(missing_ok=True)
    return done


def _write_csv(file: IO[bytes], parts: Iterator[pl.DataFrame]) -> None:
    file.write((",".join(_KINDS) + "\n").encode())
    for part in parts:
        stamped = part.with_columns(pl.col("answered_at").dt.to_string(_STAMP))
        stamped.write_csv(file, include_header=False)


def _write_parquet(file: IO[bytes], parts: Iterator[pl.DataFrame]) -> None:
    import pyarrow.parquet as pq  # polars writes a frame as a whole, this one group by group

    schema = pl.DataFrame(schema=_KINDS).to_arrow().schema
    with pq.ParquetWriter(file, schema, compression="zstd") as writer:
        for part in parts:
            writer.write_table(part.to_arrow())


def _write_excel(file: IO[bytes], parts: Iterator[pl.DataFrame]) -> None:
    import xlsxwriter  # type: ignore[import-untyped]

    # Each row goes to the disk when the next begins.
    book = xlsxwriter.Workbook(file, {"constant_memory": True, "strings_to_formulas": False,
                                      "strings_to_urls": False})  # fmt: skip
    sheet = book.add_worksheet("predictions")
    day = book.add_format({"num_format": "yyyy-mm-dd"})
    sheet.write_row(0, 0, list(_KINDS))
    line = 1
    for part in parts:
        plain = part.with_columns(pl.col("answered_at").dt.to_string(_STAMP))
        for values in plain.iter_rows():
            for place, value in enumerate(values):
                if isinstance(value, date):
                    sheet.write_datetime(line, place, value, day)
                elif value is not None:
                    sheet.write(line, place, value)
            line += 1
    book.close()


def _column(name: str, kind: pl.DataType, values: Any) -> pl.Series:
    if name == "answered_at":
        # SQLite gives a moment without its zone: it is UTC.
        values = [v.replace(tzinfo=UTC) if v.tzinfo is None else v.astimezone(UTC) for v in values]
    return pl.Series(name, values, dtype=kind)


def _midnight(day: date) -> datetime:
    return datetime.combine(day, datetime.min.time(), UTC)


_STEP: Final = 5_000
LOCK_TIMEOUT: Final = 30.0
_PAUSE: Final = 0.05


@dataclass(frozen=True, slots=True)
class LogTotals:
    """What the database holds: rows, requests, the moments of the first and the last."""

    rows: int
    requests: int
    first: datetime | None
    last: datetime | None
    versions: dict[int, int]


class LogReader:
    """Reads a prediction log that is there. Raises ``SettingsError`` for a URL that is no use.

    Every method raises ``ServiceError`` where the database does not answer, ``MissingData`` where
    it holds no log, ``NewerSchema`` where a newer release made it.
    """

    def __init__(self, url: str, patience: float = LOCK_TIMEOUT) -> None:
        """``patience``: seconds that a locked SQLite file is waited for."""
        self._engine = open_engine(url, busy_seconds=patience)

    def totals(self) -> LogTotals:
        """How much is there."""
        with self.snapshot() as connection:
            counts = sa.select(
                sa.func.coalesce(sa.func.sum(requests.c.rows), 0),
                sa.func.count(),
                sa.func.min(requests.c.answered_at),
                sa.func.max(requests.c.answered_at),
            )
            rows, asked, first, last = connection.execute(counts).one()
            by_version = (
                sa.select(requests.c.model_version, sa.func.sum(requests.c.rows))
                .group_by(requests.c.model_version)
                .order_by(requests.c.model_version.desc())
            )
            versions = {version: int(n) for version, n in connection.execute(by_version)}
        return LogTotals(int(rows), asked, _utc(first), _utc(last), versions)

    def export(self, wanted: ExportFilter, output: Path, report: Callable[[str], None]) -> int:
        """Write rows to a file; how many. Raises ``BrokenRule`` where Excel cannot hold them."""
        with self.snapshot() as connection:
            return export(connection, wanted, output, report)

    def prune(self, days: int, report: Callable[[str], None]) -> int:
        """Delete what was answered more than so many days ago, in steps; how many rows."""
        before = datetime.now(UTC) - timedelta(days=days)
        with self.snapshot() as connection:
            total = count_before(connection, before)
        done, told = 0, 0
        with translate_errors(self._engine):
            while step := prune_batch(self._engine, before, _STEP):
                done += step
                time.sleep(_PAUSE)  # a turn for those who write
                if done - told >= 20 * _STEP:
                    report(f"{done:,} of {total:,} rows")
                    told = done
        return done

    def close(self) -> None:
        """Let go of connections."""
        self._engine.dispose()

    @contextmanager
    def snapshot(self) -> Iterator[sa.Connection]:
        """A connection that sees the log as it is at one moment, and writes nothing."""
        file = self._engine.url.database
        if self._engine.dialect.name == "sqlite" and not Path(str(file)).is_file():
            raise DataNotFoundError(f"nothing was logged yet: there is no {file}")
        engine = self._engine.execution_options(log_reads=True)
        with translate_errors(self._engine), engine.begin() as connection:
            if schema_of(connection) is None:
                raise DataNotFoundError(
                    "nothing was logged yet: the database holds no prediction log"
                )
            yield connection


def _utc(moment: datetime | None) -> datetime | None:
    if moment is None:
        return None
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
