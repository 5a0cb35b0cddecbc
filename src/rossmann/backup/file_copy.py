"""Copies of files and of SQLite databases with their SHA-256, durable on disk, and progress.

A copy of a database that other processes write is made by SQLite's backup function, within one
read transaction: it is the state of one moment.
"""

import errno
import hashlib
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from rossmann.errors import BackupError
from rossmann.filesystem.process_identity import owner_name
from rossmann.schema import ProgressReporter

_CHUNK: Final = 1 << 20
_PAGES: Final = 2048
"""Pages that are copied between two reports, and between two signals that are noticed."""
_BUSY_SECONDS: Final = 30.0
_ATTEMPTS: Final = 3
_HEADER: Final = b"SQLite format 3\0"
_DAMAGED: Final = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_DISK_FULL: Final = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@dataclass(frozen=True, slots=True)
class FileRecord:
    """Content of a file: SHA-256 in hex digits, and its size in bytes."""

    sha256: str
    size: int


class CopyProgress:
    """Reports how many bytes of all are done, at most once in ``interval`` seconds."""

    def __init__(self, total: int, report: ProgressReporter, interval: float = 5.0) -> None:
        self._total, self._report, self._interval = total, report, interval
        self._done, self._last = 0, time.monotonic()

    def add(self, size: int) -> None:
        """Count ``size`` more bytes."""
        self._done += size
        if time.monotonic() - self._last >= self._interval:
            self._last = time.monotonic()
            done = min(self._done, self._total)  # files may grow meanwhile
            self._report(f"{megabytes(done)} of {megabytes(self._total)}")


def megabytes(size: int) -> str:
    """Bytes as a text for people."""
    return f"{size / 1e6:,.1f} MB"


def is_database(path: Path) -> bool:
    """Whether the file is a SQLite database, by its first bytes."""
    with path.open("rb") as file:
        return file.read(len(_HEADER)) == _HEADER


def copy_file(source: Path, target: Path, progress: CopyProgress) -> FileRecord:
    """Copy content and modification time; the copy is on disk (fsync) when this returns.

    The digest is of what was read, so an error of the write is found when the copy is checked.
    Raises ``BackupError`` for a file that changes each time while it is read, and ``OSError``.
    """
    for _ in range(_ATTEMPTS):
        with source.open("rb") as original, target.open("wb") as copy:
            before = os.fstat(original.fileno())
            record = _hash(original, progress, copy)
            after = os.fstat(original.fileno())
            copy.flush()
            os.fsync(copy.fileno())
        if (before.st_size, before.st_mtime_ns) == (after.st_size, after.st_mtime_ns):
            os.utime(target, ns=(before.st_atime_ns, before.st_mtime_ns))
            return record
    raise BackupError(f"{source} is being written: try again when that is done")


def hash_file(path: Path, progress: CopyProgress) -> FileRecord:
    """Digest and size of a file. Raises ``OSError``."""
    with path.open("rb") as file:
        return _hash(file, progress)


def copy_database(source: Path, target: Path, progress: CopyProgress) -> FileRecord:
    """A consistent copy of a SQLite database that other processes read and write, checked.

    Raises ``BackupError`` where the database is damaged or cannot be read, ``OSError``, and
    ``sqlite3.Error`` where the disk of ``target`` is full.
    """
    try:
        with (
            # rw, not rwc, which would create a database that is gone.
            closing(_connect(f"{source.resolve().as_uri()}?mode=rw")) as original,
            closing(_connect(target.resolve().as_uri())) as copy,
        ):
            _copy_snapshot(original, copy, progress)
            faults = [str(row[0]) for row in copy.execute("PRAGMA integrity_check(5)")]
    except sqlite3.Error as error:
        code = error.sqlite_errorcode & 0xFF  # the higher bits are details
        if code == sqlite3.SQLITE_FULL:
            raise
        if code not in _DAMAGED:
            raise BackupError(f"{source} was not copied: {error}") from error
        faults = [str(error)]
    if faults != ["ok"]:
        raise BackupError(
            f"{source}: SQLite's integrity check found a fault ({'; '.join(faults)[:300]}). Keep"
            " the last good backup, and restore this database from it"
        )
    with target.open("rb") as file:
        os.fsync(file.fileno())
        return _hash(file, CopyProgress(0, lambda _: None))


def _connect(address: str) -> sqlite3.Connection:
    return sqlite3.connect(address, timeout=_BUSY_SECONDS, uri=True, isolation_level=None)


def _copy_snapshot(
    original: sqlite3.Connection, copy: sqlite3.Connection, progress: CopyProgress
) -> None:
    """Copy page by page within one read transaction.

    Without a transaction of its own the copy would begin anew after each change by others.
    """
    page_size = int(original.execute("PRAGMA page_size").fetchone()[0])
    left = -1

    def count(_: int, remaining: int, total: int) -> None:
        nonlocal left
        progress.add(((total if left < 0 else left) - remaining) * page_size)
        left = remaining

    original.execute("BEGIN")
    original.execute("SELECT count(*) FROM sqlite_master").fetchone()  # now it reads one state
    original.backup(copy, pages=_PAGES, progress=count)
    original.execute("COMMIT")


@contextmanager
def explained_errors(folder: Path) -> Iterator[None]:
    """Turn errors of the disk and of permissions into ``BackupError``.

    ``folder``: that is written.
    """
    try:
        yield
    except PermissionError as error:
        path = Path(str(error.filename or folder))
        raise BackupError(
            f"{path} cannot be read or written by this user ({owner_name(os.geteuid())}): run the"
            f" command as {_owner(path)}"
        ) from error
    except OSError as error:
        if error.errno in _DISK_FULL:
            raise _disk_full(folder, str(error)) from error
        raise BackupError(f"{folder} was not written: {error}") from error
    except sqlite3.Error as error:  # see ``copy_database``
        raise _disk_full(folder, str(error)) from error


def _hash(file: BinaryIO, progress: CopyProgress, copy: BinaryIO | None = None) -> FileRecord:
    digest, size = hashlib.sha256(), 0
    while chunk := file.read(_CHUNK):
        digest.update(chunk)
        size += len(chunk)
        if copy is not None:
            copy.write(chunk)
        progress.add(len(chunk))
    return FileRecord(digest.hexdigest(), size)


def _disk_full(folder: Path, reason: str) -> BackupError:
    return BackupError(
        f"the disk of {folder} is full, or a limit on sizes is reached ({reason}): nothing was"
        " kept. Free some space, or name a folder on another disk"
    )


def _owner(path: Path) -> str:
    """Name of the owner of the nearest path that can be looked at."""
    for place in (path, *path.parents):
        try:
            return owner_name(place.stat().st_uid)
        except OSError:
            continue
    return "its owner"
