"""Prediction log on a full disk, simulated by a limit on the size of any file."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rossmann.prediction_log.writing.log import PredictionLog
from tests.fixtures.prediction_log import MakeEntry, ReadRowKeys


@contextmanager
def max_file_size(size: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_rows_wait_in_memory_while_the_disk_is_full(
    tmp_path: Path, sqlite_url: str, make_entry: MakeEntry, logged: ReadRowKeys
) -> None:
    log = PredictionLog(sqlite_url, tmp_path / "spool")
    log.log(make_entry(1, 5))
    with max_file_size(1_000):
        assert not log.spool_writer.step()
        log.log(make_entry(2, 5))
        assert not log.spool_writer.step()
        status = log.status()
    assert (status.queue_rows, status.spool_rows, status.dropped_rows) == (10, 0, 0)
    assert "cannot write the spool" in status.last_error
    assert [path for path in (tmp_path / "spool").glob("*/*") if path.is_file()] == []
    assert log.spool_writer.step()
    while log.shipper.step():
        pass
    log.close()
    assert len(logged(sqlite_url)) == 10


def test_files_wait_while_the_disk_of_the_database_is_full(
    tmp_path: Path, sqlite_url: str, make_entry: MakeEntry, logged: ReadRowKeys
) -> None:
    log = PredictionLog(sqlite_url, tmp_path / "spool")
    log.log(make_entry(1))
    assert log.spool_writer.step()
    assert log.shipper.step()
    log.log(make_entry(2, 20_000))
    assert log.spool_writer.step()
    with max_file_size(200_000):
        for _ in range(3):
            assert not log.shipper.step()
        status = log.status()
        log.log(make_entry(3))
        assert log.spool_writer.step()  # entries logged meanwhile are acknowledged
    assert (status.spool_rows, status.written_rows, status.rejected_rows) == (20_000, 1, 0)
    assert status.last_error
    while log.shipper.step():
        pass
    log.close()
    assert len(logged(sqlite_url)) == 20_002
    assert log.status().last_error == ""
