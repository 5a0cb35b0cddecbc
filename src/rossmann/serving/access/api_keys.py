"""API keys: made once, kept as digests in a setting or a file that is read again when it changes.

An entry is ``right:sha256hex``, with ``:name`` and ``:created`` after it where they are known.

MERGED: Changes to the file of keys, by ``rossmann keys``: whole or not at all, one at a time.
"""

import fcntl
import hashlib
import os
import re
import secrets
import stat
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import IntEnum
from pathlib import Path
from typing import Final

from rossmann.errors import SettingsError
from rossmann.logging_config import get_logger

KEY_PREFIX: Final = "rsf_"
"""What our keys begin with, so that a scanner of secrets finds one that got where it should not."""
KEY_NAME_PATTERN: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}\Z")
_DIGEST: Final = re.compile(r"[0-9a-f]{64}\Z")
_LOOK_SECONDS: Final = 1.0
"""How soon a change of the file is seen."""


class Permission(IntEnum):
    """What a caller may do; each right holds the ones before it."""

    ANYONE = 0
    PREDICT = 1
    OPERATE = 2

    @property
    def word(self) -> str:
        """How people spell it."""
        return self.name.lower()


_RIGHTS: Final = {
    "predict": Permission.PREDICT,
    "operate": Permission.OPERATE,
    # what they were called at first
    "viewer": Permission.PREDICT,
    "operator": Permission.OPERATE,
}


@dataclass(frozen=True, slots=True)
class ApiKeyRecord:
    """A key that is known: not the key itself, only its digest."""

    right: Permission
    digest: str
    name: str = ""
    created: str = ""

    @property
    def line(self) -> str:
        """How a file holds it."""
        return ":".join(filter(None, (self.right.word, self.digest, self.name, self.created)))

    @property
    def who(self) -> str:
        """The key in a word, for records."""
        return f"key {self.name or self.digest[:8]}"


def key_digest(key: str) -> str:
    """What is kept of a key.

    A plain SHA-256, neither salted nor slow: those protect secrets that people choose. A key of 32
    random bytes cannot be guessed, however many digests a second somebody can try.
    """
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


def generate_key(right: Permission, name: str) -> tuple[str, ApiKeyRecord]:
    """A new key, and its entry; raises ``SettingsError`` for a name that cannot be."""
    if not KEY_NAME_PATTERN.match(name):
        raise SettingsError(
            "a key's name holds letters, digits and . _ @ -, 64 at most, and begins with a letter "
            "or digit"
        )
    key = KEY_PREFIX + secrets.token_urlsafe(32)
    created = datetime.now(UTC).date().isoformat()
    return key, ApiKeyRecord(right, key_digest(key), name, created)


def parse_entry(text: str, where: str) -> ApiKeyRecord:
    """An entry; raises ``SettingsError`` on all else, without the text: it may be a key itself."""
    word, digest, name, created = [*text.strip().split(":", 3), "", "", ""][:4]
    right, digest = _RIGHTS.get(word.strip().lower()), digest.strip().lower()
    if right is None or not _DIGEST.match(digest) or (name and not KEY_NAME_PATTERN.match(name)):
        raise SettingsError(
            f"{where} must be predict:<sha256> or operate:<sha256>, with the digest as 64 hex "
            "digits and, if wanted, :name; make one with: rossmann keys new"
        )
    return ApiKeyRecord(right, digest, name, created)


def parse_setting(text: str) -> list[ApiKeyRecord]:
    """From entries with commas between; raises ``SettingsError``."""
    parts = filter(None, map(str.strip, text.split(",")))
    return [parse_entry(p, f"ROSSMANN_API_KEYS: entry {n}") for n, p in enumerate(parts, 1)]


def read_key_file(path: Path) -> list[ApiKeyRecord]:
    """A file's entries, one a line; ``#`` begins a comment. Raises ``SettingsError``, ``OSError``.

    A file that others may write is refused: whoever adds a line to it is let in.
    """
    with path.open(encoding="utf-8", errors="replace") as file:
        if os.fstat(file.fileno()).st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise SettingsError(f"{path} may be written by others: chmod 600 {path}")
        lines = file.read().splitlines()
    return [
        parse_entry(line, f"{path}: line {number}")
        for number, line in enumerate(lines, 1)
        if line.strip() and not line.lstrip().startswith("#")
    ]


class ApiKeyStore:
    """The keys that are known, by digest. Without any, and without a file, the service is open.

    Once closed it stays so: a file that is emptied, or goes away, lets nobody in.
    """

    def __init__(self, fixed: Iterable[ApiKeyRecord] = (), path: Path | None = None) -> None:
        self._fixed = {entry.digest: entry for entry in fixed}
        self._path = path
        self._seen: tuple[int, ...] | None = None
        self._look_at = 0.0
        self._known = self._fixed
        self._closed = bool(self._fixed)

    @classmethod
    def open_book(cls, setting: str, path: Path, required: bool = False) -> "ApiKeyStore":
        """The keys of a setting and of a file, which may come later unless ``required``.

        Raises ``SettingsError`` for entries that cannot be, or a file that cannot be read.
        """
        book = cls(parse_setting(setting), path)
        if required and not path.is_file():
            raise SettingsError(f"ROSSMANN_API_KEYS_FILE: {path} is not there")
        try:
            book.reload()
        except OSError as error:
            raise SettingsError(f"{path} cannot be read: {error.strerror}") from error
        return book

    @property
    def requires_key(self) -> bool:
        """Whether a key is needed."""
        return self._closed

    def count(self, right: Permission) -> int:
        """How many keys have exactly that right."""
        return sum(entry.right is right for entry in self._known.values())

    def find(self, digest: str) -> ApiKeyRecord | None:
        """The entry of a digest.

        A look-up by digest tells nothing about a key by the time that it takes.
        """
        return self._known.get(digest)

    def reload_if_due(self) -> None:
        """Look at the file if that was not done within the last second."""
        now = time.monotonic()
        if now < self._look_at:
            return
        self._look_at = now + _LOOK_SECONDS
        try:
            self.reload()
        except (SettingsError, OSError) as error:
            # Keys that were known go on working: a slip of an editor must not lock all out.
            get_logger("security").error("keys file not taken over", reason=str(error))

    def reload(self) -> None:
        """Take over the file if it has changed; raises ``SettingsError``, ``OSError``."""
        if self._path is None:
            return
        try:
            found = self._path.stat()
        except FileNotFoundError:
            if self._seen:
                self._seen, self._known = None, self._fixed
                get_logger("security").warning("keys file is gone: its keys no longer work")
            return
        state = (found.st_mtime_ns, found.st_size, found.st_ino, found.st_mode, found.st_ctime_ns)
        if state == self._seen:
            return
        self._seen = state
        entries = read_key_file(self._path)
        self._known = self._fixed | {entry.digest: entry for entry in entries}
        self._closed = True

    def __iter__(self) -> Iterator[ApiKeyRecord]:
        return iter(self._known.values())


_HEADER = "# API keys, as right:sha256:name:created. Made and changed by: rossmann keys"


def add_key(path: Path, entry: ApiKeyRecord) -> None:
    """Append; raises ``SettingsError`` where the name is taken."""
    with _alone(path):
        if any(known.name == entry.name for known in _entries(path)):
            raise SettingsError(f"{path} has a key named {entry.name}: take another name")
        lines = path.read_text("utf-8").splitlines() if path.exists() else [_HEADER]
        _write(path, [*lines, entry.line])


def revoke_key(path: Path, name: str) -> ApiKeyRecord:
    """Take the key of that name out; raises ``SettingsError`` where there is none."""
    with _alone(path):
        found = next((known for known in _entries(path) if known.name == name), None)
        if found is None:
            names = ", ".join(known.name for known in _entries(path) if known.name) or "none"
            raise SettingsError(f"{path} has no key named {name}; there are: {names}")
        kept = [line for line in path.read_text("utf-8").splitlines() if found.digest not in line]
        _write(path, kept)
        return found


def _entries(path: Path) -> list[ApiKeyRecord]:
    return read_key_file(path) if path.exists() else []


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
