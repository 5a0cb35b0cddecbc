"""Local copies of registered versions, so that forecasts go on while the registry is away.

``<cache>/<version>/`` holds the ensemble's files and ``copy.json`` (which run it came from, and the
digest of ``ensemble.json``, which in turn holds the digests of the others).
``<cache>/production.json`` tells which version was Production last.

Artifacts are downloaded through MLflow's server where it proxies them, else by its client.
"""

import fcntl
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Final
from urllib.parse import urlparse

from rossmann.errors import CorruptModelError, ServiceError
from rossmann.models.ensemble.artifact_files import CARD_FILE, sha256, verify_digests
from rossmann.models.registry.mlflow_rest import MlflowRest

_SEAL = "copy.json"
_PRODUCTION = "production.json"
_UNFINISHED = ".tmp"
_STALE_SECONDS = 3600


def cached_version(cache: Path, version: int, run_id: str | None = None) -> Path | None:
    """The folder of a whole local copy of ``version``, or None; asks no registry.

    ``run_id``: the run that the copy must come from; a registry that was set up anew counts its
    versions from 1 again.
    """
    folder = cache / str(version)
    try:
        seal = json.loads((folder / _SEAL).read_text(encoding="utf-8"))
        if run_id is not None and seal["run_id"] != run_id:
            return None
        verify_digests(folder, seal["card"])
    except (OSError, ValueError, KeyError, TypeError, CorruptModelError):
        return None
    return folder


@contextmanager
def write_version(cache: Path, version: int, run_id: str) -> Iterator[Path]:
    """An empty folder to fill; it becomes ``<cache>/<version>`` in one step when the block ends."""
    cache.mkdir(parents=True, exist_ok=True)
    _sweep(cache)
    folder = Path(tempfile.mkdtemp(prefix=f"{version}.", suffix=_UNFINISHED, dir=cache))
    held = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # where the file system has no locks, its age has to tell
            fcntl.flock(held, fcntl.LOCK_SH)  # what is filled now is not left behind, by any clock
        yield folder
        seal = {"version": version, "run_id": run_id, "card": sha256(folder / CARD_FILE)}
        (folder / _SEAL).write_text(json.dumps(seal), encoding="utf-8")
        folder.chmod(0o755)
        _put_in_place(folder, cache, version, run_id)
    finally:
        os.close(held)
        shutil.rmtree(folder, ignore_errors=True)


def _put_in_place(folder: Path, cache: Path, version: int, run_id: str) -> None:
    target = cache / str(version)
    with suppress(OSError):
        folder.rename(target)
        return
    # There is a copy already: another worker was quicker, or it is damaged or of an older registry.
    if cached_version(cache, version, run_id):
        return
    aside = Path(tempfile.mkdtemp(prefix=f"{version}.", suffix=_UNFINISHED, dir=cache))
    with suppress(OSError):
        target.rename(aside)
    shutil.rmtree(aside, ignore_errors=True)
    with suppress(OSError):
        folder.rename(target)
        return
    if not cached_version(cache, version, run_id):
        raise CorruptModelError(f"{target} cannot be replaced; remove it")


def _sweep(cache: Path) -> None:
    """Remove what killed downloads left behind."""
    for left in cache.glob(f"*{_UNFINISHED}"):
        with suppress(OSError):
            if time.time() - left.stat().st_mtime < _STALE_SECONDS:
                continue
            if not left.is_dir():
                left.unlink()
            elif not _is_held(left):
                shutil.rmtree(left, ignore_errors=True)


def _is_held(folder: Path) -> bool:
    """Whether a process fills it."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


def save_last_production(cache: Path, version: int) -> None:
    """Note that ``version`` is Production, for a start while the registry is away."""
    cache.mkdir(parents=True, exist_ok=True)
    if last_production(cache) == version:
        return
    handle, name = tempfile.mkstemp(suffix=_UNFINISHED, dir=cache)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump({"version": version}, file)
        Path(name).replace(cache / _PRODUCTION)
    except OSError:
        Path(name).unlink(missing_ok=True)
        raise


def last_production(cache: Path) -> int | None:
    """The version that was Production when the registry was last asked; None if never noted."""
    try:
        return int(json.loads((cache / _PRODUCTION).read_text(encoding="utf-8"))["version"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


ARTIFACT_FOLDER: Final = "artifacts/ensemble"
"""Where a version keeps the ensemble's files."""


def download_version(rest: MlflowRest, name: str, version: int, folder: Path) -> None:
    """Download the ensemble's files of a version into ``folder``.

    Raises ``ServiceError`` where they cannot be had.
    """
    fields = {"name": name, "version": str(version)}
    answer = rest.call("GET", "model-versions/get-download-uri", **fields)
    if answer is None:
        raise ServiceError(f"MLflow names no place for version {version} of {name}")
    place = urlparse(str(answer["artifact_uri"]))
    if place.scheme != "mlflow-artifacts":
        source = f"{place.geturl().rstrip('/')}/{ARTIFACT_FOLDER}"
        _download_elsewhere(source, rest.address, folder)
        return
    root = str(PurePosixPath(place.path.lstrip("/")) / ARTIFACT_FOLDER)
    for file in rest.artifact_names(root):
        rest.download(f"{root}/{file}", folder / file)


def download_run_file(rest: MlflowRest, run_id: str, name: str, folder: Path) -> Path:
    """Download the file ``name`` that a run logged into ``folder``; raises ``ServiceError``."""
    answer = rest.call("GET", "runs/get", run_id=run_id)
    if answer is None:
        raise ServiceError(f"MLflow has no run {run_id}")
    place = urlparse(str(answer["run"]["info"]["artifact_uri"]))
    if place.scheme == "mlflow-artifacts":
        rest.download(f"{place.path.strip('/')}/{name}", folder / name)
    else:
        _download_elsewhere(f"{place.geturl().rstrip('/')}/{name}", rest.address, folder)
    return folder / name


def _download_elsewhere(source: str, tracking_uri: str, folder: Path) -> None:
    """From a store that the server does not stand in front of: MLflow's client knows them all."""
    import mlflow.artifacts
    from mlflow.exceptions import MlflowException

    try:
        local = mlflow.artifacts.download_artifacts(artifact_uri=source, tracking_uri=tracking_uri)
    except (MlflowException, OSError) as error:
        raise ServiceError(f"{source} cannot be read: {error}") from error
    for file in Path(local).iterdir() if Path(local).is_dir() else [Path(local)]:
        (folder / file.name).write_bytes(file.read_bytes())
