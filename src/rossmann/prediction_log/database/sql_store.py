"""Batches into the database, each exactly once.

A writer's batches are numbered. Their rows and the number of the last one are written in one
transaction, and a batch whose number is not above the last one is there already. So a batch may be
offered any number of times: after a kill, after a connection that was lost while it committed, by
two processes at once. One number a writer is enough; a list of all batches would grow for ever.

MERGED: Old rows out of the prediction log, in steps that nobody has to wait for.
"""

import io
from collections.abc import Sequence
from datetime import UTC, date, datetime
from itertools import chain
from typing import Any, Final

import polars as pl
import sqlalchemy as sa

from rossmann.errors import ServiceError
from rossmann.prediction_log.database.store_protocol import RejectedRowsError
from rossmann.prediction_log.database.tables import (
    ENTRY_BITS,
    create_tables,
    forecasts,
    meta,
    open_engine,
    requests,
    translate_errors,
    writers,
)
from rossmann.prediction_log.records import Batch, concat

_PRUNED: Final = "pruned_on"
_REQUESTS: Final = 500
_PAGES: Final = 2_000


def claim_daily_prune(connection: sa.Connection, today: date) -> bool:
    """True for the first who asks on that day, whichever process or machine it is on."""
    other = meta.update().where(meta.c.name == _PRUNED, meta.c.value != today.isoformat())
    if connection.execute(other.values(value=today.isoformat())).rowcount:
        return True
    if connection.scalar(sa.select(meta.c.value).where(meta.c.name == _PRUNED)) is not None:
        return False
    connection.execute(meta.insert().values(name=_PRUNED, value=today.isoformat()))
    return True


def prune_batch(engine: sa.Engine, before: datetime, most_rows: int) -> int:
    """Delete about ``most_rows`` rows, the oldest first, in one transaction; how many it were."""
    with engine.begin() as connection:
        oldest = (
            sa.select(requests.c.id, requests.c.rows)
            .where(requests.c.answered_at < before.astimezone(UTC))
            .order_by(requests.c.answered_at)
            .limit(_REQUESTS)
        )
        ids: list[int] = []
        rows = 0
        for request, count in connection.execute(oldest):
            if ids and rows + count > most_rows:
                break
            ids.append(request)
            rows += count
        if ids:
            connection.execute(forecasts.delete().where(forecasts.c.request.in_(ids)))
            connection.execute(requests.delete().where(requests.c.id.in_(ids)))
    if ids and engine.dialect.name == "sqlite":
        _give_back(engine)
    return rows


def count_before(connection: sa.Connection, before: datetime) -> int:
    """Rows that were answered before then."""
    rows = sa.func.coalesce(sa.func.sum(requests.c.rows), 0)
    found = sa.select(rows).where(requests.c.answered_at < before.astimezone(UTC))
    return int(connection.scalar(found) or 0)


def _give_back(engine: sa.Engine) -> None:
    """SQLite keeps free pages in its file: return some of them to the disk."""
    connection = engine.raw_connection()
    try:
        driver: Any = connection.driver_connection
        # As a script: the usual call takes one page and thinks that it is done.
        driver.executescript(f"PRAGMA incremental_vacuum({_PAGES})")
    except driver.OperationalError:
        pass  # somebody else writes: the next step does it
    finally:
        connection.close()


_SLICE: Final = 256
"""Rows that SQLite takes in one statement, a power of two: other threads wait while they become
Python objects, .2 ms. A statement for each row would take turns with the threads that answer at
every row, which under load cost more than the writing."""
_PERMANENT: Final = (sa.exc.DataError, sa.exc.IntegrityError)


class SqlLogStore:
    """The prediction log in SQLite or PostgreSQL."""

    def __init__(self, url: str) -> None:
        """Touches no database yet. Raises ``SettingsError`` for a URL that cannot be used."""
        self._engine = open_engine(url)
        self._made = False

    def write(self, writer: str, batches: Sequence[tuple[int, Batch]]) -> None:
        """See ``LogStore``."""
        try:
            with translate_errors(self._engine), self._engine.begin() as connection:
                if not self._made:
                    create_tables(connection)
                self._write(connection, writer, batches)
            self._made = True
        except ServiceError as error:
            self._made = False  # look again: the database may be another one now
            if isinstance(error.__cause__, _PERMANENT):
                raise RejectedRowsError(str(error)) from error
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
        with translate_errors(self._engine), self._engine.begin() as connection:
            create_tables(connection)
            return claim_daily_prune(connection, today)

    def prune(self, before: datetime, most_rows: int) -> int:
        """See ``LogStore``."""
        with translate_errors(self._engine):
            return prune_batch(self._engine, before, most_rows)

    def close(self) -> None:
        """See ``LogStore``."""
        self._engine.dispose()


def _frames(
    writer: int, batches: Sequence[tuple[int, Batch]]
) -> tuple[tuple[sa.Table, pl.DataFrame], ...]:
    whole = concat([batch for _, batch in batches])
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
