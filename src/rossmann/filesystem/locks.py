"""Exclusive file locks (flock): the kernel releases them when their process ends, however it ends.

A lock belongs to an open file, so it excludes other threads of the process too.
"""

import fcntl
import json
import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from rossmann.errors import AlreadyRunningError
from rossmann.filesystem.process_identity import ProcessIdentity

LOCK_FILE: Final = "lock"
_SUFFIX: Final = ".lock"


@contextmanager
def exclusive_lock(path: Path, busy: Callable[[], Exception] | None = None) -> Iterator[int]:
    """Hold the lock of a folder, or of a file that is created, while the block runs.

    Yields its descriptor. Waits while another holder has it; with ``busy``, raises what that
    returns instead.
    """
    flags = os.O_RDONLY if path.is_dir() else os.O_RDWR | os.O_CREAT
    descriptor = os.open(path, flags, 0o666)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (fcntl.LOCK_NB if busy else 0))
        except BlockingIOError as error:
            if busy is None:
                raise
            raise busy() from error
        yield descriptor
    finally:
        os.close(descriptor)


def try_lock(path: Path, flags: int = os.O_RDWR | os.O_CREAT, mode: int = 0o644) -> int | None:
    """Lock without waiting: the descriptor that holds it until closed; None where it is held.

    Raises ``OSError`` where the file cannot be opened or the file system has no locks.
    """
    descriptor = os.open(path, flags, mode)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        if isinstance(error, BlockingIOError):
            return None
        raise
    return descriptor


@contextmanager
def exclusive_process_lock(folder: Path, activity: str) -> Iterator[None]:
    """Hold the lock in ``folder`` while the block runs; the lock file stays.

    Raises ``AlreadyRunningError``, which names the holder, its ``activity`` and since when.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / LOCK_FILE
    with exclusive_lock(path, lambda: AlreadyRunningError(_holder(path, activity))) as descriptor:
        holder = {
            "owner": ProcessIdentity.current().to_json(),
            "since": f"{datetime.now(UTC):%F %T} UTC",
        }
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(holder).encode(), 0)
        yield


def _holder(path: Path, activity: str) -> str:
    try:
        content = json.loads(path.read_text("utf-8"))
        owner, since = ProcessIdentity.from_json(content["owner"]), str(content["since"])
    except (OSError, ValueError, KeyError, TypeError):
        owner, since = None, "just now"
    name = "another process" if owner is None else str(owner)
    return f"{name} {activity} since {since}; this one changed nothing: wait until it is done"


def lock_file(folder: Path) -> Path:
    """The lock file of an ``OwnedFolder``, which lies next to it."""
    return folder.with_suffix(_SUFFIX)


class OwnedFolder:
    """A folder of one process, with its lock file, held until ``close`` or the process's end.

    The lock file lies next to the folder, not in it: it is locked before the folder exists and
    until it is gone, so that no other process takes a folder whose owner is starting or ending.
    """

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self._descriptor = descriptor

    @property
    def name(self) -> str:
        """The folder's name, which is unique."""
        return self.path.name

    def remove_if_empty(self) -> bool:
        """Remove folder and lock file; False, and nothing is changed, where files are in it."""
        try:
            self.path.rmdir()
        except FileNotFoundError:
            pass
        except OSError:
            return False
        lock_file(self.path).unlink(missing_ok=True)
        self.close()
        return True

    def close(self) -> None:
        """Release the folder; any process may take it then."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def create_owned_folder(parent: Path) -> OwnedFolder:
    """A new folder of this process in ``parent``."""
    parent.mkdir(parents=True, exist_ok=True)
    while True:
        name = f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{uuid.uuid4().hex[:12]}"
        owned = try_lock_folder(parent / name)
        if owned is not None:
            owned.path.mkdir()
            return owned


def lock_orphans(parent: Path) -> Iterator[OwnedFolder]:
    """Take, one by one, the folders whose processes have ended."""
    for lock in sorted(parent.glob(f"*{_SUFFIX}")):
        owned = try_lock_folder(lock.with_suffix(""))
        if owned is not None:
            yield owned


def try_lock_folder(path: Path) -> OwnedFolder | None:
    """Take that folder, whether it exists or not; None where another process has it."""
    lock = lock_file(path)
    descriptor = try_lock(lock)
    if descriptor is None:
        return None
    try:
        if os.path.samestat(os.fstat(descriptor), lock.stat()):
            return OwnedFolder(path, descriptor)
    except FileNotFoundError:
        pass
    os.close(descriptor)  # its owner removed the file between opening and locking
    return None
