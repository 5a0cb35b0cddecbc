"""One retraining at a time in a data folder: a file lock that ends with its process.

MERGED: A folder that belongs to one living process; the kernel tells others when that process ends.
"""

import fcntl
import json
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from rossmann.errors import AlreadyRunningError
from rossmann.filesystem.process_identity import ProcessIdentity

LOCK_FILE: Final = "lock"


@contextmanager
def exclusive_process_lock(folder: Path) -> Iterator[None]:
    """Hold the lock in ``folder`` while the block runs.

    Raises ``AnotherRuns``, naming who holds it and since when. The kernel lets go of it when the
    process ends, however it ends; the file itself stays.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / LOCK_FILE
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise AlreadyRunningError(_who(path)) from None
        holder = {
            "owner": ProcessIdentity.current().to_json(),
            "since": f"{datetime.now(UTC):%F %T} UTC",
        }
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(holder).encode(), 0)
        yield
    finally:
        os.close(descriptor)


def _who(path: Path) -> str:
    try:
        told = json.loads(path.read_text("utf-8"))
        owner, since = ProcessIdentity.from_json(told["owner"]), str(told["since"])
    except (OSError, ValueError, KeyError, TypeError):
        owner, since = None, "just now"
    who = "another process" if owner is None else str(owner)
    return f"{who} retrains since {since}; this one changed nothing: wait until it is done"


_ENDING: Final = ".lock"


class OwnedFolder:
    """A folder beside its lock file, held until ``close`` or the end of the process.

    The lock file lies beside the folder, not in it, so that it is locked before the folder is
    there and until the folder is gone: nobody meets a folder whose owner only begins or ends.
    """

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self._descriptor = descriptor

    @property
    def name(self) -> str:
        """The folder's name, which no other ever has."""
        return self.path.name

    def remove_if_empty(self) -> bool:
        """Remove folder and lock file; False, and nothing is changed, where files are in it."""
        try:
            self.path.rmdir()
        except FileNotFoundError:
            pass
        except OSError:
            return False
        self.path.with_suffix(_ENDING).unlink(missing_ok=True)
        self.close()
        return True

    def close(self) -> None:
        """Let go of the folder; whoever runs may take it then."""
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
    for lock in sorted(parent.glob(f"*{_ENDING}")):
        owned = try_lock_folder(lock.with_suffix(""))
        if owned is not None:
            yield owned


def try_lock_folder(path: Path) -> OwnedFolder | None:
    """Take that folder, be it there or not; None where somebody has it."""
    lock = path.with_suffix(_ENDING)
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(descriptor), lock.stat()):
            return OwnedFolder(path, descriptor)
    except (BlockingIOError, FileNotFoundError):
        pass
    # Somebody has it, or had it and removed the file between our opening and locking it.
    os.close(descriptor)
    return None
