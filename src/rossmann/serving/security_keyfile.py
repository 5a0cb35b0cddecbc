"""Changes to the file of keys, by ``rossmann keys``: whole or not at all, one at a time."""

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rossmann.errors import SettingsError
from rossmann.serving.security_keys import Entry, read_file

_HEADER = "# API keys, as right:sha256:name:created. Made and changed by: rossmann keys"


def add_entry(path: Path, entry: Entry) -> None:
    """Append; raises ``SettingsError`` where the name is taken."""
    with _alone(path):
        if any(known.name == entry.name for known in _entries(path)):
            raise SettingsError(f"{path} has a key named {entry.name}: take another name")
        lines = path.read_text("utf-8").splitlines() if path.exists() else [_HEADER]
        _write(path, [*lines, entry.line])


def revoke(path: Path, name: str) -> Entry:
    """Take the key of that name out; raises ``SettingsError`` where there is none."""
    with _alone(path):
        found = next((known for known in _entries(path) if known.name == name), None)
        if found is None:
            names = ", ".join(known.name for known in _entries(path) if known.name) or "none"
            raise SettingsError(f"{path} has no key named {name}; there are: {names}")
        kept = [line for line in path.read_text("utf-8").splitlines() if found.digest not in line]
        _write(path, kept)
        return found


def _entries(path: Path) -> list[Entry]:
    return read_file(path) if path.exists() else []


def _write(path: Path, lines: list[str]) -> None:
    # mkstemp makes it for its owner alone (0600), and a reader never sees half a file.
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write("\n".join(lines) + "\n")
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except OSError:
        Path(name).unlink(missing_ok=True)
        raise


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)
