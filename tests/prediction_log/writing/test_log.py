"""Answers never wait for the log, and the log loses nothing that it acknowledged."""

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
from rossmann.prediction_log.database.store_protocol import RejectedRowsError
from rossmann.prediction_log.records import Batch, LoggedPrediction
from rossmann.prediction_log.writing.log import PredictionLog, open_log, open_store
from rossmann.settings import load_settings

MakeEntry = Callable[..., LoggedPrediction]
Logged = Callable[[str], list[tuple[str, int]]]


class Troubled:
    """A real store; a plan says at which step each call fails, and how."""

    def __init__(self, url: str, plan: Iterator[str]) -> None:
        self.real = open_store(url)
        self.plan = plan
        self.calls = 0

    def write(self, writer: str, batches: Sequence[tuple[int, Batch]]) -> None:
        self.calls += 1
        fate = next(self.plan, "works")
        if fate == "away":
            raise ServiceError("away")
        if fate == "surprise":
            raise RuntimeError("nobody thought of this")
        self.real.write(writer, batches[:1] if fate == "half" else batches)
        if fate in ("half", "lost at commit"):
            raise ServiceError("connection lost")

    def claim_pruning(self, today: date) -> bool:
        return self.real.claim_pruning(today)

    def prune(self, before: datetime, most_rows: int) -> int:
        return self.real.prune(before, most_rows)

    def close(self) -> None:
        self.real.close()


class Blocked(Troubled):
    """One whose writes hang until they are let go."""

    def __init__(self, url: str) -> None:
        super().__init__(url, iter(()))
        self.reached = threading.Event()
        self.go = threading.Event()

    def write(self, writer: str, batches: Sequence[tuple[int, Batch]]) -> None:
        self.reached.set()
        assert self.go.wait(60)
        super().write(writer, batches)


def keys(entries: Sequence[LoggedPrediction]) -> list[tuple[str, int]]:
    return sorted((e.request_id, row) for e in entries for row in range(len(e.rows)))


def log_in(folder: Path, url: str, **more: Any) -> PredictionLog:
    return PredictionLog(url, folder / "spool", **{"flush_seconds": 0.02, **more})


def step_until_quiet(log: PredictionLog) -> None:
    """Do by hand what the threads do, without their waiting."""
    log.spooler.step()
    for _ in range(200):
        try:
            if not log.shipper.step() and not log.shipper.trouble.error:
                return
        except RuntimeError:
            continue
    raise AssertionError(log.state())


FATES = st.lists(st.sampled_from(["works", "away", "half", "lost at commit", "surprise"]))


@settings(max_examples=25, deadline=None)
@given(fates=FATES, sizes=st.lists(st.integers(1, 4), min_size=1, max_size=8), dies=st.booleans())
def test_each_row_arrives_once_whatever_the_database_does(
    tmp_path_factory: pytest.TempPathFactory,
    make_entry: MakeEntry,
    logged: Logged,
    fates: list[str],
    sizes: list[int],
    dies: bool,
) -> None:
    folder = tmp_path_factory.mktemp("log")
    url = f"sqlite:///{folder / 'log.db'}"
    plan = iter(fates)
    log = log_in(folder, url, open_store=lambda url: Troubled(url, plan))
    entries = [make_entry(number, rows) for number, rows in enumerate(sizes)]
    for entry in entries:
        log.log(entry)
        log.spooler.step()
        try:
            log.shipper.step()
        except RuntimeError:
            continue
    if dies:  # another one takes over what is on disk
        log.close(0)
        log = log_in(folder, url, open_store=lambda url: Troubled(url, plan))
    step_until_quiet(log)
    assert logged(url) == keys(entries)
    assert log.state().spool_files == log.state().queue_rows == log.state().dropped_rows == 0
    log.close()
    assert list((folder / "spool").iterdir()) == []


def test_answers_do_not_wait_for_a_database_that_hangs(
    tmp_path: Path, sqlite_url: str, make_entry: MakeEntry, logged: Logged
) -> None:
    store = Blocked(sqlite_url)
    log = log_in(tmp_path, sqlite_url, open_store=lambda _: store)
    log.start()
    log.log(make_entry(0))
    assert store.reached.wait(10)
    # The database holds the first rows in a call that does not return. Others are put, and kept on
    # disk, meanwhile.
    entries = [make_entry(number) for number in range(1, 301)]
    for entry in entries:
        log.log(entry)
    assert log.flush(10)
    state = log.state()
    assert (state.kept_rows, state.written_rows, state.spool_rows) == (301, 0, 301)
    assert state.seconds_since_success is None
    store.go.set()
    assert log.drain()
    log.close()
    assert logged(sqlite_url) == keys([make_entry(0), *entries])


def test_a_locked_sqlite_is_waited_out(
    tmp_path: Path, sqlite_url: str, make_entry: MakeEntry, logged: Logged
) -> None:
    log = log_in(tmp_path, sqlite_url)
    log.start()
    log.log(make_entry(0))
    assert log.drain()
    locker = sqlite3.connect(sqlite_url.removeprefix("sqlite:///"), isolation_level=None)
    locker.execute("BEGIN EXCLUSIVE")
    entries = [make_entry(number) for number in range(1, 51)]
    for entry in entries:
        log.log(entry)
    assert log.flush(10)
    assert eventually(lambda: "locked" in log.state().last_error)
    assert log.state().spool_rows == 50
    locker.execute("ROLLBACK")
    locker.close()
    assert log.drain()
    log.close()
    assert log.state().last_error == ""
    assert logged(sqlite_url) == keys([make_entry(0), *entries])


def test_a_database_that_is_away_at_the_start_is_waited_for(
    tmp_path: Path, make_entry: MakeEntry, logged: Logged
) -> None:
    place = tmp_path / "later"
    place.write_text("no folder")  # the database's folder cannot be made
    url = f"sqlite:///{place / 'log.db'}"
    log = log_in(tmp_path, url)
    log.start()
    log.log(make_entry(1, 4))
    assert log.flush(10)
    assert eventually(lambda: log.state().last_error != "")
    place.unlink()
    assert log.drain()
    log.close()
    assert logged(url) == keys([make_entry(1, 4)])


def test_postgres_that_is_away_at_the_start_and_comes(
    tmp_path: Path, postgres_url: str, make_entry: MakeEntry, logged: Logged
) -> None:
    urls = iter(["postgresql://nobody@127.0.0.1:1/none"])
    log = log_in(
        tmp_path, postgres_url, open_store=lambda url: Rerouted(url, next(urls, postgres_url))
    )
    log.start()
    entries = [make_entry(number, 3) for number in range(4)]
    for entry in entries:
        log.log(entry)
    assert log.drain()
    log.close()
    assert logged(postgres_url) == keys(entries)


class Rerouted(Troubled):
    """A store at one address first, and at its own after a failure."""

    def __init__(self, url: str, first: str) -> None:
        super().__init__(first, iter(()))
        self.url = url

    def write(self, writer: str, batches: Sequence[tuple[int, Batch]]) -> None:
        try:
            self.real.write(writer, batches)
        except ServiceError:
            self.real = open_store(self.url)
            raise


def test_a_full_spool_refuses_the_newest_and_says_so(
    tmp_path: Path, sqlite_url: str, make_entry: MakeEntry, logged: Logged
) -> None:
    plan = iter(["away"] * 3)
    log = log_in(
        tmp_path,
        sqlite_url,
        spool_bytes=1,  # full with the first file
        memory_rows=10,
        open_store=lambda url: Troubled(url, plan),
    )
    log.log(make_entry(0, 2))
    assert log.spooler.step()
    entries = [make_entry(number, 2) for number in range(1, 9)]
    for entry in entries:
        log.log(entry)
    assert not log.spooler.step()
    state = log.state()
    assert (state.spool_rows, state.queue_rows, state.dropped_rows) == (2, 10, 6)
    assert "the spool is full" in state.last_error
    for _ in range(3):
        assert not log.shipper.step()
    for _ in range(10):  # the database is back: all that was not refused arrives
        log.shipper.step()
        log.spooler.step()
    assert log.state().last_error == ""
    assert log.state().dropped_rows == 6
    log.close()
    assert logged(sqlite_url) == keys([make_entry(0, 2), *entries[:5]])


def test_rows_stay_in_memory_while_the_disk_takes_nothing(
    tmp_path: Path, sqlite_url: str, make_entry: MakeEntry, logged: Logged
) -> None:
    (tmp_path / "spool").write_text("no folder")
    log = log_in(tmp_path, sqlite_url)
    for number in range(3):
        log.log(make_entry(number))
        assert not log.spooler.step()
    assert log.state().queue_rows == 3
    assert "cannot write the spool" in log.state().last_error
    (tmp_path / "spool").unlink()
    step_until_quiet(log)
    log.spooler.step()
    step_until_quiet(log)
    log.close()
    assert logged(sqlite_url) == keys([make_entry(number) for number in range(3)])


def test_an_entry_that_cannot_be_logged_costs_no_other(
    tmp_path: Path, sqlite_url: str, make_entry: MakeEntry, logged: Logged
) -> None:
    log = log_in(tmp_path, sqlite_url)
    broken = make_entry(1, 3, sales=make_entry(1, 2).sales)
    for entry in (make_entry(0), broken, make_entry(2)):
        log.log(entry)
    step_until_quiet(log)
    assert logged(sqlite_url) == keys([make_entry(0), make_entry(2)])
    assert (log.state().dropped_rows, log.state().queue_rows) == (3, 0)
    log.close()


def test_rows_that_the_database_refuses_are_set_aside(
    tmp_path: Path, sqlite_url: str, make_entry: MakeEntry, logged: Logged
) -> None:
    class Choosy(Troubled):
        def write(self, writer: str, batches: Sequence[tuple[int, Batch]]) -> None:
            if any("request-1" in batch.requests["request_id"] for _, batch in batches):
                raise RejectedRowsError("not these")
            super().write(writer, batches)

    log = log_in(tmp_path, sqlite_url, open_store=lambda url: Choosy(url, iter(())))
    for number in range(3):
        log.log(make_entry(number, 2))
        log.spooler.step()
    step_until_quiet(log)
    assert logged(sqlite_url) == keys([make_entry(0, 2), make_entry(2, 2)])
    assert log.state().refused_rows == 2
    assert len(list((tmp_path / "spool" / "aside").iterdir())) == 1
    log.close()


def test_a_damaged_file_stops_no_other(
    tmp_path: Path, sqlite_url: str, make_entry: MakeEntry, logged: Logged
) -> None:
    log = log_in(tmp_path, sqlite_url)
    for number in range(3):
        log.log(make_entry(number))
        log.spooler.step()
    (damaged,) = (tmp_path / "spool").glob("*/000000000002-*")
    damaged.write_bytes(damaged.read_bytes()[:-5])
    step_until_quiet(log)
    assert logged(sqlite_url) == keys([make_entry(0), make_entry(2)])
    assert log.state().refused_rows == 1
    log.close()


def test_closing_keeps_what_waits_and_puts_after_it_do_no_harm(
    tmp_path: Path, sqlite_url: str, make_entry: MakeEntry, logged: Logged
) -> None:
    log = log_in(tmp_path, sqlite_url, flush_seconds=60)
    log.start()
    entries = [make_entry(number) for number in range(20)]
    for entry in entries:
        log.log(entry)
    log.close()
    log.log(make_entry(99))
    assert logged(sqlite_url) == keys(entries)
    assert log.state().dropped_rows == 1


def test_closing_without_a_database_leaves_the_rows_to_the_next(
    tmp_path: Path, sqlite_url: str, make_entry: MakeEntry, logged: Logged
) -> None:
    away = "postgresql://nobody@127.0.0.1:1/none"
    first = log_in(tmp_path, away, flush_seconds=60)
    first.start()
    first.log(make_entry(1, 5))
    first.close()
    assert first.state().spool_rows == 5
    second = log_in(tmp_path, sqlite_url)
    second.start()
    assert eventually(lambda: second.state().written_rows == 5)
    second.close()
    assert logged(sqlite_url) == keys([make_entry(1, 5)])


def test_a_large_request_goes_to_files_of_bounded_size(
    tmp_path: Path, sqlite_url: str, make_entry: MakeEntry
) -> None:
    log = log_in(tmp_path, sqlite_url)
    for part in range(3):
        log.log(make_entry(1, 40_000, first_row=part * 40_000))
    log.spooler.step()
    files = list((tmp_path / "spool").glob("*/*.batch"))
    assert [int(path.stem.split("-")[1]) for path in sorted(files)] == [40_000] * 3
    step_until_quiet(log)
    assert log.state().written_rows == 120_000
    log.close()


def test_old_rows_go_by_themselves_once(
    tmp_path: Path, sqlite_url: str, make_entry: MakeEntry, logged: Logged
) -> None:
    now = datetime.now(UTC)
    old = make_entry(1, 3, answered_at=now - timedelta(days=31))
    new = make_entry(2, 2, answered_at=now - timedelta(days=29))
    log = log_in(tmp_path, sqlite_url, keep_days=30)
    log.log(old)
    log.log(new)
    step_until_quiet(log)
    assert logged(sqlite_url) == keys([new])
    log.log(make_entry(3, answered_at=now - timedelta(days=31)))
    step_until_quiet(log)
    assert len(logged(sqlite_url)) == 3  # tomorrow
    log.close()


def test_a_clock_that_was_set_deletes_nothing(
    tmp_path: Path,
    sqlite_url: str,
    make_entry: MakeEntry,
    logged: Logged,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import time

    log = log_in(tmp_path, sqlite_url, keep_days=30)
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + 90 * 86_400)
    old = make_entry(1, answered_at=datetime.now(UTC) - timedelta(days=60))
    log.log(old)
    step_until_quiet(log)
    assert logged(sqlite_url) == keys([old])
    log.close()


def test_the_settings_name_the_log(tmp_path: Path) -> None:
    assert open_log(load_settings(data_dir=tmp_path, prediction_log=False)) is None
    log = open_log(load_settings(data_dir=tmp_path, log_spool_mb=8, workers=4))
    assert log is not None
    assert log.state().spool_limit == 2 * 2**20
    assert list(tmp_path.iterdir()) == []  # nothing is touched before it starts


def eventually(true: Callable[[], bool]) -> bool:
    """Wait for what must come; how long it takes is no matter."""
    pause = threading.Event()
    for _ in range(2_000):
        if true():
            return True
        pause.wait(0.01)
    return False
