"""The manifest of a backup: what it was made from, its state, and digest and size of every file.

A folder without a manifest is no backup. The file is written last, so that it is in none that was
cut short. The state is read from the backup's copies: versions, stages, logged rows, data version.
"""

import json
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Final

from rossmann.addresses import sqlite_url
from rossmann.backup.file_copy import CopyProgress, FileRecord, hash_file, megabytes
from rossmann.data.make_dataset import current_dataset
from rossmann.errors import BackupError, DataError, DataNotFoundError
from rossmann.filesystem.atomic_write import PREFIX, write_json_atomic
from rossmann.models.registry.model_version import STAGE_TAG, stage_of
from rossmann.prediction_log.queries.export import LogReader
from rossmann.schema import MODEL_NAME
from rossmann.settings import Settings

MANIFEST: Final = "manifest.json"
SETTINGS: Final = "settings.json"
"""Settings without secrets, to compare with."""
FORMAT: Final = 1
_SHOWN: Final = 5


@dataclass(frozen=True)
class Manifest:
    """A backup: when and by which code it was made, its state, what it lacks, and its files.

    ``data``: dataset, version and last day of the tables. ``versions``: number and stage of each
    version, newest first. ``log``: rows and requests of the log's database. Each is None where it
    is not known. ``waiting``: rows in the spool. ``files``: by path, with ``/`` between.
    """

    made: str
    code: dict[str, str]
    data: dict[str, str] | None
    versions: list[dict[str, Any]] | None
    log: dict[str, int] | None
    waiting: int
    not_included: list[str] = field(default_factory=list)
    files: dict[str, FileRecord] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(record.size for record in self.files.values())

    def summary(self) -> list[tuple[str, str]]:
        """Names and values for people."""
        code = " ".join(f"{name} {value[:12]}" for name, value in sorted(self.code.items()))
        lines = [("made", f"{self.made} by {code}")]
        if self.data is not None:
            data = self.data
            text = f"{data['version']} ({data['dataset']}), last day {data['last_day']}"
            lines.append(("data", text))
        if self.versions is not None:
            shown = ", ".join(f"{v['version']} {v['stage']}" for v in self.versions)
            lines.append(("versions", shown or "none is registered"))
        if self.log is not None:
            log = f"{self.log['rows']:,} rows of {self.log['requests']:,} requests"
            lines.append(("log", f"{log}, {self.waiting:,} rows wait in the spool"))
        lines.append(("files", f"{len(self.files):,}, {megabytes(self.size)}"))
        return lines


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write ``manifest.json`` into the folder. Raises ``OSError``."""
    write_json_atomic(folder / MANIFEST, {"format": FORMAT, **asdict(manifest)}, mode=0o600)


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a backup.

    Raises ``BackupError`` where the folder is none or a newer release made it, and ``OSError``.
    """
    path = folder / MANIFEST
    if folder.name.startswith(PREFIX):
        raise BackupError(f"{folder} is what a backup that was cut short has left: it is not whole")
    try:
        text = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise BackupError(
            f"{folder} is not a backup: it has no {MANIFEST}. Name the folder that"
            " `rossmann backup` wrote, with all that is in it"
        ) from error
    try:
        content: dict[str, Any] = json.loads(text)
        known = content.pop("format")
        if known == FORMAT:
            files = {name: FileRecord(**record) for name, record in content.pop("files").items()}
            return Manifest(**content, files=files)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BackupError(f"{path} is damaged: take another copy of the backup") from error
    raise BackupError(
        f"{path} has format {known}, and this release reads {FORMAT}: install the release that made"
        " the backup"
    )


def verify_files(folder: Path, files: Mapping[str, FileRecord], progress: CopyProgress) -> None:
    """Compare every file with its digest; raises ``BackupError``, which names those that differ.

    Links are refused: a backup has none, and one may lead anywhere.
    """
    faults = []
    root = folder.resolve()
    for name, record in files.items():
        parts = PurePosixPath(name).parts
        path = root.joinpath(*parts)
        if not parts or ".." in parts or name.startswith("/") or path.resolve() != path:
            faults.append(f"{name}: leads out of the backup, or is a link")
        elif not path.is_file():
            faults.append(f"{name}: is missing")
        elif hash_file(path, progress) != record:
            faults.append(f"{name}: has other content than when it was saved")
    if faults:
        shown = "; ".join(faults[:_SHOWN])
        more = f"; and {len(faults) - _SHOWN:,} more" if len(faults) > _SHOWN else ""
        raise BackupError(
            f"{folder} is damaged, and nothing was restored: {shown}{more}. Take another copy of"
            " this backup, or an older one"
        )


def data_version(settings: Settings) -> dict[str, str] | None:
    """Dataset, version and last day of the tables in use; None where none are prepared."""
    try:
        info = current_dataset(settings)
    except DataError:
        return None
    return {
        "dataset": info.dataset.value,
        "version": info.version,
        "last_day": info.last_day.isoformat(),
    }


def registered_versions(database: Path) -> list[dict[str, Any]] | None:
    """Number and stage of each version in a copy of MLflow's database, newest first.

    None where there is no such database, or its tables are not those that are known.
    """
    if not database.is_file():
        return None
    try:
        with closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)) as connection:
            numbers = connection.execute(
                "SELECT version FROM model_versions WHERE name = ?"
                " AND coalesce(current_stage, '') <> 'Deleted_Internal' ORDER BY version DESC",
                (MODEL_NAME,),
            ).fetchall()
            aliases = connection.execute(
                "SELECT alias, version FROM registered_model_aliases WHERE name = ?", (MODEL_NAME,)
            ).fetchall()
            tags = connection.execute(
                "SELECT version, value FROM model_version_tags WHERE name = ? AND key = ?",
                (MODEL_NAME, STAGE_TAG),
            ).fetchall()
    except sqlite3.OperationalError:
        return None
    places = {str(alias): int(version) for alias, version in aliases}
    stages = {int(version): str(value) for version, value in tags}
    return [
        {"version": int(number), "stage": stage_of(int(number), stages.get(number), places).value}
        for (number,) in numbers
    ]


def logged_rows(database: Path) -> dict[str, int] | None:
    """Rows and requests in a copy of the log's database; None where there is none.

    Raises ``ServiceError`` where it cannot be read.
    """
    reader = LogReader(sqlite_url(database))
    try:
        totals = reader.totals()
    except DataNotFoundError:
        return None
    finally:
        reader.close()
    return {"rows": totals.rows, "requests": totals.requests}
