"""Prediction log in SQLite or PostgreSQL: each batch is written exactly once, old rows are deleted.

A writer's batches are numbered. Their rows and the number of the last one are written in one
transaction, and a batch whose number is not above the last one is stored already. So a batch may be
sent any number of times: after a kill, after a connection that was lost while it committed, by
two processes at once. One number per writer is enough; a list of all batches would grow without
bound. Rows are deleted in small transactions, so that no other process waits long.
"""

import io
from collections.abc import Sequence
from datetime import UTC, date, datetime
from itertools import chain
from typing import Any, Final

import polars as pl
import sqlalchemy as sa

from rossmann.errors import ServiceError
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
from rossmann.prediction_log.records import Batch, RejectedRowsError, concat

_INSERT_ROWS: Final = 256
"""Rows in one INSERT of SQLite, a power of two: other threads wait while they become Python
objects, .2 ms. With a statement for each row, the threads that serve requests would take turns at
every row, which under load cost more than the writing."""
_INVALID_ROWS: Final = (sa.exc.DataError, sa.exc.IntegrityError)
_PRUNED_ON: Final = "pruned_on"
_PRUNE_REQUESTS: Final = 500
_VACUUM_PAGES: Final = 2_000


class SqlLogStore:
    """The prediction log in SQLite or PostgreSQL."""

    def __init__(self, url: str) -> None:
        """Does not connect yet. Raises ``SettingsError`` for a URL that cannot be used."""
        self._engine = open_engine(url)
        self._tables_exist = False

    def write(self, writer: str, batches: Sequence[tuple[int, Batch]]) -> None:
        """See ``LogStore``."""
        try:
            with translate_errors(self._engine), self._engine.begin() as connection:
                if not self._tables_exist:
                    create_tables(connection)
                _write(connection, writer, batches)
            self._tables_exist = True
        except ServiceError as error:
            self._tables_exist = False  # check again: the database may be another one now
            if isinstance(error.__cause__, _INVALID_ROWS):
                raise RejectedRowsError(str(error)) from error
            raise

    def claim_pruning(self, today: date) -> bool:
        """See ``LogStore``."""
        with translate_errors(self._engine), self._engine.begin() as connection:
            create_tables(connection)
            return claim_daily_prune(connection, today)

    def prune(self, before: datetime, max_rows: int) -> int:
        """See ``LogStore``."""
        with translate_errors(self._engine):
            return prune_batch(self._engine, before, max_rows)

    def close(self) -> None:
        """See ``LogStore``."""
        self._engine.dispose()


def _write(connection: sa.Connection, name: str, batches: Sequence[tuple[int, Batch]]) -> None:
    """Write the batches of the writer ``name`` that are not stored yet."""
    record = connection.execute(
        sa.select(writers.c.id, writers.c.last_batch).where(writers.c.name == name)
    ).one_or_none()
    if record is None:
        insert = writers.insert().values(name=name, last_batch=0, rows=0)
        writer, last = connection.execute(insert.returning(writers.c.id)).scalar_one(), 0
    else:
        writer, last = record
    new = [(number, batch) for number, batch in batches if number > last]
    if not new:
        return
    for table, frame in _to_frames(writer, new):
        _insert(connection, table, frame)
    rows = sum(len(batch) for _, batch in new)
    updated = connection.execute(
        writers.update()
        .where(writers.c.id == writer, writers.c.last_batch == last)
        .values(last_batch=new[-1][0], rows=writers.c.rows + rows)
    )
    if updated.rowcount != 1:
        raise ServiceError("another process wrote the same batches at this moment")


def _to_frames(
    writer: int, batches: Sequence[tuple[int, Batch]]
) -> tuple[tuple[sa.Table, pl.DataFrame], ...]:
    """Each table with its new rows, in the order of its columns."""
    combined = concat([batch for _, batch in batches])
    counts = pl.Series([batch.requests.height for _, batch in batches])
    numbers = pl.Series("batch", [number for number, _ in batches], dtype=pl.Int64)
    batch_numbers = pl.select(pl.lit(numbers).repeat_by(counts).explode()).to_series()
    id_base = writer << ENTRY_BITS
    request_rows = combined.requests.with_columns(
        batch_numbers.alias("batch"), pl.col("entry") + id_base
    )
    forecast_rows = combined.rows.with_columns(pl.col("entry") + id_base)
    return (
        (requests, request_rows.rename({"entry": "id"}).select(requests.c.keys())),
        (forecasts, forecast_rows.rename({"entry": "request"}).select(forecasts.c.keys())),
    )


def _insert(connection: sa.Connection, table: sa.Table, frame: pl.DataFrame) -> None:
    if connection.dialect.name == "postgresql":
        _copy(connection, table, frame)
        return
    frame = frame.with_columns(
        pl.col(pl.Date).dt.to_string("%Y-%m-%d"),
        pl.col(pl.Datetime).dt.to_string("%Y-%m-%d %H:%M:%S%.6f"),
    )
    row = f"({', '.join('?' * frame.width)})"
    start, count = 0, _INSERT_ROWS
    while start < frame.height:
        # Few different lengths: the driver keeps the compiled statement of each.
        while count > frame.height - start:
            count //= 2
        values = tuple(chain.from_iterable(frame.slice(start, count).iter_rows()))
        rows = ", ".join([row] * count)
        connection.exec_driver_sql(f"INSERT INTO {table.name} VALUES {rows}", values)
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


def claim_daily_prune(connection: sa.Connection, today: date) -> bool:
    """True for the first caller of a day, over all processes and machines."""
    value = today.isoformat()
    outdated = meta.update().where(meta.c.name == _PRUNED_ON, meta.c.value != value)
    if connection.execute(outdated.values(value=value)).rowcount:
        return True
    if connection.scalar(sa.select(meta.c.value).where(meta.c.name == _PRUNED_ON)) is not None:
        return False
    connection.execute(meta.insert().values(name=_PRUNED_ON, value=value))
    return True


def prune_batch(engine: sa.Engine, before: datetime, max_rows: int) -> int:
    """Delete about ``max_rows`` rows, the oldest first, in one transaction; returns how many."""
    with engine.begin() as connection:
        oldest = (
            sa.select(requests.c.id, requests.c.rows)
            .where(requests.c.answered_at < before.astimezone(UTC))
            .order_by(requests.c.answered_at)
            .limit(_PRUNE_REQUESTS)
        )
        ids: list[int] = []
        rows = 0
        for request, count in connection.execute(oldest):
            if ids and rows + count > max_rows:
                break
            ids.append(request)
            rows += count
        if ids:
            connection.execute(forecasts.delete().where(forecasts.c.request.in_(ids)))
            connection.execute(requests.delete().where(requests.c.id.in_(ids)))
    if ids and engine.dialect.name == "sqlite":
        _vacuum(engine)
    return rows


def count_before(connection: sa.Connection, before: datetime) -> int:
    """Number of rows answered before then."""
    total = sa.func.coalesce(sa.func.sum(requests.c.rows), 0)
    query = sa.select(total).where(requests.c.answered_at < before.astimezone(UTC))
    return int(connection.scalar(query) or 0)


def _vacuum(engine: sa.Engine) -> None:
    """Return some of the free pages of a SQLite file to the disk."""
    connection = engine.raw_connection()
    try:
        driver: Any = connection.driver_connection
        # As a script: ``execute`` would step once, which frees one page.
        driver.executescript(f"PRAGMA incremental_vacuum({_VACUUM_PAGES})")
    except driver.OperationalError:
        pass  # another process writes: the next call frees the pages
    finally:
        connection.close()
