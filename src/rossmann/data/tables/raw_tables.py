"""Finds the raw tables, reads them as text, and knows their content by digest.

MERGED: Fetches the real tables from Kaggle, for who has an account and has accepted its rules.
"""

import gzip
import hashlib
import importlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Final

import polars as pl

from rossmann.data.tables.increments import Increment, list_increments
from rossmann.errors import DataNotFoundError, DataValidationError
from rossmann.schema import Dataset
from rossmann.settings import Settings

TABLES: Final = ("train", "store", "test")
_CHUNK: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class RawTables:
    """Paths of one chain's raw tables, each a CSV file, plain or gzipped; and what lies over them.

    ``pieces``: ingested days, later ones on top.
    """

    dataset: Dataset
    train: Path
    store: Path
    test: Path | None
    pieces: tuple[Increment, ...] = ()

    def by_name(self) -> dict[str, Path]:
        """The tables that are there, by their plain name (``train.csv``), in a fixed order."""
        named = (("train.csv", self.train), ("store.csv", self.store), ("test.csv", self.test))
        return {name: path for name, path in named if path is not None}


def find_raw_tables(settings: Settings) -> RawTables:
    """The real tables where ``raw_dir`` has them (unless ``demo`` is set), else the demo chain's.

    Raises ``MissingData``: neither is there, or one of the two tables that a chain needs is not.
    """
    real = None if settings.demo else _tables_in(settings.raw_dir, Dataset.REAL)
    found = real or _tables_in(settings.demo_raw_dir, Dataset.DEMO)
    if found:
        return replace(found, pieces=list_increments(settings.ingested_dir / found.dataset))
    wanted = "" if settings.demo else f"put train.csv and store.csv into {settings.raw_dir}, or "
    raise DataNotFoundError(f"there are no sales tables yet: {wanted}run: rossmann data demo")


def _tables_in(folder: Path, dataset: Dataset) -> RawTables | None:
    train, store, test = (_one_table(folder, name) for name in TABLES)
    if train is None and store is None:
        return None
    if train is None or store is None:
        there, absent = ("store.csv", "train.csv") if train is None else ("train.csv", "store.csv")
        raise DataNotFoundError(
            f"{folder} has {there} but no {absent} (or {absent}.gz): put it there"
        )
    return RawTables(dataset, train, store, test)


def _one_table(folder: Path, name: str) -> Path | None:
    for path in (folder / f"{name}.csv", folder / f"{name}.csv.gz"):
        if path.is_file():
            return path
    return None


def read_text(path: Path) -> pl.DataFrame:
    """The CSV table with every value as text without outer blanks; empty values are null.

    Raises ``BrokenRule`` where the file is no CSV table in UTF-8.
    """
    try:
        frame = pl.read_csv(path, infer_schema=False)
    except (pl.exceptions.PolarsError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise DataValidationError(f"{path.name} is no CSV table in UTF-8: {reason}") from error
    names = {name: name.strip().strip("\ufeff") for name in frame.columns}
    text = pl.all().str.strip_chars()
    return frame.rename(names).with_columns(
        pl.when(text.str.len_bytes() > 0).then(text).name.keep()
    )


def content_digest(path: Path) -> str:
    """SHA-256 of the table's content, unpacked: the same for ``train.csv`` and ``train.csv.gz``."""
    digest = hashlib.sha256()
    with _open_plain(path) as stream:
        for chunk in _chunks(stream):
            digest.update(chunk)
    return digest.hexdigest()


def _open_plain(path: Path) -> IO[bytes]:
    if path.suffix == ".gz":
        # GzipFile is an IO[bytes] in all but its declared type.
        return gzip.open(path, "rb")  # type: ignore[return-value]
    return path.open("rb")


def _chunks(stream: IO[bytes]) -> Iterator[bytes]:
    while chunk := stream.read(_CHUNK):
        yield chunk


def table_digests(tables: RawTables, record: Path) -> dict[str, str]:
    """Content digest of each table and piece by name; unchanged files are as in ``record``.

    A file is taken as unchanged where path, size and time of change are as recorded, so that a
    service starts without reading forty megabytes.
    """
    known = _read_record(record)
    digests: dict[str, str] = {}
    for name, path in tables.by_name().items():
        stat = path.stat()
        mark = f"{path}|{stat.st_size}|{stat.st_mtime_ns}"
        digests[name] = known.get(mark) or content_digest(path)
        known[mark] = digests[name]
    if known != _read_record(record):
        _write_record(record, known)
    return digests | {f"ingested/{piece.path.name}": piece.digest for piece in tables.pieces}


def _read_record(record: Path) -> dict[str, str]:
    try:
        content = json.loads(record.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _write_record(record: Path, known: dict[str, str]) -> None:
    draft = record.with_name(f"{record.name}.{os.getpid()}")
    try:
        record.parent.mkdir(parents=True, exist_ok=True)
        draft.write_text(json.dumps(known, indent=1), "utf-8")
        draft.replace(record)
    except OSError:
        return  # a read-only folder only costs the time to read the tables again


COMPETITION: Final = "rossmann-store-sales"
_TABLES: Final = ("train.csv", "store.csv", "test.csv")

Download = Callable[[str], str]
"""Fetches a competition's files by its name and returns their folder."""


def get_tables(
    settings: Settings, report: Callable[[str], None], download: Download | None = None
) -> list[Path]:
    """Put the real tables into ``raw_dir`` and return their paths.

    ``download``: kagglehub's by default. Raises ``MissingData``, saying where to put the files by
    hand, where the package or Kaggle's credentials are missing or Kaggle refuses.
    """
    fetch = download or _kagglehub(settings)
    report(f"fetching {COMPETITION} from Kaggle")
    try:
        source = Path(fetch(COMPETITION))
    except (OSError, RuntimeError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataNotFoundError(f"Kaggle refuses: {reason}. {_by_hand(settings)}") from error
    absent = [name for name in _TABLES if not (source / name).is_file()]
    if absent:
        raise DataNotFoundError(f"Kaggle's copy has no {', '.join(absent)}. {_by_hand(settings)}")
    return [_put(source / name, settings.raw_dir, report) for name in _TABLES]


def _kagglehub(settings: Settings) -> Download:
    try:
        download: Download = importlib.import_module("kagglehub").competition_download
    except ImportError as error:
        raise DataNotFoundError(
            f"kagglehub is not installed (pip install kagglehub). {_by_hand(settings)}"
        ) from error
    return download


def _by_hand(settings: Settings) -> str:
    return (
        f"To do it by hand: accept the rules of {COMPETITION} on Kaggle, download its files, and"
        f" put train.csv, store.csv and test.csv into {settings.raw_dir}"
    )


def _put(source: Path, folder: Path, report: Callable[[str], None]) -> Path:
    """Copy beside the place and rename: a table that is there is whole."""
    folder.mkdir(parents=True, exist_ok=True)
    place = folder / source.name
    draft = folder / f".{source.name}.draft"
    shutil.copyfile(source, draft)
    draft.replace(place)
    report(str(place))
    return place
