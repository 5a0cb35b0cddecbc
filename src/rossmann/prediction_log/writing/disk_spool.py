"""Bounded spool on disk for rows that wait for the database; survives a kill of the process.

Each process has a folder of its own. A file is written under a temporary name, synced, renamed, and
the folder synced: from then on its rows are acknowledged. It is deleted when the database has
them. File numbers rise within a folder, and the folder's name is the writer's name in the
database, which stores the last number: so a file that was written but not deleted is recognized.
"""

import os
import re
import threading
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Final, NamedTuple

from rossmann.filesystem.atomic_write import sync_folder
from rossmann.filesystem.locks import OwnedFolder, create_owned_folder, lock_orphans
from rossmann.logging_config import get_logger
from rossmann.prediction_log.records import Batch

BATCH_SUFFIX: Final = ".batch"
_BATCH_NAME: Final = re.compile(rf"(\d{{12}})-(\d+){BATCH_SUFFIX}")
_DRAFT_SUFFIX: Final = ".draft"
_QUARANTINE: Final = "aside"


@dataclass(frozen=True, slots=True)
class SpooledFile:
    """A spool file: the ``number``-th of its writer."""

    path: Path
    writer: str
    number: int
    rows: int
    size: int


class SpoolSize(NamedTuple):
    """Contents of a spool that wait for the database."""

    files: int
    rows: int
    bytes: int


@dataclass(slots=True)
class _SpoolFolder:
    folder: OwnedFolder
    files: deque[SpooledFile] = field(default_factory=deque)


class DiskSpool:
    """The spool of one process, and the folders that it took over from processes that ended.

    ``max_bytes`` bounds its contents. One thread may write while another reads and removes.
    """

    def __init__(self, parent: Path, max_bytes: int) -> None:
        self.parent = parent
        self.max_bytes = max_bytes
        self._lock = threading.Lock()
        self._own: _SpoolFolder | None = None
        self._adopted: list[_SpoolFolder] = []
        self._number = 0
        self._size = SpoolSize(0, 0, 0)

    @property
    def size(self) -> SpoolSize:
        """Files, rows and bytes that wait."""
        return self._size

    @property
    def full(self) -> bool:
        """Whether nothing more may be written."""
        return self._size.bytes >= self.max_bytes

    def write(self, batch: Batch) -> None:
        """Write a batch; when this returns, its rows survive any kill. Raises ``OSError``."""
        own = self._own_folder()
        content = batch.encode()
        path = own.folder.path / f"{self._number + 1:012d}-{len(batch)}{BATCH_SUFFIX}"
        draft = path.with_suffix(_DRAFT_SUFFIX)
        try:
            _write_synced(draft, content)
            draft.rename(path)
        except OSError:
            draft.unlink(missing_ok=True)
            raise
        self._number += 1
        self._add(own, SpooledFile(path, own.folder.name, self._number, len(batch), len(content)))
        # The file has its final name: an error raised now would lead to its rows written twice.
        with suppress(OSError):
            sync_folder(own.folder.path)

    def adopt_orphans(self) -> int:
        """Take over the folders of processes that ended; returns how many had files.

        Raises ``OSError``.
        """
        adopted = 0
        for folder in lock_orphans(self.parent):
            orphan = _SpoolFolder(folder)
            for path in sorted(folder.path.glob("*")):
                match = _BATCH_NAME.fullmatch(path.name)
                if match:
                    number, rows = map(int, match.groups())
                    file = SpooledFile(path, folder.name, number, rows, path.stat().st_size)
                    self._add(orphan, file)
                elif path.suffix == _DRAFT_SUFFIX:
                    path.unlink()  # never acknowledged
            if orphan.files:
                adopted += 1
                with self._lock:
                    self._adopted.append(orphan)
            else:
                folder.remove_if_empty()
        return adopted

    def next_files(self, max_rows: int, max_files: int) -> list[SpooledFile]:
        """The oldest files of one writer, in order; at least one if there is one."""
        with self._lock:
            files = next((folder.files for folder in self._folders() if folder.files), ())
            candidates = list(islice(files, max_files))
        selected: list[SpooledFile] = []
        rows = 0
        for file in candidates:
            rows += file.rows
            if selected and rows > max_rows:
                break
            selected.append(file)
        return selected

    def remove(self, files: list[SpooledFile]) -> None:
        """Delete the first files of a folder, which the database has. Raises ``OSError``."""
        for file in files:
            file.path.unlink(missing_ok=True)
            self._forget(file)

    def quarantine(self, file: SpooledFile, reason: str) -> None:
        """Move the first file of a folder to where a person can inspect it."""
        quarantine = self.parent / _QUARANTINE
        quarantine.mkdir(exist_ok=True)
        with suppress(FileNotFoundError):  # somebody deleted it
            file.path.rename(quarantine / f"{file.writer}-{file.path.name}")
        self._forget(file)
        event, folder = "set aside what cannot be written", str(quarantine)
        get_logger("prediction_log").error(event, rows=file.rows, folder=folder, reason=reason)

    def close(self) -> None:
        """Release all folders; another process takes over the files that still wait."""
        for folder in self._folders():
            if folder.files or not folder.folder.remove_if_empty():
                folder.folder.close()
        self._adopted, self._own = [], None

    def _folders(self) -> list[_SpoolFolder]:
        return [*self._adopted, *([self._own] if self._own else [])]

    def _own_folder(self) -> _SpoolFolder:
        """The folder to write to: a new one where there is none, or it was deleted."""
        own = self._own
        if own is None or not own.folder.path.is_dir():
            new = _SpoolFolder(create_owned_folder(self.parent))
            sync_folder(self.parent)
            with self._lock:
                if own is not None:
                    self._adopted.append(own)
                self._own, self._number = new, 0
            return new
        return own

    def _add(self, folder: _SpoolFolder, file: SpooledFile) -> None:
        with self._lock:
            folder.files.append(file)
            files, rows, size = self._size
            self._size = SpoolSize(files + 1, rows + file.rows, size + file.size)

    def _forget(self, file: SpooledFile) -> None:
        with self._lock:
            folder = next(f for f in self._folders() if f.folder.name == file.writer)
            folder.files.remove(file)
            files, rows, size = self._size
            self._size = SpoolSize(files - 1, rows - file.rows, size - file.size)
            finished = folder is not self._own and not folder.files
            if finished:
                self._adopted.remove(folder)
        if finished:
            folder.folder.remove_if_empty()


@dataclass(frozen=True, slots=True)
class SpoolTotals:
    """Contents of a spool folder over all processes, and its quarantined files."""

    files: int
    rows: int
    bytes: int
    quarantined: int


def spool_totals(parent: Path) -> SpoolTotals:
    """Measure a spool from another process; takes no lock."""
    pending = []
    for path in pending_files(parent):
        with suppress(FileNotFoundError):  # moved to the database meanwhile
            pending.append((int(path.stem.split("-")[1]), path.stat().st_size))
    quarantined = sum(1 for _ in (parent / _QUARANTINE).glob(f"*{BATCH_SUFFIX}"))
    rows, sizes = sum(rows for rows, _ in pending), sum(size for _, size in pending)
    return SpoolTotals(len(pending), rows, sizes, quarantined)


def pending_files(parent: Path) -> list[Path]:
    """All files of all processes that wait in a spool folder."""
    files: list[Path] = []
    for folder in parent.glob("*/"):
        if folder.name != _QUARANTINE:
            with suppress(FileNotFoundError):  # an empty folder may be removed meanwhile
                entries = os.scandir(folder)
                files += [Path(e.path) for e in entries if e.name.endswith(BATCH_SUFFIX)]
    return files


def _write_synced(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
