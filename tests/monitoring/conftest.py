"""Answered requests to log, databases to log them in, and a look at what is there."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa

from rossmann.monitoring.entries import Entry
from rossmann.schema import Rows

MakeEntry = Callable[..., Entry]
MOMENT = datetime(2026, 3, 1, 12, 0, 0, 250_000, UTC)


def _entry(number: int, rows: int = 1, **fields: Any) -> Entry:
    seen = np.random.default_rng(number)
    flags = [seen.integers(0, 2, rows).astype(np.uint8) for _ in range(3)]
    asked = Rows(
        seen.integers(1, 1116, rows).astype(np.int32),
        seen.integers(16_650, 16_690, rows).astype(np.int32),
        flags[0],
        flags[1],
        seen.integers(0, 4, rows).astype(np.uint8),
        flags[2],
    )
    sales = seen.random(rows) * 9_000
    given = {
        "request_id": f"request-{number}",
        "answered_at": MOMENT + timedelta(milliseconds=number),
        "door": "predict",
        "role": "answer",
        "caller": "planner",
        "model_version": 3,
        "model_stage": "Production",
        "as_of": 16_640,
        "objective": "accuracy",
        "rows": asked,
        "sales": sales,
        "bounds": ((0.8, sales * 0.9, sales * 1.1),),
        "latency_seconds": 0.002,
    }
    return Entry(**{**given, **fields})


@pytest.fixture(scope="session")
def make_entry() -> MakeEntry:
    """Makes the answer of that number, with so many rows; the same number gives the same."""
    return _entry


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """A SQLite file that is not there yet."""
    return f"sqlite:///{tmp_path / 'log' / 'log.db'}"


@pytest.fixture
def postgres_url(database: str, tmp_path: Path) -> Iterator[str]:
    """A fresh database of a real PostgreSQL."""
    engine = sa.create_engine(database, isolation_level="AUTOCOMMIT")
    name = f"log_{abs(hash(tmp_path)):x}"
    with engine.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
    yield database.rpartition("/")[0] + f"/{name}"
    with engine.connect() as connection:
        connection.exec_driver_sql(f"DROP DATABASE {name} WITH (FORCE)")
    engine.dispose()


@pytest.fixture(params=["sqlite_url", "postgres_url"], ids=["sqlite", "pg"])
def url(request: pytest.FixtureRequest) -> str:
    """Each database in turn, empty."""
    return str(request.getfixturevalue(request.param))


@pytest.fixture(scope="session")
def logged() -> Callable[[str], list[tuple[str, int]]]:
    """The request and place of each logged row, sorted: what must be there exactly once."""

    def look(url: str) -> list[tuple[str, int]]:
        engine = sa.create_engine(url)
        try:
            with engine.connect() as connection:
                found = connection.exec_driver_sql('SELECT request_id, "row" FROM predictions')
                return sorted((str(request), int(row)) for request, row in found)
        finally:
            engine.dispose()

    return look
