"""Local cache of registered versions, for forecasts while the registry is away; their download.

``<cache>/<version>/`` holds the ensemble's files and ``copy.json`` (the run that it comes from, and
the digest of ``ensemble.json``, which in turn holds the digests of the others).
``<cache>/production.json`` holds the last known Production version.

Artifacts are downloaded through MLflow's server where it proxies them, else by MLflow's client from
the stores that the settings allow.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Final
from urllib.parse import unquote, urlparse

from rossmann.addresses import redact_password
from rossmann.errors import CorruptModelError, ServiceError
from rossmann.filesystem.atomic_write import staging_folder, write_text_atomic
from rossmann.models.ensemble.artifact_files import CARD_FILE, sha256, verify_digests
from rossmann.models.registry.mlflow_environment import mlflow_environment
from rossmann.models.registry.mlflow_rest import MlflowRest

ARTIFACT_FOLDER: Final = "artifacts/ensemble"
"""Where a version keeps the ensemble's files."""
_SOURCE_FILE: Final = "copy.json"
_PRODUCTION_FILE: Final = "production.json"
_DOWNLOAD_SECONDS: Final = 300.0
"""Of MLflow's client, with its import."""
_DOWNLOAD_SCRIPT: Final = """
import sys
from mlflow.artifacts import download_artifacts
download_artifacts(artifact_uri=sys.argv[1], dst_path=sys.argv[2])
"""


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


def download_version(
    rest: MlflowRest, name: str, version: int, folder: Path, stores: Sequence[str] = ()
) -> None:
    """Download the ensemble's files of a version into ``folder``.

    ``stores``: URLs that files may come from besides the server. Raises ``ServiceError`` where the
    version's files are elsewhere, or cannot be read.
    """
    fields = {"name": name, "version": str(version)}
    response = rest.call("GET", "model-versions/get-download-uri", **fields)
    if response is None:
        raise ServiceError(f"MLflow names no place for version {version} of {name}")
    uri = urlparse(str(response["artifact_uri"]))
    if uri.scheme != "mlflow-artifacts":
        source = f"{uri.geturl().rstrip('/')}/{ARTIFACT_FOLDER}"
        _download_unproxied(source, rest.address, folder, stores)
        return
    root = str(PurePosixPath(uri.path.lstrip("/")) / ARTIFACT_FOLDER)
    for file in rest.artifact_names(root):
        rest.download(f"{root}/{file}", folder / file)


def download_run_file(
    rest: MlflowRest, run_id: str, name: str, folder: Path, stores: Sequence[str] = ()
) -> Path:
    """Download the file ``name`` that a run logged into ``folder``; raises ``ServiceError``."""
    response = rest.call("GET", "runs/get", run_id=run_id)
    if response is None:
        raise ServiceError(f"MLflow has no run {run_id}")
    uri = urlparse(str(response["run"]["info"]["artifact_uri"]))
    if uri.scheme == "mlflow-artifacts":
        rest.download(f"{uri.path.strip('/')}/{name}", folder / name)
    else:
        _download_unproxied(f"{uri.geturl().rstrip('/')}/{name}", rest.address, folder, stores)
    return folder / name


def _is_below(source: str, store: str) -> bool:
    """Whether a URL is in that store: the same scheme and host, and whole parts of the path."""
    url, root = urlparse(source), urlparse(store.rstrip("/"))
    path = unquote(url.path)
    is_plain = not (url.query or url.fragment or "%" in path or "\\" in path)
    return (
        is_plain
        and ".." not in path.split("/")
        and (url.scheme, url.netloc) == (root.scheme, root.netloc)
        and path.startswith(f"{root.path}/")
    )


def _download_unproxied(
    source: str, tracking_uri: str, folder: Path, stores: Sequence[str]
) -> None:
    """Download with MLflow's client, which knows every store that the server does not proxy.

    Whoever reaches MLflow chooses the source, so only what the settings allow is opened. A process
    of its own: the client writes into its working folder, and each store has errors of its own.
    """
    if not any(_is_below(source, store) for store in stores):
        raise ServiceError(
            f"the registry names {redact_password(source)} as the place of a version's files,"
            " which the settings do not allow; if it is yours, add its store to"
            " ROSSMANN_ARTIFACT_STORES (such as s3://bucket)"
        )
    with mlflow_environment(tracking_uri, MLFLOW_TRACKING_URI=tracking_uri):
        environment = dict(os.environ)
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        local = Path(temporary) / "files"
        try:
            subprocess.run(
                [sys.executable, "-c", _DOWNLOAD_SCRIPT, source, str(local)],
                check=True,
                cwd=temporary,
                env=environment,
                capture_output=True,
                timeout=_DOWNLOAD_SECONDS,
            )
        except subprocess.TimeoutExpired as error:
            reason = f"no end after {_DOWNLOAD_SECONDS:.0f} s"
            raise ServiceError(f"{source} cannot be read: {reason}") from error
        except subprocess.CalledProcessError as error:
            lines = error.stderr.decode(errors="replace").strip().splitlines()
            reason = lines[-1][:300] if lines else "no reason given"
            raise ServiceError(f"{source} cannot be read: {reason}") from error
        for file in local.rglob("*"):
            if file.is_file():
                file.replace(folder / file.name)
