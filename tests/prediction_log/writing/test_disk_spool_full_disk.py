"""A disk that takes no more: the kernel refuses to let any file grow beyond a limit."""

import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rossmann.prediction_log.records import LoggedPrediction
from rossmann.prediction_log.writing.log import PredictionLog

MakeEntry = Callable[..., LoggedPrediction]
Logged = Callable[[str], list[tuple[str, int]]]


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_rows_wait_in_memory_for_a_disk_that_is_full(
    tmp_path: Path, sqlite_url: str, make_entry: MakeEntry, logged: Logged
) -> None:
    log = PredictionLog(sqlite_url, tmp_path / "spool")
    log.log(make_entry(1, 5))
    with files_of_at_most(1_000):
        assert not log.spooler.step()
        log.log(make_entry(2, 5))
        assert not log.spooler.step()
        state = log.state()
    assert (state.queue_rows, state.spool_rows, state.dropped_rows) == (10, 0, 0)
    assert "cannot write the spool" in state.last_error
    assert [path for path in (tmp_path / "spool").glob("*/*") if path.is_file()] == []
    assert log.spooler.step()
    while log.shipper.step():
        pass
    log.close()
    assert len(logged(sqlite_url)) == 10


def test_files_wait_for_a_database_whose_disk_is_full(
    tmp_path: Path, sqlite_url: str, make_entry: MakeEntry, logged: Logged
) -> None:
    log = PredictionLog(sqlite_url, tmp_path / "spool")
    log.log(make_entry(1))
    assert log.spooler.step()
    assert log.shipper.step()
    log.log(make_entry(2, 20_000))
    assert log.spooler.step()
    with files_of_at_most(200_000):
        for _ in range(3):
            assert not log.shipper.step()
        state = log.state()
        log.log(make_entry(3))
        assert log.spooler.step()  # what is answered meanwhile is acknowledged all the same
    assert (state.spool_rows, state.written_rows, state.refused_rows) == (20_000, 1, 0)
    assert state.last_error
    while log.shipper.step():
        pass
    log.close()
    assert len(logged(sqlite_url)) == 20_002
    assert log.state().last_error == ""
