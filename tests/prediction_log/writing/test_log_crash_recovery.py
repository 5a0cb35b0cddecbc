"""SIGKILL at every step of a real process: acknowledged rows arrive exactly once."""

import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from rossmann.prediction_log.writing.disk_spool import pending_files
from rossmann.prediction_log.writing.log import LogOptions, PredictionLog
from tests.fixtures.prediction_log import ReadRowKeys, RowKey

PROCESS = Path(__file__).with_name("logging_process.py")
STEPS = (
    "before the rename",
    "after the rename",
    "before the transaction",
    "within the transaction",
    "after the commit",
)


def start_process(url: str, spool: Path, step: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(PROCESS), url, str(spool), step]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def acknowledged_entries(process: subprocess.Popen[str]) -> int:
    """How many entries were on disk, by its output, before it was killed."""
    assert process.stdout is not None
    lines = process.stdout.read().splitlines()
    assert process.wait(60) == -signal.SIGKILL
    return int(lines[-1]) if lines else 0


def run_next_process(url: str, spool: Path) -> None:
    """Adopt and write the files, as the next process does."""
    log = PredictionLog(url, spool, LogOptions(flush_seconds=0.01))
    log.start()
    pause = threading.Event()
    while pending_files(spool):
        pause.wait(0.01)
    log.close()
    assert log.status().rejected_rows == 0
    assert list(spool.iterdir()) == []


def assert_complete_prefix(rows: list[RowKey], process: int, min_entries: int) -> None:
    """Entries from the first on without gap or duplicate, at least those acknowledged."""
    logged_rows = [
        (int(name.split("-")[1]), row) for name, row in rows if name.startswith(f"{process}-")
    ]
    entries = len(logged_rows) // 2
    assert sorted(logged_rows) == [(number, row) for number in range(entries) for row in (0, 1)]
    assert entries >= min_entries


@pytest.mark.parametrize("step", STEPS)
def test_kill_at_any_step_loses_no_acknowledged_row(
    tmp_path: Path, sqlite_url: str, logged: ReadRowKeys, step: str
) -> None:
    spool = tmp_path / "spool"
    process = start_process(sqlite_url, spool, step)
    min_entries = acknowledged_entries(process)
    run_next_process(sqlite_url, spool)
    rows = logged(sqlite_url)
    assert rows
    assert_complete_prefix(rows, process.pid, min_entries)


@pytest.mark.parametrize("step", ["within the transaction", "after the commit"])
def test_kill_loses_no_acknowledged_row_with_postgres(
    tmp_path: Path, postgres_url: str, logged: ReadRowKeys, step: str
) -> None:
    spool = tmp_path / "spool"
    process = start_process(postgres_url, spool, step)
    min_entries = acknowledged_entries(process)
    run_next_process(postgres_url, spool)
    assert_complete_prefix(logged(postgres_url), process.pid, min_entries)


def test_files_of_killed_workers_are_adopted(
    tmp_path: Path, sqlite_url: str, logged: ReadRowKeys
) -> None:
    """Three processes share a database and are killed one after the other."""
    spool = tmp_path / "spool"
    processes = [start_process(sqlite_url, spool, "never") for _ in range(3)]
    acknowledged: list[int] = []
    for process in processes:
        assert process.stdout is not None
        for _ in range(3):  # until it logs
            process.stdout.readline()
        process.kill()
        acknowledged.append(acknowledged_entries(process))
    run_next_process(sqlite_url, spool)
    rows = logged(sqlite_url)
    for process, min_entries in zip(processes, acknowledged, strict=True):
        assert_complete_prefix(rows, process.pid, min_entries)
