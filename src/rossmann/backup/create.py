"""Makes a backup of the data folder while the services run."""

import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from rossmann.backup.contents import (
    LOG_DATABASE,
    PARAMETERS,
    REGISTRY_DATABASE,
    SPOOL,
    Part,
    SourceFile,
    exclusions,
    list_files,
    list_parts,
)
from rossmann.backup.file_copy import (
    CopyProgress,
    FileRecord,
    copy_database,
    copy_file,
    explained_errors,
    hash_file,
    is_database,
    megabytes,
)
from rossmann.backup.manifest import (
    SETTINGS,
    Manifest,
    data_version,
    logged_rows,
    registered_versions,
    write_manifest,
)
from rossmann.errors import BackupError
from rossmann.filesystem.atomic_write import (
    private_files,
    staging_folder,
    sync_folder,
    write_json_atomic,
)
from rossmann.models.registry.lineage import code_version
from rossmann.prediction_log.writing.disk_spool import spool_totals
from rossmann.schema import ProgressReporter
from rossmann.settings import Settings

_RESERVE: Final = 1.05
"""Files may grow while they are copied."""


@dataclass(frozen=True)
class Backup:
    """A backup that was made: its folder, its manifest, and its databases, each checked."""

    folder: Path
    manifest: Manifest
    databases: list[str]


@dataclass
class _Copies:
    """Copies in a draft folder: their digests by path, and which of them are databases."""

    folder: Path
    files: dict[str, FileRecord] = field(default_factory=dict)
    databases: list[str] = field(default_factory=list)

    def add(self, file: SourceFile, progress: CopyProgress) -> None:
        """Copy a file; one that is gone meanwhile is left out."""
        target = self.folder / file.name
        target.parent.mkdir(parents=True, exist_ok=True)
        name = str(file.name)
        with suppress(FileNotFoundError):
            database = is_database(file.source)
            copy: Callable[..., FileRecord] = copy_database if database else copy_file
            self.files[name] = copy(file.source, target, progress)
            if database:
                self.databases.append(name)


def back_up(settings: Settings, target: Path, report: ProgressReporter) -> Backup:
    """Copy what cannot be made again into the new folder ``target``, for its owner alone.

    It is written under another name and renamed when it is complete and on disk, so a backup that
    was killed is never taken for a whole one. Raises ``BackupError``; nothing is kept then.
    """
    folder = _check_target(settings, target)
    with explained_errors(folder), private_files():
        parts = list_parts(settings)
        total = _check_sources(settings, parts)
        with staging_folder(folder.parent) as draft:
            _check_space(draft, total)
            backup = _fill(settings, parts, _Copies(draft), CopyProgress(total, report), report)
            _sync(draft)
            _publish(draft, folder)
    return Backup(folder, backup.manifest, backup.databases)


def _check_target(settings: Settings, target: Path) -> Path:
    folder = target.resolve()
    if folder.exists() and not folder.is_dir():
        raise BackupError(f"{folder} is a file: name a new folder")
    with explained_errors(folder):
        if folder.exists() and any(folder.iterdir()):
            raise BackupError(f"{folder} is not empty: name a new folder for each backup")
    if folder.is_mount():
        raise BackupError(
            f"{folder} is a mounted disk: name a new folder on it: {folder / 'first'}"
        )
    if folder.is_relative_to(settings.data_dir.resolve()):
        raise BackupError(
            f"{folder} is in the data folder {settings.data_dir}, which it is to save: name a"
            " folder elsewhere, on another disk if you can"
        )
    return folder


def _check_sources(settings: Settings, parts: list[Part]) -> int:
    """Bytes to copy; raises ``BackupError`` where the data folder holds nothing to save."""
    sizes = {}
    for part in parts:
        sizes[part.name] = 0
        for file in list_files(part):
            with suppress(FileNotFoundError):
                sizes[part.name] += file.source.stat().st_size
    if not any(size for name, size in sizes.items() if name != PARAMETERS):
        raise BackupError(
            f"there is nothing to save in the data folder {settings.data_dir}: set"
            " ROSSMANN_DATA_DIR as it is set for the services"
        )
    return sum(sizes.values())


def _check_space(folder: Path, total: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < total * _RESERVE:
        raise BackupError(
            f"the disk of {folder.parent} is too small: {megabytes(total)} are to be copied, and"
            f" {megabytes(free)} are free"
        )


def _fill(
    settings: Settings,
    parts: list[Part],
    copies: _Copies,
    progress: CopyProgress,
    report: ProgressReporter,
) -> Backup:
    """Copy all parts and write the manifest."""
    draft = copies.folder
    for part in parts:
        files = list_files(part)  # listed now: the order of the parts is what makes them fit
        if files:
            report(f"{part.name}: {len(files):,} {'file' if len(files) == 1 else 'files'}")
        for file in files:
            copies.add(file, progress)
    write_json_atomic(draft / SETTINGS, settings.redacted())
    copies.files[SETTINGS] = hash_file(draft / SETTINGS, progress)
    log = logged_rows(draft / LOG_DATABASE)
    if log is not None:
        # Reading it may have changed bytes that do not matter to SQLite.
        copies.files[LOG_DATABASE] = hash_file(draft / LOG_DATABASE, progress)
    manifest = Manifest(
        made=datetime.now(UTC).isoformat(timespec="seconds"),
        code=code_version(),
        data=data_version(settings),
        versions=registered_versions(draft / REGISTRY_DATABASE),
        log=log,
        waiting=spool_totals(draft / SPOOL).rows,
        not_included=exclusions(settings),
        files=copies.files,
    )
    write_manifest(draft, manifest)
    return Backup(draft, manifest, copies.databases)


def _sync(folder: Path) -> None:
    for path, _, _ in os.walk(folder):
        sync_folder(Path(path))


def _publish(draft: Path, folder: Path) -> None:
    try:
        draft.rename(folder)
    except OSError as error:
        if folder.is_dir() and any(folder.iterdir()):  # another backup was faster
            raise BackupError(
                f"{folder} is not empty: name a new folder for each backup"
            ) from error
        raise
    sync_folder(folder.parent)
