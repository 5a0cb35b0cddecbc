"""Batches into the database, each exactly once.

A writer's batches are numbered. Their rows and the number of the last one are written in one
transaction, and a batch whose number is not above the last one is there already. So a batch may be
offered any number of times: after a kill, after a connection that was lost while it committed, by
two processes at once. One number a writer is enough; a list of all batches would grow for ever.
"""

import io
from collections.abc import Sequence
from datetime import date, datetime
from itertools import chain
from typing import Any, Final

import polars as pl
import sqlalchemy as sa

from rossmann.errors import ServiceError
from rossmann.monitoring.batches import Batch, join
from rossmann.monitoring.database import open_engine, worded
from rossmann.monitoring.log_store import RefusedRows
from rossmann.monitoring.retention import claim_day, prune_some
from rossmann.monitoring.tables import ENTRY_BITS, forecasts, make_tables, requests, writers

_SLICE: Final = 256
"""Rows that SQLite takes in one statement, a power of two: other threads wait while they become
Python objects, .2 ms. A statement for each row would take turns with the threads that answer at
every row, which under load cost more than the writing."""
_PERMANENT: Final = (sa.exc.DataError, sa.exc.IntegrityError)


class SqlStore:
    """The prediction log in SQLite or PostgreSQL."""

    def __init__(self, url: str) -> None:
        """Touches no database yet. Raises ``SettingsError`` for a URL that cannot be used."""
        self._engine = open_engine(url)
        self._made = False

    def write(self, writer: str, batches: Sequence[tuple[int, Batch]]) -> None:
        """See ``LogStore``."""
        try:
            with worded(self._engine), self._engine.begin() as connection:
                if not self._made:
                    make_tables(connection)
                self._write(connection, writer, batches)
            self._made = True
        except ServiceError as error:
            self._made = False  # look again: the database may be another one now
            if isinstance(error.__cause__, _PERMANENT):
                raise RefusedRows(str(error)) from error
            raise

    def _write(
        self, connection: sa.Connection, name: str, batches: Sequence[tuple[int, Batch]]
    ) -> None:
        found = connection.execute(
            sa.select(writers.c.id, writers.c.last_batch).where(writers.c.name == name)
        ).one_or_none()
        if found is None:
            new = writers.insert().values(name=name, last_batch=0, rows=0)
            writer, last = connection.execute(new.returning(writers.c.id)).scalar_one(), 0
        else:
            writer, last = found
        todo = [(number, batch) for number, batch in batches if number > last]
        if not todo:
            return
        for table, frame in _frames(writer, todo):
            _load(connection, table, frame)
        newest = todo[-1][0]
        rows = sum(len(batch) for _, batch in todo)
        moved = connection.execute(
            writers.update()
            .where(writers.c.id == writer, writers.c.last_batch == last)
            .values(last_batch=newest, rows=writers.c.rows + rows)
        )
        if moved.rowcount != 1:
            raise ServiceError("another process wrote the same batches at this moment")

    def claim_pruning(self, today: date) -> bool:
        """See ``LogStore``."""
        with worded(self._engine), self._engine.begin() as connection:
            make_tables(connection)
            return claim_day(connection, today)

    def prune(self, before: datetime, most_rows: int) -> int:
        """See ``LogStore``."""
        with worded(self._engine):
            return prune_some(self._engine, before, most_rows)

    def close(self) -> None:
        """See ``LogStore``."""
        self._engine.dispose()


def _frames(
    writer: int, batches: Sequence[tuple[int, Batch]]
) -> tuple[tuple[sa.Table, pl.DataFrame], ...]:
    whole = join([batch for _, batch in batches])
    counts = pl.Series([batch.requests.height for _, batch in batches])
    numbers = pl.Series("batch", [number for number, _ in batches], dtype=pl.Int64)
    of_each = pl.select(pl.lit(numbers).repeat_by(counts).explode()).to_series()
    base = writer << ENTRY_BITS
    asked = whole.requests.with_columns(of_each.alias("batch"), pl.col("entry") + base)
    rows = whole.rows.with_columns(pl.col("entry") + base)
    return (
        (requests, asked.rename({"entry": "id"}).select(requests.c.keys())),
        (forecasts, rows.rename({"entry": "request"}).select(forecasts.c.keys())),
    )


def _load(connection: sa.Connection, table: sa.Table, frame: pl.DataFrame) -> None:
    if connection.dialect.name == "postgresql":
        _copy(connection, table, frame)
        return
    frame = frame.with_columns(
        pl.col(pl.Date).dt.to_string("%Y-%m-%d"),
        pl.col(pl.Datetime).dt.to_string("%Y-%m-%d %H:%M:%S%.6f"),
    )
    place = f"({', '.join('?' * frame.width)})"
    start, count = 0, _SLICE
    while start < frame.height:
        # Few lengths, so that the driver has each statement ready from the last time.
        while count > frame.height - start:
            count //= 2
        cells = tuple(chain.from_iterable(frame.slice(start, count).iter_rows()))
        places = ", ".join([place] * count)
        connection.exec_driver_sql(f"INSERT INTO {table.name} VALUES {places}", cells)
        start += count


def _copy(connection: sa.Connection, table: sa.Table, frame: pl.DataFrame) -> None:
    content = io.BytesIO()
    frame.write_csv(content, include_header=False, quote_style="non_numeric", null_value="")
    content.seek(0)
    driver: Any = connection.connection.driver_connection
    with driver.cursor() as cursor:
        try:
            cursor.copy_expert(f"COPY {table.name} FROM STDIN (FORMAT csv)", content)
        except driver.DataError as error:
            raise sa.exc.DataError(None, None, error) from error
        except driver.IntegrityError as error:
            raise sa.exc.IntegrityError(None, None, error) from error
        except driver.Error as error:
            raise sa.exc.DBAPIError(None, None, error) from error
