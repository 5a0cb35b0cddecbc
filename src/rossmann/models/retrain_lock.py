"""One retraining at a time in a data folder: a file lock that ends with its process."""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from rossmann.errors import AnotherRuns
from rossmann.models.owner import Owner

LOCK_FILE: Final = "lock"


@contextmanager
def only_one(folder: Path) -> Iterator[None]:
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
            raise AnotherRuns(_who(path)) from None
        holder = {"owner": Owner.here().text(), "since": f"{datetime.now(UTC):%F %T} UTC"}
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(holder).encode(), 0)
        yield
    finally:
        os.close(descriptor)


def _who(path: Path) -> str:
    try:
        told = json.loads(path.read_text("utf-8"))
        owner, since = Owner.read(told["owner"]), str(told["since"])
    except (OSError, ValueError, KeyError, TypeError):
        owner, since = None, "just now"
    who = "another process" if owner is None else str(owner)
    return f"{who} retrains since {since}; this one changed nothing: wait until it is done"
