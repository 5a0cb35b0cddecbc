"""Prediction log over failing databases and disks: no row is lost, duplicated or waited for."""

import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rossmann.errors import ServiceError
from rossmann.prediction_log.records import Batch, RejectedRowsError, StoreFactory
from rossmann.prediction_log.writing.log import LogOptions, PredictionLog, open_log, open_store
from rossmann.settings import load_settings
from tests.fixtures.prediction_log import MakeEntry, ReadRowKeys, row_keys, wait_until_written


class FailingStore:
    """A real store; ``plan`` names how each call of ``write`` fails."""

    def __init__(self, url: str, plan: Iterator[str]) -> None:
        self.real = open_store(url)
        self.plan = plan
        self.calls = 0

    def write(self, writer: str, batches: Sequence[tuple[int, Batch]]) -> None:
        self.calls += 1
        outcome = next(self.plan, "works")
        if outcome == "away":
            raise ServiceError("away")
        if outcome == "surprise":
            raise RuntimeError("unexpected")
        self.real.write(writer, batches[:1] if outcome == "half" else batches)
        if outcome in ("half", "lost at commit"):
            raise ServiceError("connection lost")

    def claim_pruning(self, today: date) -> bool:
        return self.real.claim_pruning(today)

    def prune(self, before: datetime, max_rows: int) -> int:
        return self.real.prune(before, max_rows)

    def close(self) -> None:
        self.real.close()


class BlockingStore(FailingStore):
    """A store whose writes hang until ``release`` is set."""

    def __init__(self, url: str) -> None:
        super().__init__(url, iter(()))
        self.reached = threading.Event()
        self.release = threading.Event()

    def write(self, writer: str, batches: Sequence[tuple[int, Batch]]) -> None:
        self.reached.set()
        assert self.release.wait(60)
        super().write(writer, batches)


def make_log(
    folder: Path, url: str, open_store: StoreFactory = open_store, **bounds: Any
) -> PredictionLog:
    options = LogOptions(**{"flush_seconds": 0.02, **bounds})
    return PredictionLog(url, folder / "spool", options, open_store)


def step_until_idle(log: PredictionLog) -> None:
    """Do the work of both threads, without their waits."""
    log.spool_writer.step()
    for _ in range(200):
        try:
            if not log.shipper.step() and not log.shipper.backoff.error:
                return
        except RuntimeError:
            continue
    raise AssertionError(log.status())


OUTCOMES = st.lists(st.sampled_from(["works", "away", "half", "lost at commit", "surprise"]))


@settings(max_examples=25, deadline=None)
@given(
    outcomes=OUTCOMES,
    sizes=st.lists(st.integers(1, 4), min_size=1, max_size=8),
    restarts=st.booleans(),
)
def test_every_row_is_written_once_whatever_the_database_does(
    tmp_path_factory: pytest.TempPathFactory,
    make_entry: MakeEntry,
    logged: ReadRowKeys,
    outcomes: list[str],
    sizes: list[int],
    restarts: bool,
) -> None:
    folder = tmp_path_factory.mktemp("log")
    url = f"sqlite:///{folder / 'log.db'}"
    plan = iter(outcomes)
    log = make_log(folder, url, open_store=lambda url: FailingStore(url, plan))
    entries = [make_entry(number, rows) for number, rows in enumerate(sizes)]
    for entry in entries:
        log.log(entry)
        log.spool_writer.step()
        try:
            log.shipper.step()
        except RuntimeError:
            continue
    if restarts:  # another log adopts the files
        log.close(0)
        log = make_log(folder, url, open_store=lambda url: FailingStore(url, plan))
    step_until_idle(log)
    assert logged(url) == row_keys(entries)
    assert log.status().spool_files == log.status().queue_rows == log.status().dropped_rows == 0
    log.close()
    assert list((folder / "spool").iterdir()) == []


def test_log_does_not_wait_for_a_hanging_database(
    tmp_path: Path, sqlite_url: str, make_entry: MakeEntry, logged: ReadRowKeys
) -> None:
    store = BlockingStore(sqlite_url)
    log = make_log(tmp_path, sqlite_url, open_store=lambda _: store)
    log.start()
    log.log(make_entry(0))
    assert store.reached.wait(10)
    # The first write hangs; other rows are written to the spool meanwhile.
    entries = [make_entry(number) for number in range(1, 301)]
    for entry in entries:
        log.log(entry)
    assert log.flush(10)
    status = log.status()
    assert (status.acknowledged_rows, status.written_rows, status.spool_rows) == (301, 0, 301)
    assert status.seconds_since_success is None
    store.release.set()
    assert wait_until_written(log)
    log.close()
    assert logged(sqlite_url) == row_keys([make_entry(0), *entries])


def test_locked_sqlite_is_retried(
    tmp_path: Path, sqlite_url: str, make_entry: MakeEntry, logged: ReadRowKeys
) -> None:
    log = make_log(tmp_path, sqlite_url)
    log.start()
    log.log(make_entry(0))
    assert wait_until_written(log)
    locker = sqlite3.connect(sqlite_url.removeprefix("sqlite:///"), isolation_level=None)
    locker.execute("BEGIN EXCLUSIVE")
    entries = [make_entry(number) for number in range(1, 51)]
    for entry in entries:
        log.log(entry)
    assert log.flush(10)
    assert wait_for(lambda: "locked" in log.status().last_error)
    assert log.status().spool_rows == 50
    locker.execute("ROLLBACK")
    locker.close()
    assert wait_until_written(log)
    log.close()
    assert log.status().last_error == ""
    assert logged(sqlite_url) == row_keys([make_entry(0), *entries])


def test_database_missing_at_start_is_retried(
    tmp_path: Path, make_entry: MakeEntry, logged: ReadRowKeys
) -> None:
    blocker = tmp_path / "later"
    blocker.write_text("no folder")  # the database's folder cannot be created
    url = f"sqlite:///{blocker / 'log.db'}"
    log = make_log(tmp_path, url)
    log.start()
    log.log(make_entry(1, 4))
    assert log.flush(10)
    assert wait_for(lambda: log.status().last_error != "")
    blocker.unlink()
    assert wait_until_written(log)
    log.close()
    assert logged(url) == row_keys([make_entry(1, 4)])


def test_postgres_unreachable_at_start_is_retried(
    tmp_path: Path, postgres_url: str, make_entry: MakeEntry, logged: ReadRowKeys
) -> None:
    urls = iter(["postgresql://nobody@127.0.0.1:1/none"])
    log = make_log(
        tmp_path, postgres_url, open_store=lambda url: ReroutedStore(url, next(urls, postgres_url))
    )
    log.start()
    entries = [make_entry(number, 3) for number in range(4)]
    for entry in entries:
        log.log(entry)
    assert wait_until_written(log)
    log.close()
    assert logged(postgres_url) == row_keys(entries)


class ReroutedStore(FailingStore):
    """A store at one address first, and at ``url`` after a failure."""

    def __init__(self, url: str, first: str) -> None:
        super().__init__(first, iter(()))
        self.url = url

    def write(self, writer: str, batches: Sequence[tuple[int, Batch]]) -> None:
        try:
            self.real.write(writer, batches)
        except ServiceError:
            self.real = open_store(self.url)
            raise


def test_full_spool_drops_the_newest_entries(
    tmp_path: Path, sqlite_url: str, make_entry: MakeEntry, logged: ReadRowKeys
) -> None:
    plan = iter(["away"] * 3)
    log = make_log(
        tmp_path,
        sqlite_url,
        spool_bytes=1,  # full with the first file
        memory_rows=10,
        open_store=lambda url: FailingStore(url, plan),
    )
    log.log(make_entry(0, 2))
    assert log.spool_writer.step()
    entries = [make_entry(number, 2) for number in range(1, 9)]
    for entry in entries:
        log.log(entry)
    assert not log.spool_writer.step()
    status = log.status()
    assert (status.spool_rows, status.queue_rows, status.dropped_rows) == (2, 10, 6)
    assert "the spool is full" in status.last_error
    for _ in range(3):
        assert not log.shipper.step()
    for _ in range(10):  # the database works again
        log.shipper.step()
        log.spool_writer.step()
    assert log.status().last_error == ""
    assert log.status().dropped_rows == 6
    log.close()
    assert logged(sqlite_url) == row_keys([make_entry(0, 2), *entries[:5]])


def test_rows_stay_in_memory_while_the_spool_cannot_be_written(
    tmp_path: Path, sqlite_url: str, make_entry: MakeEntry, logged: ReadRowKeys
) -> None:
    (tmp_path / "spool").write_text("no folder")
    log = make_log(tmp_path, sqlite_url)
    for number in range(3):
        log.log(make_entry(number))
        assert not log.spool_writer.step()
    assert log.status().queue_rows == 3
    assert "cannot write the spool" in log.status().last_error
    (tmp_path / "spool").unlink()
    step_until_idle(log)
    log.spool_writer.step()
    step_until_idle(log)
    log.close()
    assert logged(sqlite_url) == row_keys([make_entry(number) for number in range(3)])


def test_invalid_entry_drops_no_other(
    tmp_path: Path, sqlite_url: str, make_entry: MakeEntry, logged: ReadRowKeys
) -> None:
    log = make_log(tmp_path, sqlite_url)
    broken = make_entry(1, 3, sales=make_entry(1, 2).sales)
    for entry in (make_entry(0), broken, make_entry(2)):
        log.log(entry)
    step_until_idle(log)
    assert logged(sqlite_url) == row_keys([make_entry(0), make_entry(2)])
    assert (log.status().dropped_rows, log.status().queue_rows) == (3, 0)
    log.close()


def test_rejected_rows_are_quarantined(
    tmp_path: Path, sqlite_url: str, make_entry: MakeEntry, logged: ReadRowKeys
) -> None:
    class RejectingStore(FailingStore):
        def write(self, writer: str, batches: Sequence[tuple[int, Batch]]) -> None:
            if any("request-1" in batch.requests["request_id"] for _, batch in batches):
                raise RejectedRowsError("invalid")
            super().write(writer, batches)

    log = make_log(tmp_path, sqlite_url, open_store=lambda url: RejectingStore(url, iter(())))
    for number in range(3):
        log.log(make_entry(number, 2))
        log.spool_writer.step()
    step_until_idle(log)
    assert logged(sqlite_url) == row_keys([make_entry(0, 2), make_entry(2, 2)])
    assert log.status().rejected_rows == 2
    assert len(list((tmp_path / "spool" / "aside").iterdir())) == 1
    log.close()


def test_corrupt_file_blocks_no_other(
    tmp_path: Path, sqlite_url: str, make_entry: MakeEntry, logged: ReadRowKeys
) -> None:
    log = make_log(tmp_path, sqlite_url)
    for number in range(3):
        log.log(make_entry(number))
        log.spool_writer.step()
    (corrupt,) = (tmp_path / "spool").glob("*/000000000002-*")
    corrupt.write_bytes(corrupt.read_bytes()[:-5])
    step_until_idle(log)
    assert logged(sqlite_url) == row_keys([make_entry(0), make_entry(2)])
    assert log.status().rejected_rows == 1
    log.close()


def test_close_writes_waiting_rows_and_drops_later_ones(
    tmp_path: Path, sqlite_url: str, make_entry: MakeEntry, logged: ReadRowKeys
) -> None:
    log = make_log(tmp_path, sqlite_url, flush_seconds=60)
    log.start()
    entries = [make_entry(number) for number in range(20)]
    for entry in entries:
        log.log(entry)
    log.close()
    log.log(make_entry(99))
    assert logged(sqlite_url) == row_keys(entries)
    assert log.status().dropped_rows == 1


def test_close_without_a_database_leaves_rows_to_the_next_process(
    tmp_path: Path, sqlite_url: str, make_entry: MakeEntry, logged: ReadRowKeys
) -> None:
    away = "postgresql://nobody@127.0.0.1:1/none"
    first = make_log(tmp_path, away, flush_seconds=60)
    first.start()
    first.log(make_entry(1, 5))
    first.close()
    assert first.status().spool_rows == 5
    second = make_log(tmp_path, sqlite_url)
    second.start()
    assert wait_for(lambda: second.status().written_rows == 5)
    second.close()
    assert logged(sqlite_url) == row_keys([make_entry(1, 5)])


def test_large_request_is_split_into_bounded_files(
    tmp_path: Path, sqlite_url: str, make_entry: MakeEntry
) -> None:
    log = make_log(tmp_path, sqlite_url)
    for part in range(3):
        log.log(make_entry(1, 40_000, first_row=part * 40_000))
    log.spool_writer.step()
    files = list((tmp_path / "spool").glob("*/*.batch"))
    assert [int(path.stem.split("-")[1]) for path in sorted(files)] == [40_000] * 3
    step_until_idle(log)
    assert log.status().written_rows == 120_000
    log.close()


def test_old_rows_are_pruned_once_a_day(
    tmp_path: Path, sqlite_url: str, make_entry: MakeEntry, logged: ReadRowKeys
) -> None:
    now = datetime.now(UTC)
    old = make_entry(1, 3, answered_at=now - timedelta(days=31))
    new = make_entry(2, 2, answered_at=now - timedelta(days=29))
    log = make_log(tmp_path, sqlite_url, keep_days=30)
    log.log(old)
    log.log(new)
    step_until_idle(log)
    assert logged(sqlite_url) == row_keys([new])
    log.log(make_entry(3, answered_at=now - timedelta(days=31)))
    step_until_idle(log)
    assert len(logged(sqlite_url)) == 3  # pruned on the next day
    log.close()


def test_nothing_is_pruned_after_the_clock_was_set(
    tmp_path: Path,
    sqlite_url: str,
    make_entry: MakeEntry,
    logged: ReadRowKeys,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import time

    log = make_log(tmp_path, sqlite_url, keep_days=30)
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + 90 * 86_400)
    old = make_entry(1, answered_at=datetime.now(UTC) - timedelta(days=60))
    log.log(old)
    step_until_idle(log)
    assert logged(sqlite_url) == row_keys([old])
    log.close()


def test_open_log_follows_the_settings(tmp_path: Path) -> None:
    assert open_log(load_settings(data_dir=tmp_path, prediction_log=False)) is None
    log = open_log(load_settings(data_dir=tmp_path, log_spool_mb=8, workers=4))
    assert log is not None
    assert log.status().spool_limit == 2 * 2**20
    assert list(tmp_path.iterdir()) == []  # nothing is created before it starts


def wait_for(condition: Callable[[], bool]) -> bool:
    """Whether the condition becomes true within 20 seconds."""
    pause = threading.Event()
    for _ in range(2_000):
        if condition():
            return True
        pause.wait(0.01)
    return False
