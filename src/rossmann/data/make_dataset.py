"""Convert the raw tables to validated, clean Parquet files; one folder for each data version."""

import hashlib
import json
import shutil
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any, Final

import polars as pl

from rossmann.data.tables.cleaning import CleanTables, read_clean_tables
from rossmann.data.tables.raw_tables import RawTables, find_raw_tables, table_digests
from rossmann.errors import DataNotFoundError
from rossmann.filesystem.atomic_write import staging_folder
from rossmann.installation import shell_command
from rossmann.schema import DEFAULT_COUNTRY, Dataset, ProgressReporter
from rossmann.settings import Settings

DATASET_FORMAT: Final = 1
"""Increase it when the content of the Parquet files changes: older folders are then not used."""

_FILES: Final = ("history.parquet", "schedule.parquet", "stores.parquet")
_INFO: Final = "dataset.json"
_DIGEST_CACHE: Final = "digests.json"


@dataclass(frozen=True)
class DatasetInfo:
    """One data version: its folder and its extent.

    ``version``: 12 hex digits, from the content of raw tables and increments. ``rows``: of the
    history. ``stores``: in the store table. ``schedule_end``: last scheduled day, None without a
    schedule after the history's last day. ``files``: digest of each raw table and increment.
    ``country``: whose holidays and working days hold.
    """

    dataset: Dataset
    version: str
    folder: Path
    rows: int
    stores: int
    first_day: date
    last_day: date
    schedule_end: date | None
    files: dict[str, str]
    country: str = DEFAULT_COUNTRY


def make_dataset(settings: Settings, report: ProgressReporter = lambda line: None) -> DatasetInfo:
    """Validate and clean the raw tables into their version's folder, unless it exists.

    ``report`` gets a line for each step. Raises ``DataNotFoundError`` without raw tables, and
    ``DataValidationError`` with every rule that they break.
    """
    raw = find_raw_tables(settings)
    digests = table_digests(raw, settings.processed_dir / _DIGEST_CACHE)
    folder = settings.processed_dir / _version(digests, raw.country)
    info = read_info(folder)
    if info:
        report(f"data version {info.version} ({info.dataset}) is there already")
        return info
    report(f"reading the {raw.dataset} tables in {raw.train.parent}")
    tables = read_clean_tables(raw, report)
    info = _write(tables, raw, digests, folder)
    report(
        f"data version {info.version}: {info.rows:,} rows of {info.stores:,} stores, "
        f"{info.first_day} to {info.last_day}"
    )
    return info


def current_dataset(settings: Settings) -> DatasetInfo:
    """The dataset of the raw tables in use; without raw tables, the newest one.

    Raises ``DataNotFoundError`` where ``make_dataset`` has not run for the tables yet.
    """
    try:
        raw = find_raw_tables(settings)
    except DataNotFoundError:
        newest = _newest_dataset(settings)
        if newest is None:
            raise
        return newest
    digests = table_digests(raw, settings.processed_dir / _DIGEST_CACHE)
    info = read_info(settings.processed_dir / _version(digests, raw.country))
    if info is None:
        raise DataNotFoundError(
            f"the {raw.dataset} tables in {raw.train.parent} are not prepared: "
            f"run: {shell_command('features')}"
        )
    return info


def read_info(folder: Path) -> DatasetInfo | None:
    """The data version in ``folder``; None where it is incomplete."""
    if not all((folder / name).is_file() for name in (*_FILES, _INFO)):
        return None
    try:
        stored: dict[str, Any] = json.loads((folder / _INFO).read_text("utf-8"))
        end = stored["schedule_end"]
        return DatasetInfo(
            dataset=Dataset(stored["dataset"]),
            version=stored["version"],
            folder=folder,
            rows=stored["rows"],
            stores=stored["stores"],
            first_day=date.fromisoformat(stored["first_day"]),
            last_day=date.fromisoformat(stored["last_day"]),
            schedule_end=date.fromisoformat(end) if end else None,
            files=stored["files"],
            country=stored.get("country", DEFAULT_COUNTRY),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _version(digests: dict[str, str], country: str) -> str:
    content: dict[str, object] = {"format": DATASET_FORMAT, **digests}
    if country != DEFAULT_COUNTRY:  # versions of earlier releases keep their name
        content["country"] = country
    text = json.dumps(content, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _newest_dataset(settings: Settings) -> DatasetInfo | None:
    infos = [read_info(path.parent) for path in settings.processed_dir.glob(f"*/{_INFO}")]
    usable = [i for i in infos if i and (not settings.demo or i.dataset is Dataset.DEMO)]
    return max(usable, key=lambda i: (i.folder / _INFO).stat().st_mtime_ns, default=None)


def _write(
    tables: CleanTables, raw: RawTables, digests: dict[str, str], folder: Path
) -> DatasetInfo:
    first, last = tables.history.select(first=pl.min("Date"), last=pl.max("Date")).row(0)
    info = DatasetInfo(
        dataset=raw.dataset,
        version=folder.name,
        folder=folder,
        rows=tables.history.height,
        stores=tables.stores.height,
        first_day=first,
        last_day=last,
        schedule_end=tables.schedule.filter(pl.col("Date") > last).select(pl.max("Date")).item(),
        files=digests,
        country=raw.country,
    )
    with staging_folder(folder.parent) as draft:
        frames = (tables.history, tables.schedule, tables.stores)
        for name, frame in zip(_FILES, frames, strict=True):
            frame.write_parquet(draft / name)
        (draft / _INFO).write_text(_as_json(info), "utf-8")
        _publish(draft, folder)
    return info


def _as_json(info: DatasetInfo) -> str:
    stored = {k: v for k, v in asdict(info).items() if k != "folder"}
    return json.dumps(stored, indent=1, default=str)


def _publish(draft: Path, folder: Path) -> None:
    """Rename ``draft`` to ``folder``: readers find a whole version or none."""
    if folder.exists() and read_info(folder) is None:
        shutil.rmtree(folder)
    try:
        draft.rename(folder)
    except OSError:
        # Another process may have made the same version: same raw tables, same content.
        if read_info(folder) is None:
            raise
