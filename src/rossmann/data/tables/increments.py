"""Ingested days: immutable, numbered Parquet files that lie over the raw tables, later ones on top.

The raw tables are the user's and stay as they are. A piece is named after its number, its kind and
a digest of its rows (``0001-sales-3f2a….parquet``), so that a service knows the data version from
names alone; whoever reads a piece checks that the rows are those of the name.
"""

import fcntl
import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import polars as pl

from rossmann.errors import DataValidationError

IncrementKind = Literal["sales", "schedule"]

_NAME: Final = re.compile(r"([0-9]{4,})-(sales|schedule)-([0-9a-f]{16})\.parquet")
_KINDS: Final[dict[str, IncrementKind]] = {"sales": "sales", "schedule": "schedule"}
_KEY: Final = ("Store", "Date")


@dataclass(frozen=True, slots=True)
class Increment:
    """One ingested file's rows: its place in the order, its kind, the digest of its rows."""

    path: Path
    number: int
    kind: IncrementKind
    digest: str


def list_increments(folder: Path) -> tuple[Increment, ...]:
    """The pieces in ``folder`` in their order; none where there is no such folder."""
    found = []
    for path in folder.glob("*.parquet"):
        match = _NAME.fullmatch(path.name)
        if match:
            number, kind, digest = match.groups()
            found.append(Increment(path, int(number), _KINDS[kind], digest))
    return tuple(sorted(found, key=lambda piece: piece.number))


def read_increment(piece: Increment) -> pl.DataFrame:
    """The piece's rows as clean columns; raises ``BrokenRule`` where they are not as ingested."""
    try:
        frame = pl.read_parquet(piece.path)
    # Some kinds of damage make the reader panic, which is no PolarsError.
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError):
        frame = pl.DataFrame()
    if rows_digest(frame) != piece.digest:
        raise DataValidationError(
            f"{piece.path} is damaged: its rows are not those that were ingested. "
            "Put it back from a copy, or delete it and ingest its file again"
        )
    return frame


def read_source(piece: Increment) -> str:
    """Name of the file that the piece came from; empty where it cannot be told."""
    try:
        return pl.read_parquet_metadata(piece.path).get("source", "")
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError):
        return ""


def write_increment(
    folder: Path, kind: IncrementKind, frame: pl.DataFrame, source: str
) -> Increment:
    """Put ``frame`` on top of the pieces in one step; the caller holds ``locked(folder)``."""
    ordered = frame.sort(*_KEY)
    digest = rows_digest(ordered)
    number = max((piece.number for piece in list_increments(folder)), default=0) + 1
    path = folder / f"{number:04}-{kind}-{digest}.parquet"
    draft = folder / f".draft-{os.getpid()}"
    try:
        ordered.write_parquet(draft, metadata={"source": source})
        draft.chmod(0o444)
        draft.rename(path)
    finally:
        draft.unlink(missing_ok=True)
    return Increment(path, number, kind, digest)


def rows_digest(frame: pl.DataFrame) -> str:
    """16 hex digits over the rows, whatever wrote the Parquet file that holds them."""
    return hashlib.sha256(frame.write_csv().encode()).hexdigest()[:16]


def upsert(base: pl.DataFrame, said: pl.DataFrame) -> pl.DataFrame:
    """``base`` with the rows of ``said`` added, or in place of those of the same store and day."""
    both = pl.concat([base, said.select(base.columns)])
    return both.unique(_KEY, keep="last").sort(*_KEY)


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Hold ``folder`` against others who add pieces; waits for them."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
