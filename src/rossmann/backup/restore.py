"""Checks a backup, and restores it into an empty data folder."""

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Final

from rossmann.backup.contents import (
    KEYS,
    LOG_DATABASE,
    PARAMETERS,
    list_parts,
    uses_embedded_registry,
)
from rossmann.backup.file_copy import CopyProgress, copy_file, explained_errors, megabytes
from rossmann.backup.manifest import MANIFEST, SETTINGS, Manifest, read_manifest, verify_files
from rossmann.errors import BackupError
from rossmann.filesystem.atomic_write import (
    PREFIX,
    private_files,
    remove_stale,
    staging_folder,
    sync_folder,
)
from rossmann.filesystem.process_identity import find_open_files
from rossmann.installation import params_file
from rossmann.models.registry.lineage import code_version
from rossmann.schema import ProgressReporter
from rossmann.settings import Settings

_NOT_RESTORED: Final = {SETTINGS}
"""Files that are for people to compare with."""
_LAST: Final = ("mlflow",)
"""Renamed last: without a registry no service forecasts, so none does from half of a backup."""
_OF_FILE_SYSTEM: Final = {"lost+found"}
_LISTED: Final = 10
_MACHINE_SETTINGS: Final = {"data_dir"}
"""Settings that differ between two machines without a meaning."""


@dataclass(frozen=True)
class Restore:
    """What was restored: the manifest, and what the operator has to know or do."""

    manifest: Manifest
    notes: list[str] = field(default_factory=list)


def check_backup(folder: Path, report: ProgressReporter) -> Manifest:
    """Compare every file of a backup with its digest. Raises ``BackupError``."""
    with explained_errors(folder):
        manifest = read_manifest(folder.resolve())
        report(f"checking {len(manifest.files):,} files, {megabytes(manifest.size)}")
        verify_files(folder.resolve(), manifest.files, CopyProgress(manifest.size, report))
    return manifest


def restore(settings: Settings, folder: Path, report: ProgressReporter) -> Restore:
    """Check the backup in ``folder`` and copy it into the data folder, which must be empty.

    All is copied into a draft there, and renamed when it is complete and on disk. Files belong to
    the data folder's owner where root restores. Raises ``BackupError``.
    """
    backup, target = folder.resolve(), settings.data_dir.resolve()
    if target.is_relative_to(backup):
        raise BackupError(f"the data folder {target} is in the backup: set ROSSMANN_DATA_DIR")
    with explained_errors(target), private_files():
        _check_target(target)
        manifest = check_backup(folder, report)
        target.mkdir(parents=True, exist_ok=True)
        _check_space(target, manifest.size)
        report(f"copying to {target}")
        with staging_folder(target) as draft:
            _copy(backup, draft, manifest, CopyProgress(manifest.size, report))
            _give_to_owner(draft, target)
            _check_target(target, but=draft)  # a service may have started meanwhile
            for entry in _in_order(draft):
                entry.rename(target / entry.name)
        sync_folder(target)
        return Restore(manifest, list(_notes(settings, backup, manifest)))


def _check_target(target: Path, but: Path | None = None) -> None:
    """Raise ``BackupError`` unless the data folder is empty, and no process uses it."""
    if target.exists() and not target.is_dir():
        raise BackupError(f"ROSSMANN_DATA_DIR names {target}, which is a file")
    if not target.exists():
        return
    if but is None:
        remove_stale(target)
    names = sorted(p.name for p in target.iterdir() if p != but and p.name not in _OF_FILE_SYSTEM)
    if any(name.startswith(PREFIX) for name in names):
        raise BackupError(f"another restore into {target} is under way: wait until it is done")
    if names:
        shown = ", ".join(names[:_LISTED]) + (", ..." if len(names) > _LISTED else "")
        raise BackupError(
            f"the data folder {target} is not empty ({shown}): nothing was changed. Stop the"
            " services and move its content away, or set ROSSMANN_DATA_DIR to a new folder"
        )
    for pid, path in find_open_files(target).items():
        raise BackupError(
            f"process {pid} still has {path} open: stop the services that used {target} first"
        )


def _check_space(target: Path, size: int) -> None:
    free = shutil.disk_usage(target).free
    if free < size:
        raise BackupError(
            f"the disk of {target} is too small: {megabytes(size)} are to be copied, and"
            f" {megabytes(free)} are free"
        )


def _copy(backup: Path, draft: Path, manifest: Manifest, progress: CopyProgress) -> None:
    """Copy the files; each copy is compared with the manifest once more."""
    for name, record in manifest.files.items():
        if name in _NOT_RESTORED:
            continue
        target = draft / PurePosixPath(name)
        target.parent.mkdir(parents=True, exist_ok=True)
        if copy_file(backup / PurePosixPath(name), target, progress) != record:
            raise BackupError(f"{backup / name} has changed since it was checked")
    for path, _, _ in os.walk(draft):
        sync_folder(Path(path))


def _give_to_owner(draft: Path, target: Path) -> None:
    """Where root restores for the user of the services, they must be able to read the files."""
    owner = target.stat()
    if os.geteuid() or not owner.st_uid:
        return
    for path, folders, files in os.walk(draft):
        for name in (*folders, *files):
            os.chown(Path(path, name), owner.st_uid, owner.st_gid, follow_symlinks=False)


def _in_order(draft: Path) -> list[Path]:
    return sorted(draft.iterdir(), key=lambda entry: (entry.name in _LAST, entry.name))


def _notes(settings: Settings, backup: Path, manifest: Manifest) -> Iterator[str]:
    """What is not in the backup, what lies elsewhere now, and what differs from before."""
    for text in manifest.not_included:
        yield f"not in this backup: {text}"
    parts = {part.name: part.source for part in list_parts(settings)}
    for name, setting in (
        (LOG_DATABASE, "ROSSMANN_DATABASE_URL"),
        (KEYS, "ROSSMANN_API_KEYS_FILE"),
    ):
        restored = settings.data_dir / name
        if name in manifest.files and parts.get(name) != restored:
            yield f"{setting} names another place: move {restored} there, or unset it"
    if not uses_embedded_registry(settings):
        yield "ROSSMANN_MLFLOW_TRACKING_URI names another registry than the one in the backup"
    saved = backup / PARAMETERS
    if saved.is_file() and saved.read_bytes() != params_file().read_bytes():
        restored = settings.data_dir / PARAMETERS
        yield f"the saved parameters differ; to use them: ROSSMANN_PARAMS={restored}"
    if changed := _changed_settings(settings, backup):
        yield f"settings that differ from {SETTINGS} of the backup: {', '.join(changed)}"
    code = code_version()
    if manifest.code.get("digest") != code["digest"]:
        made = manifest.code.get("commit") or manifest.code.get("release", "unknown")
        yield f"another release made the backup ({made}): see docs/operations/upgrades.md"
    known = {*manifest.files, MANIFEST}
    others = sorted(p.name for p in backup.iterdir() if p.is_file() and p.name not in known)
    if others:
        yield f"files that the backup did not make were left there: {', '.join(others[:_LISTED])}"


def _changed_settings(settings: Settings, backup: Path) -> list[str]:
    try:
        saved = json.loads((backup / SETTINGS).read_text("utf-8"))
    except (OSError, ValueError):
        return []
    current = settings.redacted()
    names = (saved.keys() | current.keys()) - _MACHINE_SETTINGS
    return sorted(name for name in names if saved.get(name) != current.get(name))
