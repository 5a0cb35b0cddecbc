"""What the prediction log says of two versions, one of them a challenger.

Rows are asked for again and again, and a version's answer to a row is the same each time. So what
is compared are distinct rows: of one store, day, origin, plan and objective. All of the work that
grows with the log is the database's, over a bounded part of the log and for a bounded time.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Literal

import numpy as np
import sqlalchemy as sa

from rossmann.errors import ServiceError
from rossmann.prediction_log.database.tables import forecasts, requests
from rossmann.prediction_log.queries.export import LogReader
from rossmann.schema import DayArray, FlagArray, FloatArray, Stage

REQUESTS: Final = 300_000
"""The latest requests that are looked at."""
ROWS: Final = 500_000
"""The latest rows of each version that are looked at."""
DISTINCT: Final = 200_000
"""Distinct rows that are compared."""
_STEPS: Final = 20_000
"""SQLite's steps between two looks at the clock: about a millisecond."""
_AT_ONCE: Final = 2_000
"""Rows that become Python objects at once: other threads wait for so long."""

TrialRole = Literal["challenger", "shadow"]
_KEY: Final = ("store", "date", "as_of", "objective", "open", "promo", "state_holiday", "school_holiday")  # fmt: skip # noqa: E501


@dataclass(frozen=True, slots=True)
class RoleCount:
    """Rows of a version in one role, and when the first of them was answered."""

    role: str
    model_version: int
    rows: int
    first: datetime


@dataclass(frozen=True, slots=True)
class DistinctRows:
    """Distinct rows (n,) with forecasts; ``other`` is Production's where both made one, else empty.

    ``day``: since 1970-01-01.
    """

    store: DayArray
    day: DayArray
    open: FlagArray
    promo: FlagArray
    sales: FloatArray
    production_forecast: FloatArray

    def take(self, which: Any) -> "DistinctRows":
        """Some of the rows."""
        other = (
            self.production_forecast[which]
            if len(self.production_forecast)
            else self.production_forecast
        )
        plan = self.open[which], self.promo[which]
        return DistinctRows(self.store[which], self.day[which], *plan, self.sales[which], other)


class ExperimentLog:
    """Reads a prediction log; for one thread. Raises ``SettingsError`` for a bad URL.

    Every method raises ``ServiceError`` where the database is away or takes too long, and
    ``MissingData`` where nothing was logged yet. ``stop`` may come from another thread.
    """

    def __init__(self, url: str, seconds: float = 20.0) -> None:
        self._reader = LogReader(url, patience=seconds / 2)
        self._seconds = seconds
        self._stopped = False
        self._at_work: Any = None

    def counts(self, since: datetime) -> tuple[datetime, list[RoleCount]]:
        """From when the log is looked at, and the rows from then on by role and version."""
        with self._reading() as connection:
            latest = (
                sa.select(requests.c.answered_at)
                .order_by(requests.c.answered_at.desc())
                .limit(1)
                .offset(REQUESTS)
            )
            bound = connection.scalar(latest)
            since = since if bound is None else max(since, _utc(bound))
            by = (requests.c.role, requests.c.model_version)
            counted = (
                sa.select(*by, sa.func.sum(requests.c.rows), sa.func.min(requests.c.answered_at))
                .where(requests.c.answered_at >= since)
                .group_by(*by)
                .order_by(*by)
            )
            found = [
                RoleCount(role, version, int(rows), _utc(first))
                for role, version, rows, first in connection.execute(counted)
            ]
        return since, found

    def pairs(
        self, role: TrialRole, challenger: int, production: int, since: datetime
    ) -> DistinctRows:
        """Rows that both forecast, each as the other did: the same row as of the same origin."""
        theirs = _distinct(role, challenger, since).cte("theirs")
        mine = _distinct("answer", production, since).cte("mine")
        same = sa.and_(*(theirs.c[name] == mine.c[name] for name in _KEY))
        wanted = sa.select(*_columns(theirs), mine.c.forecast).join_from(theirs, mine, same)
        return self._read(wanted.limit(DISTINCT))

    def version_rows(
        self, role: TrialRole | Literal["answer"], version: int, since: datetime
    ) -> DistinctRows:
        """Rows that a version forecast in that role; as an answer, only as Production."""
        found = _distinct(role, version, since, production=role == "answer").cte("side")
        return self._read(sa.select(*_columns(found)).limit(DISTINCT))

    def cancel(self) -> None:
        """Break off the statement that runs, and begin no other."""
        self._stopped = True
        driver = self._at_work
        if driver is not None:
            # SQLite's word for it, and PostgreSQL's
            (getattr(driver, "interrupt", None) or driver.cancel)()

    def close(self) -> None:
        """Let go of connections."""
        self._reader.close()

    def _read(self, wanted: sa.Select[Any]) -> DistinctRows:
        with self._reading() as connection:
            parts = connection.execution_options(yield_per=_AT_ONCE).execute(wanted).partitions()
            return _as_arrays([tuple(row) for part in parts for row in part])

    @contextmanager
    def _reading(self) -> Iterator[sa.Connection]:
        end = time.monotonic() + self._seconds
        if self._stopped:
            raise ServiceError("the service ends")
        try:
            with self._reader.snapshot() as connection, _bounded(connection, end, self._seconds):
                self._at_work = connection.connection.driver_connection
                yield connection
                self._at_work = None
        except ServiceError as error:
            if time.monotonic() < end:
                raise
            text = f"the prediction log's database took longer than {self._seconds:g} s"
            raise ServiceError(text) from error


def _distinct(role: str, version: int, since: datetime, production: bool = False) -> sa.Select[Any]:
    """Distinct rows of a version, of the latest that were answered."""
    latest = (
        sa.select(*(_column(name) for name in _KEY), forecasts.c.forecast)
        .join_from(requests, forecasts, forecasts.c.request == requests.c.id)
        .where(
            requests.c.role == role,
            requests.c.model_version == version,
            requests.c.answered_at >= since,
            forecasts.c.forecast.is_not(None),
        )
        .order_by(requests.c.answered_at.desc())
        .limit(ROWS)
    )
    if production:
        latest = latest.where(requests.c.model_stage == Stage.PRODUCTION)
    rows = latest.subquery()
    keys = [rows.c[name] for name in _KEY]
    return sa.select(*keys, sa.func.avg(rows.c.forecast).label("forecast")).group_by(*keys)


def _column(name: str) -> sa.Column[Any]:
    return requests.c[name] if name in ("as_of", "objective") else forecasts.c[name]


def _columns(rows: sa.CTE) -> list[sa.ColumnElement[Any]]:
    # Days as text: to make a date of each takes longer than to read them.
    day = sa.cast(rows.c.date, sa.Text)
    return [rows.c.store, day, rows.c.open, rows.c.promo, rows.c.forecast]


def _as_arrays(found: Sequence[tuple[Any, ...]]) -> DistinctRows:
    columns = [list(column) for column in zip(*found, strict=True)] or [[] for _ in range(5)]
    days = np.array(columns[1], "datetime64[D]").astype(np.int32)
    return DistinctRows(
        np.array(columns[0], np.int32),
        days,
        np.array(columns[2], np.uint8),
        np.array(columns[3], np.uint8),
        np.array(columns[4], np.float64),
        np.array(columns[5] if len(columns) > 5 else [], np.float64),
    )


@contextmanager
def _bounded(connection: sa.Connection, end: float, seconds: float) -> Iterator[None]:
    """Let no statement run on after ``end``, by ``time.monotonic``."""
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(f"SET LOCAL statement_timeout = {int(seconds * 1000)}")
        yield
        return
    driver: Any = connection.connection.driver_connection
    driver.set_progress_handler(lambda: time.monotonic() > end, _STEPS)
    try:
        yield
    finally:
        driver.set_progress_handler(None, 0)


def _utc(moment: datetime) -> datetime:
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
