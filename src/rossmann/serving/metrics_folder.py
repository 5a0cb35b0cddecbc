"""Where several workers keep their numbers: a folder in memory that ends with the service.

A worker's counts stay in it when the worker dies, so that no total goes down; what only a living
worker has (memory, requests in flight) is left out from then on.
"""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from prometheus_client.multiprocess import mark_process_dead

VARIABLE: Final = "PROMETHEUS_MULTIPROC_DIR"
"""Read by prometheus-client when it is imported: set before a worker starts."""
_MEMORY: Final = Path("/dev/shm")
_NAME: Final = "rossmann-metrics-"
_LOCK: Final = "lock"


def shared_folder(environment: Mapping[str, str]) -> Path | None:
    """The folder of this worker and its siblings; None where it is alone."""
    told = environment.get(VARIABLE)
    return Path(told) if told else None


@contextmanager
def metrics_folder(parent: Path | None = None) -> Iterator[Path]:
    """A fresh folder for the workers of one service; it goes when the service ends.

    Not in the data folder: the files are mapped into memory, and on a full disk a write to such a
    file ends the process.
    """
    parent = parent or _default_parent()
    _clear(parent)
    folder = Path(tempfile.mkdtemp(prefix=_NAME, dir=parent))
    lock = os.open(folder / _LOCK, os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield folder
    finally:
        os.close(lock)
        shutil.rmtree(folder, ignore_errors=True)


def forget_the_dead(folder: Path) -> None:
    """Leave out what only living workers have, of those that died."""
    numbers = {path.stem.rpartition("_")[2] for path in folder.glob("gauge_live*.db")}
    for number in numbers:
        if number.isdecimal() and not _is_sibling(int(number)):
            mark_process_dead(int(number), str(folder))  # type: ignore[no-untyped-call]


def _is_sibling(process: int) -> bool:
    """Whether it lives and has our parent: its number may belong to another program by now."""
    if process == os.getpid():
        return True
    try:
        # After the name, which is in brackets and may hold anything: state, then the parent.
        told = Path(f"/proc/{process}/stat").read_text("latin-1").rpartition(")")[2].split()
    except OSError:
        return False
    return told[0] != "Z" and int(told[1]) == os.getppid()


def _default_parent() -> Path:
    usable = _MEMORY.is_dir() and os.access(_MEMORY, os.W_OK | os.X_OK)
    return _MEMORY if usable else Path(tempfile.gettempdir())


def _clear(parent: Path) -> None:
    """Remove folders whose service was killed: nobody holds their lock."""
    for folder in parent.glob(f"{_NAME}*"):
        try:
            lock = os.open(folder / _LOCK, os.O_RDWR)
        except OSError:
            continue  # another user's, or just being made
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            continue
        else:
            shutil.rmtree(folder, ignore_errors=True)
        finally:
            os.close(lock)
