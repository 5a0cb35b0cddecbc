"""Atomic writes, and permissions of what is written.

A draft in the target's folder is renamed, so readers see it whole or not.

Draft folders are locked by the process that writes them, and the lock ends with that process: the
next writer removes those that a killed process left.
"""

import json
import os
import shutil
import stat
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from rossmann.filesystem.locks import try_lock

PREFIX: Final = ".draft-"


@contextmanager
def private_files() -> Iterator[None]:
    """What the process makes inside the block is for its owner alone: 0600, folders 0700.

    For whole processes: the umask holds for every thread, and is inherited.
    """
    before = os.umask(0o077)
    try:
        yield
    finally:
        os.umask(before)


def make_private_folder(folder: Path) -> None:
    """Make a folder for its owner alone; so become one that exists, and the files in it."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for path in (folder, *folder.iterdir()):
        with suppress(OSError):  # another user's, or gone meanwhile
            mode = path.lstat().st_mode
            if mode & 0o077 and (path == folder or stat.S_ISREG(mode)):
                path.chmod(mode & 0o700)


def write_bytes_atomic(path: Path, content: bytes, mode: int | None = None) -> None:
    """Replace a file's content in one step; it is on disk (fsync) before it gets its name.

    ``mode``: permission bits; None: those of any new file. Raises ``OSError``, having changed
    nothing.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}-{os.urandom(4).hex()}.draft")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    try:
        descriptor = os.open(draft, flags, 0o666 if mode is None else 0o600)
        with os.fdopen(descriptor, "wb") as file:
            if mode is not None:
                os.fchmod(descriptor, mode)
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable (fsync)."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text_atomic(path: Path, text: str, mode: int | None = None) -> None:
    """``write_bytes_atomic`` of UTF-8 text."""
    write_bytes_atomic(path, text.encode("utf-8"), mode)


def write_json_atomic(path: Path, content: Any, mode: int | None = None) -> None:
    """``write_bytes_atomic`` of JSON, indented by one."""
    write_text_atomic(path, json.dumps(content, indent=1), mode)


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A draft path to write (not synced); it replaces ``path`` when the block ends without error.

    Else the draft is removed. Its name is fixed, so a killed process leaves at most one.
    """
    draft = path.with_name(f".{path.name}.draft")
    try:
        yield draft
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


@contextmanager
def staging_folder(parent: Path) -> Iterator[Path]:
    """An empty folder in ``parent`` to fill; when the block ends it is removed, unless renamed.

    Drafts of processes that have ended are removed first.
    """
    parent.mkdir(parents=True, exist_ok=True)
    remove_stale(parent)
    folder, lock = _locked_folder(parent)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def remove_stale(parent: Path, older_than: float = 0.0) -> list[Path]:
    """Remove and return the drafts in ``parent`` that no process writes any more.

    ``older_than``: seconds since the last file was put into one; for drafts without a lock.
    """
    removed = []
    for folder in parent.glob(f"{PREFIX}*"):
        with suppress(OSError):  # written by another process, or gone already
            if older_than and time.time() - folder.stat().st_mtime < older_than:
                continue
            lock = try_lock(folder, os.O_RDONLY | os.O_DIRECTORY)
            if lock is not None:
                shutil.rmtree(folder, ignore_errors=True)
                removed.append(folder)
                os.close(lock)
    return removed


def _locked_folder(parent: Path) -> tuple[Path, int | None]:
    while True:
        folder = parent / f"{PREFIX}{uuid.uuid4().hex[:12]}"
        folder.mkdir()  # not mkdtemp, which does not follow the umask
        try:
            lock = try_lock(folder, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            continue  # another process removed it before it was locked
        except OSError:
            return folder, None  # a file system without locks, where nothing is removed either
        if lock is None:
            continue  # another process is removing it
        if folder.is_dir():
            return folder, lock
        os.close(lock)
