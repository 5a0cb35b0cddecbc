"""Disk spool: atomic files, one owner per folder, adoption of orphans, quarantine."""

import fcntl
import os
from pathlib import Path

import pytest

from rossmann.filesystem.locks import create_owned_folder, lock_orphans, try_lock_folder
from rossmann.prediction_log.records import Batch, decode
from rossmann.prediction_log.writing.disk_spool import DiskSpool, spool_totals
from tests.fixtures.prediction_log import MakeEntry, make_batch


@pytest.fixture
def batch(make_entry: MakeEntry) -> Batch:
    return make_batch([make_entry(1, 3)], 1)


def make_spool(folder: Path, max_bytes: int = 10**9) -> DiskSpool:
    return DiskSpool(folder / "spool", max_bytes)


def test_next_files_are_ordered_and_bounded(tmp_path: Path, make_entry: MakeEntry) -> None:
    spool = make_spool(tmp_path)
    for number in range(1, 4):
        spool.write(make_batch([make_entry(number, number)], number))
    files = spool.next_files(max_rows=100, max_files=100)
    assert [file.number for file in files] == [1, 2, 3]
    assert [file.rows for file in files] == [1, 2, 3]
    request_ids = [decode(file.path.read_bytes()).requests["request_id"][0] for file in files]
    assert request_ids == ["request-1", "request-2", "request-3"]
    assert [f.number for f in spool.next_files(max_rows=3, max_files=100)] == [1, 2]
    assert [f.number for f in spool.next_files(max_rows=100, max_files=1)] == [1]
    # A file with more rows than the bound is returned alone.
    assert [f.number for f in spool.next_files(max_rows=0, max_files=100)] == [1]


def test_size_counts_files_until_they_are_removed(tmp_path: Path, batch: Batch) -> None:
    spool = make_spool(tmp_path)
    spool.write(batch)
    spool.write(batch)
    on_disk = sum(path.stat().st_size for path in tmp_path.rglob("*.batch"))
    assert spool.size == (2, 6, on_disk)
    total = spool_totals(spool.parent)
    assert (total.files, total.rows, total.bytes, total.quarantined) == (2, 6, on_disk, 0)
    spool.remove(spool.next_files(100, 100))
    assert spool.size == (0, 0, 0)
    assert list(tmp_path.rglob("*.batch")) == []


def test_spool_is_full_at_its_bound(tmp_path: Path, batch: Batch) -> None:
    spool = make_spool(tmp_path, max_bytes=len(batch.encode()) + 1)
    spool.write(batch)
    assert not spool.full
    spool.write(batch)
    assert spool.full
    spool.remove(spool.next_files(1, 1))
    assert not spool.full


def test_orphaned_files_are_adopted(tmp_path: Path, batch: Batch) -> None:
    dead, live = make_spool(tmp_path), make_spool(tmp_path)
    dead.write(batch)
    dead.write(batch)
    (file, _) = dead.next_files(100, 100)
    (file.path.parent / "000000000003-1.draft").write_bytes(b"half")
    assert live.adopt_orphans() == 0  # its process is running
    dead.close()
    live.write(batch)
    assert live.adopt_orphans() == 1
    files = live.next_files(100, 100)
    assert [(f.writer, f.number) for f in files] == [(file.writer, 1), (file.writer, 2)]
    assert list(tmp_path.rglob("*.draft")) == []
    assert live.size[0] == 3
    live.remove(files)
    assert not file.path.parent.exists()
    assert [f.number for f in live.next_files(100, 100)] == [1]


def test_two_spools_never_adopt_the_same_files(tmp_path: Path, batch: Batch) -> None:
    for _ in range(4):
        dead = make_spool(tmp_path)
        dead.write(batch)
        dead.close()
    spools = [make_spool(tmp_path), make_spool(tmp_path)]
    assert sum(live.adopt_orphans() for live in spools) == 4
    assert sum(live.size[0] for live in spools) == 4


def test_closing_an_empty_spool_removes_its_folder(tmp_path: Path, batch: Batch) -> None:
    spool = make_spool(tmp_path)
    spool.write(batch)
    spool.remove(spool.next_files(1, 1))
    spool.close()
    assert list(spool.parent.iterdir()) == []


def test_deleted_folder_is_created_again(tmp_path: Path, batch: Batch) -> None:
    spool = make_spool(tmp_path)
    spool.write(batch)
    (first,) = spool.next_files(100, 100)
    first.path.unlink()
    first.path.parent.rmdir()
    spool.write(batch)
    assert spool.next_files(100, 100) == [first]  # the reader finds it missing
    spool.quarantine(first, "gone")
    (second,) = spool.next_files(100, 100)
    assert second.writer != first.writer
    assert second.path.is_file()


def test_quarantined_file_is_moved_and_kept(tmp_path: Path, batch: Batch) -> None:
    spool = make_spool(tmp_path)
    spool.write(batch)
    (file,) = spool.next_files(1, 1)
    content = file.path.read_bytes()
    spool.quarantine(file, "refused")
    assert spool.size == (0, 0, 0)
    assert spool_totals(spool.parent).quarantined == 1
    assert spool_totals(spool.parent).files == 0
    (quarantined,) = (spool.parent / "aside").iterdir()
    assert quarantined.read_bytes() == content


def test_failed_write_leaves_no_file(tmp_path: Path, batch: Batch) -> None:
    spool = make_spool(tmp_path)
    spool.write(batch)
    (file,) = spool.next_files(1, 1)
    blocker = file.path.parent / f"000000000002-{len(batch)}.batch"
    blocker.mkdir()  # a rename onto it fails
    with pytest.raises(OSError, match="directory"):
        spool.write(batch)
    assert list(file.path.parent.glob("*.draft")) == []
    assert spool.size[0] == 1
    blocker.rmdir()
    spool.write(batch)
    assert [f.number for f in spool.next_files(100, 100)] == [1, 2]


def test_removed_lock_file_locks_nothing(tmp_path: Path) -> None:
    owned = create_owned_folder(tmp_path)
    lock = owned.path.with_suffix(".lock")
    kept_open = os.open(lock, os.O_RDWR)
    assert try_lock_folder(owned.path) is None
    assert list(lock_orphans(tmp_path)) == []
    assert owned.remove_if_empty()
    assert not lock.exists()
    relocked = try_lock_folder(owned.path)
    assert relocked is not None
    assert os.fstat(kept_open).st_ino != lock.stat().st_ino
    os.close(kept_open)
    relocked.close()


def test_lock_on_a_file_removed_meanwhile_is_no_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its owner removes the file just after another process opened it."""
    real = fcntl.flock

    def remove_then_lock(descriptor: int, operation: int) -> None:
        (tmp_path / "one.lock").unlink()
        real(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", remove_then_lock)
    assert try_lock_folder(tmp_path / "one") is None
    monkeypatch.undo()
    assert try_lock_folder(tmp_path / "one") is not None
