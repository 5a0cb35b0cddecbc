"""Queries of an experiment's rows: limits of time, cancelling, and the start of the period."""

import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from rossmann.errors import ServiceError
from rossmann.prediction_log.queries.experiment_rows import ExperimentLog
from tests.fixtures.experiments import predict

MakeRow = Callable[..., dict[str, Any]]
Run = Callable[..., AbstractContextManager[TestClient]]
YESTERDAY = datetime.now(UTC) - timedelta(days=1)
ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n"


@pytest.fixture
def log_url(database_url: str, tmp_path: Path, experiment: Run, row: MakeRow) -> str:
    """URL of a log with one row."""
    with experiment(database_url=database_url, log_flush_seconds=0.05) as client:
        predict(client, [row()])
    # The end of the service writes what waits.
    return database_url or f"sqlite:///{tmp_path / 'prediction_log' / 'log.db'}"


def test_log_query_has_a_timeout(log_url: str) -> None:
    log = ExperimentLog(log_url, seconds=0.3)
    with (
        pytest.raises(ServiceError, match=r"took longer than 0\.3 s"),
        log._connect() as connection,
    ):
        connection.exec_driver_sql(ENDLESS)
    # The next query works, and is not affected by the previous timeout.
    _, counts = log.counts(YESTERDAY)
    assert sum(role_count.rows for role_count in counts) == 1
    log.close()


def test_log_query_is_cancelled_when_the_service_ends(log_url: str) -> None:
    log = ExperimentLog(log_url, seconds=600)
    failures: list[ServiceError] = []

    def run_query() -> None:
        with pytest.raises(ServiceError) as caught, log._connect() as connection:
            connection.exec_driver_sql(ENDLESS)
        failures.append(caught.value)

    thread = threading.Thread(target=run_query, daemon=True)
    thread.start()
    deadline = time.monotonic() + 60
    while thread.is_alive():
        assert time.monotonic() < deadline
        log.cancel()
        thread.join(0.05)
    assert len(failures) == 1
    with pytest.raises(ServiceError, match="the service ends"):
        log.counts(YESTERDAY)
    log.close()


def test_rows_before_the_start_time_are_not_counted(
    experiment: Run, row: MakeRow, tmp_path: Path
) -> None:
    with experiment(log_flush_seconds=0.05) as client:
        predict(client, [row()])
    log = ExperimentLog(f"sqlite:///{tmp_path / 'prediction_log' / 'log.db'}")
    assert log.counts(YESTERDAY)[1]
    assert log.counts(datetime.now(UTC) + timedelta(hours=1))[1] == []
    log.close()
