"""API keys: generation, digests in a setting or a file, lookup, and changes to the file.

A record is ``right:sha256hex``, with ``:name`` and ``:created`` after it where they are known. The
file is read again when it changes; ``rossmann keys`` replaces it atomically, under a lock.
"""

import hashlib
import os
import re
import secrets
import stat
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import IntEnum
from pathlib import Path
from typing import Final

from rossmann.errors import SettingsError
from rossmann.filesystem.atomic_write import write_text_atomic
from rossmann.filesystem.locks import exclusive_lock
from rossmann.installation import shell_command
from rossmann.logging_config import get_logger

KEY_PREFIX: Final = "rsf_"
"""Prefix of every key, by which secret scanners find a leaked one."""
KEY_NAME_PATTERN: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}\Z")
_DIGEST: Final = re.compile(r"[0-9a-f]{64}\Z")
_RELOAD_SECONDS: Final = 1.0
"""Seconds between two checks of the file for changes."""
_FILE_HEADER: Final = "# API keys, as right:sha256:name:created. Made and changed by: rossmann keys"


class Permission(IntEnum):
    """What a caller may do; each permission includes the ones before it."""

    ANYONE = 0
    PREDICT = 1
    OPERATE = 2

    @property
    def label(self) -> str:
        """Its name in records, claims and messages."""
        return self.name.lower()


_PERMISSIONS: Final = {
    "predict": Permission.PREDICT,
    "operate": Permission.OPERATE,
    # older names
    "viewer": Permission.PREDICT,
    "operator": Permission.OPERATE,
}


@dataclass(frozen=True, slots=True)
class ApiKeyRecord:
    """A known key by its digest; the key itself is not stored."""

    permission: Permission
    digest: str
    name: str = ""
    created: str = ""

    @property
    def file_line(self) -> str:
        """The record as a line of the file."""
        return ":".join(filter(None, (self.permission.label, self.digest, self.name, self.created)))

    @property
    def display_name(self) -> str:
        """The key's name, or the start of its digest, for records."""
        return f"key {self.name or self.digest[:8]}"


def key_digest(key: str) -> str:
    """The stored digest of a key.

    SHA-256 without salt or key stretching: those protect passwords that people choose, while a
    key of 32 random bytes cannot be guessed.
    """
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


def generate_key(permission: Permission, name: str) -> tuple[str, ApiKeyRecord]:
    """A new key, and its record; raises ``SettingsError`` for an invalid name."""
    if not KEY_NAME_PATTERN.match(name):
        raise SettingsError(
            "a key's name holds letters, digits and . _ @ -, 64 at most, and begins with a letter "
            "or digit"
        )
    key = KEY_PREFIX + secrets.token_urlsafe(32)
    created = datetime.now(UTC).date().isoformat()
    return key, ApiKeyRecord(permission, key_digest(key), name, created)


def _parse_record(text: str, source: str) -> ApiKeyRecord:
    """A record; the ``SettingsError`` for any other text leaves it out, as it may be a key."""
    label, digest, name, created = [*text.strip().split(":", 3), "", "", ""][:4]
    permission, digest = _PERMISSIONS.get(label.strip().lower()), digest.strip().lower()
    is_valid_name = not name or KEY_NAME_PATTERN.match(name)
    if permission is None or not _DIGEST.match(digest) or not is_valid_name:
        raise SettingsError(
            f"{source} must be predict:<sha256> or operate:<sha256>, with the digest as 64 hex "
            f"digits and, if wanted, :name; make one with: {shell_command('keys new')}"
        )
    return ApiKeyRecord(permission, digest, name, created)


def parse_setting(text: str) -> list[ApiKeyRecord]:
    """Comma-separated records; raises ``SettingsError``."""
    parts = filter(None, map(str.strip, text.split(",")))
    return [_parse_record(p, f"ROSSMANN_API_KEYS: entry {n}") for n, p in enumerate(parts, 1)]


def read_key_file(path: Path) -> list[ApiKeyRecord]:
    """A file's records, one a line; ``#`` begins a comment. Raises ``SettingsError``, ``OSError``.

    A file that group or others may write is refused, as any of them could add a key.
    """
    with path.open(encoding="utf-8", errors="replace") as file:
        if os.fstat(file.fileno()).st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise SettingsError(f"{path} may be written by others: chmod 600 {path}")
        lines = file.read().splitlines()
    return [
        _parse_record(line, f"{path}: line {number}")
        for number, line in enumerate(lines, 1)
        if line.strip() and not line.lstrip().startswith("#")
    ]


class ApiKeyStore:
    """The known keys by digest. Without any key, and without a file, no key is required.

    Once required, a key stays required: a file that is emptied or removed does not open the
    service.
    """

    def __init__(self, fixed: Iterable[ApiKeyRecord] = (), path: Path | None = None) -> None:
        self._fixed = {record.digest: record for record in fixed}
        self._path = path
        self._file_state: tuple[int, ...] | None = None
        self._reload_at = 0.0
        self._records = self._fixed
        self._requires_key = bool(self._fixed)

    @classmethod
    def load(cls, setting: str, path: Path, required: bool = False) -> "ApiKeyStore":
        """The keys of a setting and of a file, which may be created later unless ``required``.

        Raises ``SettingsError`` for invalid records or an unreadable file.
        """
        store = cls(parse_setting(setting), path)
        if required and not path.is_file():
            raise SettingsError(f"ROSSMANN_API_KEYS_FILE: {path} is not there")
        try:
            store.reload()
        except OSError as error:
            raise SettingsError(f"{path} cannot be read: {error.strerror}") from error
        return store

    @property
    def requires_key(self) -> bool:
        """Whether a key is needed."""
        return self._requires_key

    def count(self, permission: Permission) -> int:
        """Number of keys with exactly that permission."""
        return sum(record.permission is permission for record in self._records.values())

    def find(self, digest: str) -> ApiKeyRecord | None:
        """The record of a digest; the time of a lookup by digest reveals nothing of the key."""
        return self._records.get(digest)

    def reload_if_due(self) -> None:
        """Check the file for changes, at most once a second."""
        now = time.monotonic()
        if now < self._reload_at:
            return
        self._reload_at = now + _RELOAD_SECONDS
        try:
            self.reload()
        except (SettingsError, OSError) as error:
            # The known keys stay valid: a typing error in the file must not lock everybody out.
            get_logger("security").error("keys file not taken over", reason=str(error))

    def reload(self) -> None:
        """Read the file if it has changed; raises ``SettingsError``, ``OSError``."""
        if self._path is None:
            return
        try:
            status = self._path.stat()
        except FileNotFoundError:
            if self._file_state:
                self._file_state, self._records = None, self._fixed
                get_logger("security").warning("keys file is gone: its keys no longer work")
            return
        state = (
            *(status.st_mtime_ns, status.st_size, status.st_ino),
            *(status.st_mode, status.st_ctime_ns),
        )
        if state == self._file_state:
            return
        self._file_state = state
        records = read_key_file(self._path)
        self._records = self._fixed | {record.digest: record for record in records}
        self._requires_key = True


def add_key(path: Path, record: ApiKeyRecord) -> None:
    """Append a record; raises ``SettingsError`` where the name is in use."""
    with _exclusive(path):
        if any(existing.name == record.name for existing in _read_if_present(path)):
            raise SettingsError(f"{path} has a key named {record.name}: take another name")
        lines = path.read_text("utf-8").splitlines() if path.exists() else [_FILE_HEADER]
        _write_lines(path, [*lines, record.file_line])


def revoke_key(path: Path, name: str) -> ApiKeyRecord:
    """Remove the key of that name; raises ``SettingsError`` where there is none."""
    with _exclusive(path):
        records = _read_if_present(path)
        revoked = next((record for record in records if record.name == name), None)
        if revoked is None:
            names = ", ".join(record.name for record in records if record.name) or "none"
            raise SettingsError(f"{path} has no key named {name}; there are: {names}")
        lines = path.read_text("utf-8").splitlines()
        _write_lines(path, [line for line in lines if revoked.digest not in line])
        return revoked


def _read_if_present(path: Path) -> list[ApiKeyRecord]:
    return read_key_file(path) if path.exists() else []


def _write_lines(path: Path, lines: list[str]) -> None:
    write_text_atomic(path, "\n".join(lines) + "\n", mode=0o600)


@contextmanager
def _exclusive(path: Path) -> Iterator[None]:
    """Hold the lock of the file's folder: the file itself is replaced."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with exclusive_lock(path.parent):
        yield
