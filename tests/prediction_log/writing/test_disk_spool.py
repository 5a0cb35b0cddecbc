"""Files of the spool: whole or not there, one owner at a time, none forgotten."""

import fcntl
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from rossmann.filesystem.locks import create_owned_folder, lock_orphans, try_lock_folder
from rossmann.prediction_log.records import Batch, LoggedPrediction, decode, make_batch
from rossmann.prediction_log.writing.disk_spool import DiskSpool, spool_totals

MakeEntry = Callable[..., LoggedPrediction]


@pytest.fixture
def batch(make_entry: MakeEntry) -> Batch:
    return make_batch([make_entry(1, 3)], 1)


def spool_in(folder: Path, most_bytes: int = 10**9) -> DiskSpool:
    return DiskSpool(folder / "spool", most_bytes)


def test_files_come_back_in_order_and_whole(tmp_path: Path, make_entry: MakeEntry) -> None:
    spool = spool_in(tmp_path)
    for number in range(1, 4):
        spool.write(make_batch([make_entry(number, number)], number))
    files = spool.next_files(most_rows=100, most_files=100)
    assert [file.number for file in files] == [1, 2, 3]
    assert [file.rows for file in files] == [1, 2, 3]
    read = [decode(file.path.read_bytes()).requests["request_id"][0] for file in files]
    assert read == ["request-1", "request-2", "request-3"]
    assert [f.number for f in spool.next_files(most_rows=3, most_files=100)] == [1, 2]
    assert [f.number for f in spool.next_files(most_rows=100, most_files=1)] == [1]
    # One that alone is more than asked for must come all the same.
    assert [f.number for f in spool.next_files(most_rows=0, most_files=100)] == [1]


def test_what_it_holds_is_counted_until_it_is_removed(tmp_path: Path, batch: Batch) -> None:
    spool = spool_in(tmp_path)
    spool.write(batch)
    spool.write(batch)
    on_disk = sum(path.stat().st_size for path in tmp_path.rglob("*.batch"))
    assert spool.size == (2, 6, on_disk)
    total = spool_totals(spool.parent)
    assert (total.files, total.rows, total.bytes, total.aside) == (2, 6, on_disk, 0)
    spool.remove(spool.next_files(100, 100))
    assert spool.size == (0, 0, 0)
    assert list(tmp_path.rglob("*.batch")) == []


def test_it_is_full_at_its_bound(tmp_path: Path, batch: Batch) -> None:
    spool = spool_in(tmp_path, most_bytes=len(batch.encode()) + 1)
    spool.write(batch)
    assert not spool.full
    spool.write(batch)
    assert spool.full
    spool.remove(spool.next_files(1, 1))
    assert not spool.full


def test_the_files_of_one_that_ended_are_taken_over(tmp_path: Path, batch: Batch) -> None:
    dead, heir = spool_in(tmp_path), spool_in(tmp_path)
    dead.write(batch)
    dead.write(batch)
    (file, _) = dead.next_files(100, 100)
    (file.path.parent / "000000000003-1.draft").write_bytes(b"half")
    assert heir.adopt_orphans() == 0  # it lives
    dead.close()
    heir.write(batch)
    assert heir.adopt_orphans() == 1
    files = heir.next_files(100, 100)
    assert [(f.writer, f.number) for f in files] == [(file.writer, 1), (file.writer, 2)]
    assert list(tmp_path.rglob("*.draft")) == []
    assert heir.size[0] == 3
    heir.remove(files)
    assert not file.path.parent.exists()
    assert [f.number for f in heir.next_files(100, 100)] == [1]


def test_two_heirs_never_take_the_same(tmp_path: Path, batch: Batch) -> None:
    for _ in range(4):
        dead = spool_in(tmp_path)
        dead.write(batch)
        dead.close()
    heirs = [spool_in(tmp_path), spool_in(tmp_path)]
    assert sum(heir.adopt_orphans() for heir in heirs) == 4
    assert sum(heir.size[0] for heir in heirs) == 4


def test_nothing_is_left_of_one_that_ended_with_nothing(tmp_path: Path, batch: Batch) -> None:
    spool = spool_in(tmp_path)
    spool.write(batch)
    spool.remove(spool.next_files(1, 1))
    spool.close()
    assert list(spool.parent.iterdir()) == []


def test_a_folder_that_somebody_deleted_is_made_anew(tmp_path: Path, batch: Batch) -> None:
    spool = spool_in(tmp_path)
    spool.write(batch)
    (first,) = spool.next_files(100, 100)
    first.path.unlink()
    first.path.parent.rmdir()
    spool.write(batch)
    assert spool.next_files(100, 100) == [first]  # found missing by who reads it
    spool.quarantine(first, "gone")
    (second,) = spool.next_files(100, 100)
    assert second.writer != first.writer
    assert second.path.is_file()


def test_what_is_set_aside_is_out_of_the_way_and_not_lost(tmp_path: Path, batch: Batch) -> None:
    spool = spool_in(tmp_path)
    spool.write(batch)
    (file,) = spool.next_files(1, 1)
    content = file.path.read_bytes()
    spool.quarantine(file, "refused")
    assert spool.size == (0, 0, 0)
    assert spool_totals(spool.parent).aside == 1
    assert spool_totals(spool.parent).files == 0
    (kept,) = (spool.parent / "aside").iterdir()
    assert kept.read_bytes() == content


def test_a_draft_that_could_not_be_finished_is_no_file(tmp_path: Path, batch: Batch) -> None:
    spool = spool_in(tmp_path)
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


def test_a_lock_file_that_was_removed_meanwhile_locks_nothing(tmp_path: Path) -> None:
    owned = create_owned_folder(tmp_path)
    lock = owned.path.with_suffix(".lock")
    kept_open = os.open(lock, os.O_RDWR)
    assert try_lock_folder(owned.path) is None
    assert list(lock_orphans(tmp_path)) == []
    assert owned.remove_if_empty()
    assert not lock.exists()
    again = try_lock_folder(owned.path)
    assert again is not None
    assert os.fstat(kept_open).st_ino != lock.stat().st_ino
    os.close(kept_open)
    again.close()


def test_a_lock_won_on_a_removed_file_is_no_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its owner removes the file just after another opened it: that one has locked nothing."""
    real = fcntl.flock

    def owner_is_faster(descriptor: int, how: int) -> None:
        (tmp_path / "one.lock").unlink()
        real(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", owner_is_faster)
    assert try_lock_folder(tmp_path / "one") is None
    monkeypatch.undo()
    assert try_lock_folder(tmp_path / "one") is not None
