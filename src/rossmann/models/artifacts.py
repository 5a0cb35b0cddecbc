"""Files that MLflow keeps: through its server where that stands in front of them, else its client.

A private part of the registry.
"""

from pathlib import Path, PurePosixPath
from typing import Final
from urllib.parse import urlparse

from rossmann.errors import ServiceError
from rossmann.models.mlflow_rest import MlflowRest

ARTIFACT_FOLDER: Final = "artifacts/ensemble"
"""Where a version keeps the ensemble's files."""


def version_files(rest: MlflowRest, name: str, version: int, folder: Path) -> None:
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


def run_file(rest: MlflowRest, run_id: str, name: str, folder: Path) -> Path:
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
