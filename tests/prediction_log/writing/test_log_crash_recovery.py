"""kill -9 at every step of a real process: what was acknowledged arrives, and nothing twice."""

import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from rossmann.prediction_log.writing.disk_spool import waiting_files
from rossmann.prediction_log.writing.log import PredictionLog

PROCESS = Path(__file__).with_name("logging_process.py")
STEPS = (
    "before the rename",
    "after the rename",
    "before the transaction",
    "within the transaction",
    "after the commit",
)
Logged = Callable[[str], list[tuple[str, int]]]


def begin(url: str, spool: Path, step: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(PROCESS), url, str(spool), step]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def acknowledged(process: subprocess.Popen[str]) -> int:
    """How many entries it said to be on disk before it died."""
    assert process.stdout is not None
    lines = process.stdout.read().splitlines()
    assert process.wait(60) == -signal.SIGKILL
    return int(lines[-1]) if lines else 0


def finish(url: str, spool: Path) -> None:
    """What a process that is started next does."""
    log = PredictionLog(url, spool, 0.01)
    log.start()
    pause = threading.Event()
    while waiting_files(spool):
        pause.wait(0.01)
    log.close()
    assert log.state().refused_rows == 0
    assert list(spool.iterdir()) == []


def expect_a_whole_beginning(found: list[tuple[str, int]], process: int, least: int) -> None:
    """Entries from the first on without a gap or a double, at least those acknowledged."""
    mine = [(int(name.split("-")[1]), row) for name, row in found if name.startswith(f"{process}-")]
    entries = len(mine) // 2
    assert sorted(mine) == [(number, row) for number in range(entries) for row in (0, 1)]
    assert entries >= least


@pytest.mark.parametrize("step", STEPS)
def test_a_kill_at_any_step_loses_nothing_that_was_acknowledged(
    tmp_path: Path, sqlite_url: str, logged: Logged, step: str
) -> None:
    spool = tmp_path / "spool"
    process = begin(sqlite_url, spool, step)
    least = acknowledged(process)
    finish(sqlite_url, spool)
    found = logged(sqlite_url)
    assert found
    expect_a_whole_beginning(found, process.pid, least)


@pytest.mark.parametrize("step", ["within the transaction", "after the commit"])
def test_the_same_with_postgres(
    tmp_path: Path, postgres_url: str, logged: Logged, step: str
) -> None:
    spool = tmp_path / "spool"
    process = begin(postgres_url, spool, step)
    least = acknowledged(process)
    finish(postgres_url, spool)
    expect_a_whole_beginning(logged(postgres_url), process.pid, least)


def test_workers_that_are_killed_are_inherited_by_those_that_live(
    tmp_path: Path, sqlite_url: str, logged: Logged
) -> None:
    """Three share a database; two are killed from outside, the third goes on, then all end."""
    spool = tmp_path / "spool"
    processes = [begin(sqlite_url, spool, "never") for _ in range(3)]
    told: list[int] = []
    for process in processes:
        assert process.stdout is not None
        for _ in range(3):  # it logs, while the others do
            process.stdout.readline()
        process.kill()
        told.append(acknowledged(process))
    finish(sqlite_url, spool)
    found = logged(sqlite_url)
    for process, least in zip(processes, told, strict=True):
        expect_a_whole_beginning(found, process.pid, least)
