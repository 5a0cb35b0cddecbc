"""Rows on disk that wait for the database: bounded, whole or not there, never lost by a kill.

Each process has a folder of its own. A file is written under another name, synced, renamed, and
the folder synced: from then on its rows are acknowledged. It is deleted when the database has
them. Numbers of files rise within a folder, and the folder's name is the writer's name in the
database, which remembers the last number: so a file that was written but not deleted is known.
"""

import os
import re
import threading
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Final

from rossmann.filesystem.locks import OwnedFolder, create_owned_folder, lock_orphans
from rossmann.logging_config import get_logger
from rossmann.prediction_log.records import Batch

ENDING: Final = ".batch"
_NAME: Final = re.compile(rf"(\d{{12}})-(\d+){ENDING}")
_DRAFT: Final = ".draft"
_ASIDE: Final = "aside"


@dataclass(frozen=True, slots=True)
class SpooledFile:
    """A file of the spool: the ``number``-th of its writer."""

    path: Path
    writer: str
    number: int
    rows: int
    size: int


@dataclass(slots=True)
class _Line:
    folder: OwnedFolder
    files: deque[SpooledFile] = field(default_factory=deque)


class DiskSpool:
    """The spool of one process, and the folders of dead ones that it took over.

    ``most_bytes`` bounds what it holds. One thread may write while another reads and removes.
    """

    def __init__(self, parent: Path, most_bytes: int) -> None:
        self.parent = parent
        self.most_bytes = most_bytes
        self._lock = threading.Lock()
        self._own: _Line | None = None
        self._adopted: list[_Line] = []
        self._number = 0
        self._bytes = 0
        self._rows = 0
        self._files = 0

    @property
    def size(self) -> tuple[int, int, int]:
        """Files, rows and bytes that wait."""
        return self._files, self._rows, self._bytes

    @property
    def full(self) -> bool:
        """Whether nothing more may be written."""
        return self._bytes >= self.most_bytes

    def write(self, batch: Batch) -> None:
        """Keep a batch; when this returns, its rows survive any kill. Raises ``OSError``."""
        line = self._line()
        content = batch.encode()
        path = line.folder.path / f"{self._number + 1:012d}-{len(batch)}{ENDING}"
        draft = path.with_suffix(_DRAFT)
        try:
            _write_synced(draft, content)
            draft.rename(path)
        except OSError:
            draft.unlink(missing_ok=True)
            raise
        self._number += 1
        self._add(line, SpooledFile(path, line.folder.name, self._number, len(batch), len(content)))
        # It has its name: to fail now would write its rows twice.
        with suppress(OSError):
            _sync(line.folder.path)

    def adopt_orphans(self) -> int:
        """Take over the folders of processes that ended; how many had files. Raises ``OSError``."""
        found = 0
        for folder in lock_orphans(self.parent):
            line = _Line(folder)
            for path in sorted(folder.path.glob("*")):
                named = _NAME.fullmatch(path.name)
                if named:
                    number, rows = map(int, named.groups())
                    file = SpooledFile(path, folder.name, number, rows, path.stat().st_size)
                    self._add(line, file)
                elif path.suffix == _DRAFT:
                    path.unlink()  # never acknowledged
            if line.files:
                found += 1
                with self._lock:
                    self._adopted.append(line)
            else:
                folder.remove_if_empty()
        return found

    def next_files(self, most_rows: int, most_files: int) -> list[SpooledFile]:
        """The oldest files of one writer, in order; at least one if there is one."""
        with self._lock:
            lines = [*self._adopted, *([self._own] if self._own else [])]
            line = next((line for line in lines if line.files), None)
            files = [] if line is None else list(islice(line.files, most_files))
        taken: list[SpooledFile] = []
        rows = 0
        for file in files:
            rows += file.rows
            if taken and rows > most_rows:
                break
            taken.append(file)
        return taken

    def remove(self, files: list[SpooledFile]) -> None:
        """Delete files that came first and that the database has. Raises ``OSError``."""
        for file in files:
            file.path.unlink(missing_ok=True)
            self._forget(file)

    def quarantine(self, file: SpooledFile, reason: str) -> None:
        """Keep the first file of a line where a person may look at it, out of the others' way."""
        aside = self.parent / _ASIDE
        aside.mkdir(exist_ok=True)
        with suppress(FileNotFoundError):  # somebody deleted it
            file.path.rename(aside / f"{file.writer}-{file.path.name}")
        self._forget(file)
        get_logger("prediction_log").error(
            "set aside what cannot be written", rows=file.rows, folder=str(aside), reason=reason
        )

    def close(self) -> None:
        """Let go of all folders; what still waits is taken over by whoever runs next."""
        for line in [*self._adopted, *([self._own] if self._own else [])]:
            if line.files or not line.folder.remove_if_empty():
                line.folder.close()
        self._adopted, self._own = [], None

    def _line(self) -> _Line:
        """Where to write: a new folder where there is none, or somebody deleted it."""
        line = self._own
        if line is None or not line.folder.path.is_dir():
            fresh = _Line(create_owned_folder(self.parent))
            _sync(self.parent)
            with self._lock:
                if line is not None:
                    self._adopted.append(line)
                self._own, self._number = fresh, 0
            return fresh
        return line

    def _add(self, line: _Line, file: SpooledFile) -> None:
        with self._lock:
            line.files.append(file)
            self._files += 1
            self._rows += file.rows
            self._bytes += file.size

    def _forget(self, file: SpooledFile) -> None:
        with self._lock:
            lines = [*self._adopted, *([self._own] if self._own else [])]
            line = next(line for line in lines if line.folder.name == file.writer)
            line.files.remove(file)
            self._files -= 1
            self._rows -= file.rows
            self._bytes -= file.size
            done = line is not self._own and not line.files
            if done:
                self._adopted.remove(line)
        if done:
            line.folder.remove_if_empty()


@dataclass(frozen=True, slots=True)
class SpoolTotal:
    """What waits in a spool folder, whoever's it is, and what was set aside."""

    files: int
    rows: int
    bytes: int
    aside: int


def spool_totals(parent: Path) -> SpoolTotal:
    """Look at a spool from outside; takes no lock."""
    waiting = []
    for path in waiting_files(parent):
        with suppress(FileNotFoundError):  # written meanwhile
            waiting.append((int(path.stem.split("-")[1]), path.stat().st_size))
    aside = sum(1 for _ in (parent / _ASIDE).glob(f"*{ENDING}"))
    return SpoolTotal(len(waiting), sum(r for r, _ in waiting), sum(b for _, b in waiting), aside)


def waiting_files(parent: Path) -> list[Path]:
    """All files that wait in a spool folder, whoever's they are."""
    found: list[Path] = []
    for folder in parent.glob("*/"):
        if folder.name != _ASIDE:
            with suppress(FileNotFoundError):  # a folder goes when it is empty, also meanwhile
                found += [Path(at.path) for at in os.scandir(folder) if at.name.endswith(ENDING)]
    return found


def _write_synced(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
