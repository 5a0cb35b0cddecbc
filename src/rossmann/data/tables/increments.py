"""Increments: immutable, numbered Parquet files of ingested days that amend the raw tables.

The raw tables are the user's and stay as they are; a later increment overrides an earlier one. An
increment is named after its number, its kind and a digest of its rows
(``0001-sales-3f2a….parquet``), so that the data version follows from names alone; reading checks
the digest.
"""

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import polars as pl

from rossmann.errors import DataValidationError
from rossmann.filesystem.atomic_write import atomic_path
from rossmann.filesystem.locks import exclusive_lock

IncrementKind = Literal["sales", "schedule"]
INCREMENT_KINDS: Final[tuple[IncrementKind, ...]] = ("sales", "schedule")

_NAME: Final = re.compile(r"([0-9]{4,})-(sales|schedule)-([0-9a-f]{16})\.parquet")
_KINDS: Final[dict[str, IncrementKind]] = {"sales": "sales", "schedule": "schedule"}
_KEY: Final = ("Store", "Date")


@dataclass(frozen=True, slots=True)
class Increment:
    """One increment: its path, its number in the order, its kind, the digest of its rows."""

    path: Path
    number: int
    kind: IncrementKind
    digest: str


def list_increments(folder: Path) -> tuple[Increment, ...]:
    """The increments in ``folder`` in their order; none where there is no such folder."""
    increments = []
    for path in folder.glob("*.parquet"):
        match = _NAME.fullmatch(path.name)
        if match:
            number, kind, digest = match.groups()
            increments.append(Increment(path, int(number), _KINDS[kind], digest))
    return tuple(sorted(increments, key=lambda increment: increment.number))


def read_increment(increment: Increment) -> pl.DataFrame:
    """The rows in clean columns; raises ``DataValidationError`` where the digest does not match."""
    try:
        frame = pl.read_parquet(increment.path)
    # Some kinds of damage make the reader panic, which is no PolarsError.
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError):
        frame = pl.DataFrame()
    if rows_digest(frame) != increment.digest:
        raise DataValidationError(
            f"{increment.path} is damaged: its rows are not those that were ingested. "
            "Put it back from a copy, or delete it and ingest its file again"
        )
    return frame


def read_source_name(increment: Increment) -> str:
    """Name of the file that was ingested; empty where it is not known."""
    try:
        return pl.read_parquet_metadata(increment.path).get("source", "")
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError):
        return ""


def write_increment(
    folder: Path, kind: IncrementKind, frame: pl.DataFrame, source: str
) -> Increment:
    """Add ``frame`` as the last increment, atomically; the caller holds ``lock_increments``."""
    ordered = frame.sort(*_KEY)
    digest = rows_digest(ordered)
    number = max((increment.number for increment in list_increments(folder)), default=0) + 1
    path = folder / f"{number:04}-{kind}-{digest}.parquet"
    with atomic_path(path) as draft:
        ordered.write_parquet(draft, metadata={"source": source})
        draft.chmod(0o444)
    return Increment(path, number, kind, digest)


def rows_digest(frame: pl.DataFrame) -> str:
    """16 hex digits of the rows' SHA-256; does not depend on how Parquet stores them."""
    return hashlib.sha256(frame.write_csv().encode()).hexdigest()[:16]


def upsert(base: pl.DataFrame, updates: pl.DataFrame) -> pl.DataFrame:
    """``base`` with the rows of ``updates``, which replace those of the same store and day."""
    both = pl.concat([base, updates.select(base.columns)])
    return both.unique(_KEY, keep="last").sort(*_KEY)


@contextmanager
def lock_increments(folder: Path) -> Iterator[None]:
    """Hold the lock for adding increments to ``folder``; waits for other processes."""
    folder.mkdir(parents=True, exist_ok=True)
    with exclusive_lock(folder / ".lock"):
        yield
