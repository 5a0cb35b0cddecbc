"""Local cache of registered versions, for forecasts while the registry is away; their download.

``<cache>/<version>/`` holds the ensemble's files and ``copy.json`` (the run that it comes from, and
the digest of ``ensemble.json``, which in turn holds the digests of the others).
``<cache>/production.json`` holds the last known Production version.

Artifacts are downloaded through MLflow's server where it proxies them, else by MLflow's client.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Final
from urllib.parse import urlparse

from rossmann.errors import CorruptModelError, ServiceError
from rossmann.filesystem.atomic_write import staging_folder, write_text_atomic
from rossmann.models.ensemble.artifact_files import CARD_FILE, sha256, verify_digests
from rossmann.models.registry.mlflow_environment import mlflow_environment
from rossmann.models.registry.mlflow_rest import MlflowRest

ARTIFACT_FOLDER: Final = "artifacts/ensemble"
"""Where a version keeps the ensemble's files."""
_SOURCE_FILE: Final = "copy.json"
_PRODUCTION_FILE: Final = "production.json"


def cached_version(cache: Path, version: int, run_id: str | None = None) -> Path | None:
    """The folder of an intact local copy of ``version``, or None; needs no registry.

    ``run_id``: the run that the copy must come from; a registry that was set up again counts its
    versions from 1.
    """
    folder = cache / str(version)
    try:
        source = json.loads((folder / _SOURCE_FILE).read_text(encoding="utf-8"))
        if run_id is not None and source["run_id"] != run_id:
            return None
        verify_digests(folder, source["card"])
    except (OSError, ValueError, KeyError, TypeError, CorruptModelError):
        return None
    return folder


@contextmanager
def write_version(cache: Path, version: int, run_id: str) -> Iterator[Path]:
    """An empty folder to fill; it becomes ``<cache>/<version>`` in one step when the block ends."""
    with staging_folder(cache) as folder:
        yield folder
        source = {"version": version, "run_id": run_id, "card": sha256(folder / CARD_FILE)}
        (folder / _SOURCE_FILE).write_text(json.dumps(source), encoding="utf-8")
        _publish(folder, cache, version, run_id)


def _publish(folder: Path, cache: Path, version: int, run_id: str) -> None:
    target = cache / str(version)
    with suppress(OSError):
        folder.rename(target)
        return
    # A copy exists: of a faster worker, or a damaged one, or one of another registry.
    if cached_version(cache, version, run_id):
        return
    with staging_folder(cache) as old, suppress(OSError):
        target.rename(old)
    with suppress(OSError):
        folder.rename(target)
        return
    if not cached_version(cache, version, run_id):
        raise CorruptModelError(f"{target} cannot be replaced; remove it")


def save_last_production(cache: Path, version: int) -> None:
    """Record that ``version`` is Production, for a start while the registry is away."""
    cache.mkdir(parents=True, exist_ok=True)
    if last_production(cache) == version:
        return
    write_text_atomic(cache / _PRODUCTION_FILE, json.dumps({"version": version}))


def last_production(cache: Path) -> int | None:
    """The last known Production version; None where none was recorded."""
    try:
        return int(json.loads((cache / _PRODUCTION_FILE).read_text(encoding="utf-8"))["version"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def download_version(rest: MlflowRest, name: str, version: int, folder: Path) -> None:
    """Download the ensemble's files of a version into ``folder``.

    Raises ``ServiceError`` where that fails.
    """
    fields = {"name": name, "version": str(version)}
    response = rest.call("GET", "model-versions/get-download-uri", **fields)
    if response is None:
        raise ServiceError(f"MLflow names no place for version {version} of {name}")
    uri = urlparse(str(response["artifact_uri"]))
    if uri.scheme != "mlflow-artifacts":
        source = f"{uri.geturl().rstrip('/')}/{ARTIFACT_FOLDER}"
        _download_unproxied(source, rest.address, folder)
        return
    root = str(PurePosixPath(uri.path.lstrip("/")) / ARTIFACT_FOLDER)
    for file in rest.artifact_names(root):
        rest.download(f"{root}/{file}", folder / file)


def download_run_file(rest: MlflowRest, run_id: str, name: str, folder: Path) -> Path:
    """Download the file ``name`` that a run logged into ``folder``; raises ``ServiceError``."""
    response = rest.call("GET", "runs/get", run_id=run_id)
    if response is None:
        raise ServiceError(f"MLflow has no run {run_id}")
    uri = urlparse(str(response["run"]["info"]["artifact_uri"]))
    if uri.scheme == "mlflow-artifacts":
        rest.download(f"{uri.path.strip('/')}/{name}", folder / name)
    else:
        _download_unproxied(f"{uri.geturl().rstrip('/')}/{name}", rest.address, folder)
    return folder / name


def _download_unproxied(source: str, tracking_uri: str, folder: Path) -> None:
    """Download with MLflow's client, which knows every store that the server does not proxy."""
    with mlflow_environment(tracking_uri):
        import mlflow.artifacts
        from mlflow.exceptions import MlflowException

        try:
            local = mlflow.artifacts.download_artifacts(
                artifact_uri=source, tracking_uri=tracking_uri
            )
        except (MlflowException, OSError) as error:
            raise ServiceError(f"{source} cannot be read: {error}") from error
    for file in Path(local).iterdir() if Path(local).is_dir() else [Path(local)]:
        (folder / file.name).write_bytes(file.read_bytes())
