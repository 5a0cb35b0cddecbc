"""Folders that are written aside and put in place whole: a kill leaves nothing half-done.

A draft is locked by the process that writes it, and the lock ends with that process. So whoever
makes the next draft knows which of those that lie about belong to nobody, and removes them.
"""

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

PREFIX: Final = ".draft-"


@contextmanager
def staging_folder(parent: Path) -> Iterator[Path]:
    """An empty folder in ``parent`` to fill; when the block ends it is gone, unless renamed.

    Drafts of processes that have ended are removed first.
    """
    parent.mkdir(parents=True, exist_ok=True)
    remove_stale(parent)
    folder, lock = _locked_folder(parent)
    try:
        folder.chmod(0o755)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def remove_stale(parent: Path, older_than: float = 0.0) -> list[Path]:
    """Remove the drafts in ``parent`` that no process writes any more; returns them.

    ``older_than``: seconds since the last file was put into one; for drafts without a lock.
    """
    swept = []
    for folder in parent.glob(f"{PREFIX}*"):
        with suppress(OSError):  # written by another process, or gone already
            if time.time() - folder.stat().st_mtime < older_than:
                continue
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
                swept.append(folder)
            finally:
                os.close(lock)
    return swept


def _locked_folder(parent: Path) -> tuple[Path, int]:
    while True:
        folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
        with suppress(FileNotFoundError):
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            with suppress(OSError):  # a file system without locks: nobody can sweep there
                fcntl.flock(lock, fcntl.LOCK_EX)
            if folder.is_dir():
                return folder, lock
            os.close(lock)  # swept by another process before it was locked
