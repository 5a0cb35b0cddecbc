"""Queries that compare logged forecasts of two model versions, one of them a challenger.

Clients request the same rows again and again, and a version's forecast of a row is the same each
time. So distinct rows are compared: of one store, day, origin, plan and objective. All work that
grows with the log is done by the database, over a bounded part of the log and for a bounded time.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal

import numpy as np
import sqlalchemy as sa

from rossmann.errors import ServiceError
from rossmann.prediction_log.database.tables import forecasts, requests
from rossmann.prediction_log.queries.export import LogReader, to_utc
from rossmann.schema import DayArray, FlagArray, FloatArray, Stage

MAX_REQUESTS: Final = 300_000
"""The latest requests that are read."""
MAX_ROWS: Final = 500_000
"""The latest rows of each version that are read."""
MAX_DISTINCT_ROWS: Final = 200_000
"""Distinct rows that are compared."""
_PROGRESS_STEPS: Final = 20_000
"""Instructions of SQLite between two checks of the clock: about a millisecond."""
_FETCH_ROWS: Final = 2_000
"""Rows that become Python objects at once: other threads wait for so long."""

TrialRole = Literal["challenger", "shadow"]
_KEY: Final = ("store", "date", "as_of", "objective", "open", "promo", "state_holiday", "school_holiday")  # fmt: skip # noqa: E501


@dataclass(frozen=True, slots=True)
class RoleCount:
    """Number of rows of a version in one role, and when the first of them was answered."""

    role: str
    model_version: int
    rows: int
    first: datetime


@dataclass(frozen=True, slots=True)
class DistinctRows:
    """Distinct rows with forecasts of one version; every array has shape (n,).

    ``day``: since 1970-01-01. ``production_forecast``: Production's forecasts of the same rows;
    empty where only one version is read.
    """

    store: DayArray
    day: DayArray
    open: FlagArray
    promo: FlagArray
    sales: FloatArray
    production_forecast: FloatArray

    def take(self, indices: Any) -> "DistinctRows":
        """Some of the rows."""
        production = self.production_forecast
        return DistinctRows(
            self.store[indices],
            self.day[indices],
            self.open[indices],
            self.promo[indices],
            self.sales[indices],
            production[indices] if len(production) else production,
        )


class ExperimentLog:
    """Reads a prediction log; for one thread. Raises ``SettingsError`` for a bad URL.

    Every method raises ``ServiceError`` where the database is away or takes too long, and
    ``DataNotFoundError`` where nothing was logged yet. ``cancel`` may be called from another
    thread.
    """

    def __init__(self, url: str, seconds: float = 20.0) -> None:
        self._reader = LogReader(url, lock_timeout=seconds / 2)
        self._seconds = seconds
        self._cancelled = False
        self._running: Any = None

    def counts(self, since: datetime) -> tuple[datetime, list[RoleCount]]:
        """The moment from which the log is read, and the rows since by role and version."""
        with self._connect() as connection:
            earliest = (
                sa.select(requests.c.answered_at)
                .order_by(requests.c.answered_at.desc())
                .limit(1)
                .offset(MAX_REQUESTS)
            )
            bound = connection.scalar(earliest)
            since = since if bound is None else max(since, to_utc(bound))
            by = (requests.c.role, requests.c.model_version)
            query = (
                sa.select(*by, sa.func.sum(requests.c.rows), sa.func.min(requests.c.answered_at))
                .where(requests.c.answered_at >= since)
                .group_by(*by)
                .order_by(*by)
            )
            counts = [
                RoleCount(role, version, int(rows), to_utc(first))
                for role, version, rows, first in connection.execute(query)
            ]
        return since, counts

    def pairs(
        self, role: TrialRole, challenger: int, production: int, since: datetime
    ) -> DistinctRows:
        """Rows that both versions forecast, from the same origin."""
        left = _distinct(role, challenger, since).cte("challenger")
        right = _distinct("answer", production, since).cte("production")
        same_row = sa.and_(*(left.c[name] == right.c[name] for name in _KEY))
        query = sa.select(*_columns(left), right.c.forecast).join_from(left, right, same_row)
        return self._fetch(query.limit(MAX_DISTINCT_ROWS))

    def version_rows(
        self, role: TrialRole | Literal["answer"], version: int, since: datetime
    ) -> DistinctRows:
        """Rows that a version forecast in that role; as an answer, only as Production."""
        rows = _distinct(role, version, since, production=role == "answer").cte("version")
        return self._fetch(sa.select(*_columns(rows)).limit(MAX_DISTINCT_ROWS))

    def cancel(self) -> None:
        """Interrupt the running statement, and start no other."""
        self._cancelled = True
        driver = self._running
        if driver is not None:
            # ``interrupt`` of SQLite, ``cancel`` of PostgreSQL.
            (getattr(driver, "interrupt", None) or driver.cancel)()

    def close(self) -> None:
        """Close the connections."""
        self._reader.close()

    def _fetch(self, query: sa.Select[Any]) -> DistinctRows:
        with self._connect() as connection:
            parts = connection.execution_options(yield_per=_FETCH_ROWS).execute(query).partitions()
            return _to_arrays([tuple(row) for part in parts for row in part])

    @contextmanager
    def _connect(self) -> Iterator[sa.Connection]:
        end = time.monotonic() + self._seconds
        if self._cancelled:
            raise ServiceError("the service ends")
        try:
            with (
                self._reader.snapshot() as connection,
                _statement_timeout(connection, end, self._seconds),
            ):
                self._running = connection.connection.driver_connection
                yield connection
                self._running = None
        except ServiceError as error:
            if time.monotonic() < end:
                raise
            text = f"the prediction log's database took longer than {self._seconds:g} s"
            raise ServiceError(text) from error


def _distinct(role: str, version: int, since: datetime, production: bool = False) -> sa.Select[Any]:
    """Distinct rows among the latest of a version."""
    latest = (
        sa.select(*(_key_column(name) for name in _KEY), forecasts.c.forecast)
        .join_from(requests, forecasts, forecasts.c.request == requests.c.id)
        .where(
            requests.c.role == role,
            requests.c.model_version == version,
            requests.c.answered_at >= since,
            forecasts.c.forecast.is_not(None),
        )
        .order_by(requests.c.answered_at.desc())
        .limit(MAX_ROWS)
    )
    if production:
        latest = latest.where(requests.c.model_stage == Stage.PRODUCTION)
    rows = latest.subquery()
    keys = [rows.c[name] for name in _KEY]
    return sa.select(*keys, sa.func.avg(rows.c.forecast).label("forecast")).group_by(*keys)


def _key_column(name: str) -> sa.Column[Any]:
    return requests.c[name] if name in ("as_of", "objective") else forecasts.c[name]


def _columns(rows: sa.CTE) -> list[sa.ColumnElement[Any]]:
    # Days as text: to make a date of each takes longer than to read them.
    day = sa.cast(rows.c.date, sa.Text)
    return [rows.c.store, day, rows.c.open, rows.c.promo, rows.c.forecast]


def _to_arrays(rows: Sequence[tuple[Any, ...]]) -> DistinctRows:
    columns = [list(column) for column in zip(*rows, strict=True)] or [[] for _ in range(5)]
    return DistinctRows(
        np.array(columns[0], np.int32),
        np.array(columns[1], "datetime64[D]").astype(np.int32),
        np.array(columns[2], np.uint8),
        np.array(columns[3], np.uint8),
        np.array(columns[4], np.float64),
        np.array(columns[5] if len(columns) > 5 else [], np.float64),
    )


@contextmanager
def _statement_timeout(connection: sa.Connection, end: float, seconds: float) -> Iterator[None]:
    """Stop statements at ``end`` (SQLite, by ``time.monotonic``) or after ``seconds``."""
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(f"SET LOCAL statement_timeout = {int(seconds * 1000)}")
        yield
        return
    driver: Any = connection.connection.driver_connection
    driver.set_progress_handler(lambda: time.monotonic() > end, _PROGRESS_STEPS)
    try:
        yield
    finally:
        driver.set_progress_handler(None, 0)
