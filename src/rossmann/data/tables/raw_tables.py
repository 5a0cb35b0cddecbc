"""The raw tables: locating, reading as text, content digests, and the download from Kaggle.

Kaggle requires an account and the acceptance of the competition's rules.
"""

import gzip
import hashlib
import importlib
import json
import shutil
import zipfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import polars as pl

from rossmann.data.tables.increments import Increment, list_increments
from rossmann.data.uploads.table_reader import WholeTable, read_fields
from rossmann.data.uploads.value_formats import AmbiguousDatesError, AmbiguousNumbersError
from rossmann.data.uploads.workbook import SeveralSheetsError
from rossmann.errors import DataNotFoundError, DataValidationError, first_line
from rossmann.filesystem.atomic_write import atomic_path, write_json_atomic
from rossmann.installation import install_command, shell_command
from rossmann.schema import DEFAULT_COUNTRY, Dataset
from rossmann.settings import Settings

_TABLE_NAMES: Final = ("train", "store", "test")
_SUFFIXES: Final = (".csv", ".csv.gz", ".csv.zip", ".parquet", ".xlsx")
"""Of a table's file, whatever their case; the first one that is there is read."""


class IncompleteTablesError(DataNotFoundError):
    """Raw tables are there, but one is missing or they are still packed."""


@dataclass(frozen=True, slots=True)
class RawTables:
    """Paths of one chain's raw tables, each a file of one table.

    ``increments``: ingested days that amend the tables, in their order. ``country``: of the chain.
    """

    dataset: Dataset
    train: Path
    store: Path
    test: Path | None
    increments: tuple[Increment, ...] = ()
    country: str = DEFAULT_COUNTRY

    def by_name(self) -> dict[str, Path]:
        """The existing tables by their plain name (``train.csv``), in a fixed order."""
        named = (("train.csv", self.train), ("store.csv", self.store), ("test.csv", self.test))
        return {name: path for name, path in named if path is not None}


def find_raw_tables(settings: Settings) -> RawTables:
    """The real tables where ``raw_dir`` has them (unless ``demo`` is set), else the demo chain's.

    Raises ``DataNotFoundError`` where there is neither, and ``IncompleteTablesError`` where one of
    the two required tables is missing or they lie in an archive: the demo chain does not stand in.
    """
    real = None if settings.demo else _raw_tables_in(settings.raw_dir, Dataset.REAL)
    tables = real or _raw_tables_in(settings.demo_raw_dir, Dataset.DEMO)
    if tables:
        increments = list_increments(settings.ingested_dir / tables.dataset)
        return replace(tables, increments=increments, country=settings.country)
    advice = "" if settings.demo else f"put train.csv and store.csv into {settings.raw_dir}, or "
    demo = shell_command("data demo")
    raise DataNotFoundError(f"there are no sales tables yet: {advice}run: {demo}")


def _raw_tables_in(folder: Path, dataset: Dataset) -> RawTables | None:
    train, store, test = (_find_table(folder, name) for name in _TABLE_NAMES)
    if train is None and store is None:
        for archive in sorted(folder.glob("*.zip")):
            if _holds_tables(archive):
                raise IncompleteTablesError(
                    f"{archive} holds the sales tables: unpack it in its folder"
                )
        return None
    if train is None or store is None:
        present, missing = ("store", "train") if train is None else ("train", "store")
        raise IncompleteTablesError(
            f"{folder} has {present}.csv but no {missing}.csv (or {missing}.csv.gz): put it there"
        )
    return RawTables(dataset, train, store, test)


def _find_table(folder: Path, name: str) -> Path | None:
    paths = sorted(folder.iterdir()) if folder.is_dir() else []
    files = {path.name.casefold(): path for path in paths if path.is_file()}
    found = (files.get(name + suffix) for suffix in _SUFFIXES)
    return next((path for path in found if path), None)


def _holds_tables(archive: Path) -> bool:
    """Whether a zip archive has a table of that name in it, in whatever folder."""
    try:
        with zipfile.ZipFile(archive) as content:
            names = {Path(name).name.casefold() for name in content.namelist()}
    except (zipfile.BadZipFile, OSError):
        return False
    return "train.csv" in names


def read_text(path: Path) -> tuple[pl.DataFrame, WholeTable, list[str]]:
    """As ``read_fields``, of a raw table: its values decide how they are read, no option does.

    Raises ``DataValidationError`` where the file is no table, or can be read in several ways.
    """
    try:
        return read_fields(path.name, path)
    except AmbiguousDatesError as error:
        raise DataValidationError(f"{path.name}: {error}, by writing each as YYYY-MM-DD") from error
    except AmbiguousNumbersError as error:
        advice = "by writing each with a decimal point, and none between thousands"
        raise DataValidationError(f"{path.name}: {error}, {advice}") from error
    except SeveralSheetsError as error:
        raise DataValidationError(f"{error}, by hiding or removing the others") from error


def content_digest(path: Path) -> str:
    """SHA-256 of the table's content, unpacked: the same for ``train.csv`` and ``train.csv.gz``."""
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256")
    return digest.hexdigest()


def table_digests(tables: RawTables, cache: Path) -> dict[str, str]:
    """Content digest of each table and increment by name; unchanged files are not read again.

    A file counts as unchanged where path, size and modification time are those in ``cache``, so
    that a service starts without reading forty megabytes.
    """
    cached = _read_cache(cache)
    known = dict(cached)
    digests: dict[str, str] = {}
    for name, path in tables.by_name().items():
        stat = path.stat()
        key = f"{path}|{stat.st_size}|{stat.st_mtime_ns}"
        known[key] = digests[name] = known.get(key) or content_digest(path)
    if known != cached:
        # a read-only folder only costs the time to read the tables again
        with suppress(OSError):
            cache.parent.mkdir(parents=True, exist_ok=True)
            write_json_atomic(cache, known)
    increments = {f"ingested/{item.path.name}": item.digest for item in tables.increments}
    return digests | increments


def _read_cache(path: Path) -> dict[str, str]:
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


COMPETITION: Final = "rossmann-store-sales"
_FILES: Final = ("train.csv", "store.csv", "test.csv")

Download = Callable[[str], str]
"""Downloads a competition's files by its name and returns their folder."""


def download_tables(
    settings: Settings, report: Callable[[str], None], download: Download | None = None
) -> list[Path]:
    """Download the real tables to ``raw_dir`` and return their paths.

    ``download``: kagglehub's by default. Raises ``DataNotFoundError``, saying where to put the
    files by hand, where the package or Kaggle's credentials are missing or Kaggle refuses.
    """
    fetch = download or _kagglehub(settings)
    report(f"fetching {COMPETITION} from Kaggle")
    try:
        source = Path(fetch(COMPETITION))
    except (OSError, RuntimeError, ValueError) as error:
        reason = first_line(error)
        raise DataNotFoundError(f"Kaggle refuses: {reason}. {_by_hand(settings)}") from error
    missing = [name for name in _FILES if not (source / name).is_file()]
    if missing:
        raise DataNotFoundError(f"Kaggle's copy has no {', '.join(missing)}. {_by_hand(settings)}")
    return [_copy(source / name, settings.raw_dir, report) for name in _FILES]


def _kagglehub(settings: Settings) -> Download:
    try:
        download: Download = importlib.import_module("kagglehub").competition_download
    except ImportError as error:
        raise DataNotFoundError(
            f"kagglehub is not installed ({install_command('kagglehub')}). {_by_hand(settings)}"
        ) from error
    return download


def _by_hand(settings: Settings) -> str:
    return (
        f"To do it by hand: accept the rules of {COMPETITION} on Kaggle, download its files, and"
        f" put train.csv, store.csv and test.csv into {settings.raw_dir}"
    )


def _copy(source: Path, folder: Path, report: Callable[[str], None]) -> Path:
    """Copy atomically: an existing table is complete."""
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / source.name
    with atomic_path(target) as draft:
        shutil.copyfile(source, draft)
    report(str(target))
    return target
