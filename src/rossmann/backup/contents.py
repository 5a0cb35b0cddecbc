"""What a backup holds, in the order in which it is copied, and what it cannot hold.

The spool comes before the log's database: a row that is in both is written once. The registry's
database comes before its artifacts, because it names only files that are complete.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final
from urllib.parse import urlsplit

from rossmann.addresses import is_this_machine, redact_password
from rossmann.errors import BackupError
from rossmann.filesystem.atomic_write import PREFIX
from rossmann.filesystem.locks import lock_file
from rossmann.installation import params_file
from rossmann.settings import Settings

SPOOL: Final = "prediction_log/spool"
LOG_DATABASE: Final = "prediction_log/log.db"
REGISTRY_DATABASE: Final = "mlflow/mlflow.db"
KEYS: Final = "keys.txt"
PARAMETERS: Final = "params.yaml"
_FOLDERS: Final = ("raw", "demo", "ingested", "tuning", "retrain", "backtests")
_SKIPPED_ENDINGS: Final = (".draft", "-wal", "-shm", "-journal")
"""Drafts of other processes, and what SQLite keeps beside a database."""
_SQLITE: Final = "sqlite:///"


@dataclass(frozen=True, slots=True)
class Part:
    """A file or a folder: its path in the backup and in the data folder, and where it is now."""

    name: str
    source: Path


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file to copy, and its path in the backup."""

    source: Path
    name: PurePosixPath


def list_parts(settings: Settings) -> list[Part]:
    """All parts, in the order of copying; some may not exist."""
    data = settings.data_dir
    log = _log_file(settings)
    return [
        Part(SPOOL, settings.log_spool_dir),
        *([] if log is None else [Part(LOG_DATABASE, log)]),
        *_registry_database(settings),
        Part("mlflow/artifacts", settings.mlflow_dir / "artifacts"),
        *(Part(name, data / name) for name in _FOLDERS),
        Part(KEYS, settings.keys_file),
        Part(PARAMETERS, params_file()),
    ]


def list_files(part: Part) -> list[SourceFile]:
    """The files of a part that exist now, links followed. Raises ``BackupError``, ``OSError``."""
    root = part.source
    if root.is_symlink() and not root.exists():
        raise BackupError(f"{root} is a link to a place that does not exist: repair or remove it")
    if root.is_file():
        return [SourceFile(root, PurePosixPath(part.name))]
    paths = set(_walk(root))
    if part.name == SPOOL:
        # A folder without its lock file would not be taken over by a service.
        paths |= {lock_file(path.parent) for path in paths if path.parent != root}
        paths = {path for path in paths if path.is_file()}
    base = PurePosixPath(part.name)
    return [SourceFile(path, base / path.relative_to(root).as_posix()) for path in sorted(paths)]


def exclusions(settings: Settings) -> list[str]:
    """What these settings keep elsewhere, and how to save it; empty where all is in the backup."""
    found = []
    if _log_file(settings) is None:
        found.append(
            f"the prediction log in {redact_password(settings.database_url)}: save it with pg_dump,"
            " after this command"
        )
    if settings.mlflow_database_url:
        found.append(
            f"the registry's tables in {redact_password(settings.mlflow_database_url)}: save them"
            " with pg_dump, before this command"
        )
    if not uses_embedded_registry(settings):
        found.append(
            f"the registry at {redact_password(settings.mlflow_tracking_uri)}: save its database"
            " first (pg_dump, or a copy by SQLite), then its artifact store"
        )
    if settings.artifact_stores:
        stores = redact_password(settings.artifact_stores)
        found.append(f"files of versions in {stores}: save them with the tool of that store")
    if settings.api_keys:
        found.append("the keys in ROSSMANN_API_KEYS: keep them with your secrets")
    return found


def uses_embedded_registry(settings: Settings) -> bool:
    """Whether the registry is that of the data folder, also where its address is given."""
    if not settings.mlflow_tracking_uri:
        return True
    address = urlsplit(settings.mlflow_tracking_uri)
    return is_this_machine(address.hostname or "") and address.port == settings.mlflow_port


def _registry_database(settings: Settings) -> list[Part]:
    """The registry's SQLite file; empty where its tables are in PostgreSQL."""
    if settings.mlflow_database_url:
        return []
    return [Part(REGISTRY_DATABASE, settings.mlflow_dir / "mlflow.db")]


def _log_file(settings: Settings) -> Path | None:
    """The log's SQLite file; None where the log is in PostgreSQL."""
    if not settings.database_url:
        return settings.log_dir / "log.db"
    if not settings.database_url.startswith(_SQLITE):
        return None
    from sqlalchemy import make_url

    return Path(str(make_url(settings.database_url).database)).absolute()


def _walk(root: Path) -> Iterator[Path]:
    """Regular files below ``root``, through links to folders too, each folder once."""
    visited = set()
    for folder, folders, names in os.walk(root, onerror=_raise_unless_gone, followlinks=True):
        visited.add(os.path.realpath(folder))
        folders[:] = sorted(
            name
            for name in folders
            if not name.startswith(PREFIX)
            and os.path.realpath(os.path.join(folder, name)) not in visited  # noqa: PTH118
        )
        for name in names:
            path = Path(folder, name)
            if path.is_symlink() and not path.exists():
                raise BackupError(
                    f"{path} is a link to a place that does not exist: repair or remove it"
                )
            if path.is_file() and not name.endswith(_SKIPPED_ENDINGS):
                yield path


def _raise_unless_gone(error: OSError) -> None:
    """Without it, ``os.walk`` would leave out a folder that it may not read."""
    if not isinstance(error, FileNotFoundError):
        raise error
