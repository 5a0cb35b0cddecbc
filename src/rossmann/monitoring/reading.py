"""The prediction log for people: how much is there, out to a file, old rows away."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import sqlalchemy as sa

from rossmann.errors import MissingData
from rossmann.monitoring.database import open_engine, worded
from rossmann.monitoring.export import Wanted, export
from rossmann.monitoring.retention import count_before, prune_some
from rossmann.monitoring.tables import requests, schema_of

_STEP: Final = 5_000
PATIENCE: Final = 30.0
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

    def __init__(self, url: str, patience: float = PATIENCE) -> None:
        """``patience``: seconds that a locked SQLite file is waited for."""
        self._engine = open_engine(url, busy_seconds=patience)

    def totals(self) -> LogTotals:
        """How much is there."""
        with self.reading() as connection:
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

    def export(self, wanted: Wanted, output: Path, report: Callable[[str], None]) -> int:
        """Write rows to a file; how many. Raises ``BrokenRule`` where Excel cannot hold them."""
        with self.reading() as connection:
            return export(connection, wanted, output, report)

    def prune(self, days: int, report: Callable[[str], None]) -> int:
        """Delete what was answered more than so many days ago, in steps; how many rows."""
        before = datetime.now(UTC) - timedelta(days=days)
        with self.reading() as connection:
            total = count_before(connection, before)
        done, told = 0, 0
        with worded(self._engine):
            while step := prune_some(self._engine, before, _STEP):
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
    def reading(self) -> Iterator[sa.Connection]:
        """A connection that sees the log as it is at one moment, and writes nothing."""
        file = self._engine.url.database
        if self._engine.dialect.name == "sqlite" and not Path(str(file)).is_file():
            raise MissingData(f"nothing was logged yet: there is no {file}")
        engine = self._engine.execution_options(log_reads=True)
        with worded(self._engine), engine.begin() as connection:
            if schema_of(connection) is None:
                raise MissingData("nothing was logged yet: the database holds no prediction log")
            yield connection


def _utc(moment: datetime | None) -> datetime | None:
    if moment is None:
        return None
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
