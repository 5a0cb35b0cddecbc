"""Registers a trained model with MLflow: a run, its files, the pyfunc with its code, the version.

MLflow takes seconds to import, so functions import it.
"""

import json
import math
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import rossmann
from rossmann.addresses import redact_password
from rossmann.models.ensemble.artifact_files import CARD_FILE, member_files, sha256, verify_digests
from rossmann.models.gate.backtest_predictions import PREDICTIONS_FILE
from rossmann.models.gate.gate import PREDICTIONS_DIGEST_TAG, WINDOWS_TAG
from rossmann.models.publishing.mlflow_client import (
    EXPERIMENT,
    card_digest,
    input_example,
    link_logged_model,
    pip_requirements,
    quiet_mlflow,
    signature,
    to_service_error,
)
from rossmann.models.publishing.trained_model import TrainedModel
from rossmann.models.registry.lineage import lineage_tags
from rossmann.models.registry.model_cache import ARTIFACT_FOLDER
from rossmann.models.registry.model_version import CARD_DIGEST_TAG, STAGE_TAG, ModelVersion
from rossmann.models.registry.registry import Registry
from rossmann.models.reports.model_card import CARD_PAGE_FILE, render_html, render_markdown
from rossmann.schema import MODEL_NAME, ProgressReporter, Stage
from rossmann.settings import Settings

_EXCLUDED_LAYERS: Final = ("prediction_log", "backup", "serving", "dashboard", "launcher", "cli")
"""Packages that models never import, left out of a version's copy of the code."""
_MAX_DESCRIPTION: Final = 5000


@dataclass(frozen=True)
class _VersionFiles:
    """Files of a version, as MLflow is to store them."""

    ensemble: Path
    code: Path
    card_markdown: Path
    card_html: Path


def register(
    trained: TrainedModel,
    settings: Settings,
    name: str = MODEL_NAME,
    report: ProgressReporter = lambda line: None,
) -> ModelVersion:
    """Log a run with all files of ``trained``, and register it as a version in stage None.

    Raises ``ServiceError`` when MLflow is unreachable or rejects a request, ``CorruptModelError``
    when a file of the trained folder is missing or altered.
    """
    verify_digests(trained.folder)
    with Registry(settings.tracking_uri, name) as registry:
        registry.ping()
        report(f"registering with MLflow at {redact_password(settings.tracking_uri)}")
        with (
            tempfile.TemporaryDirectory(prefix="rossmann-") as folder,
            quiet_mlflow(settings.tracking_uri),
        ):
            files = _prepare_files(trained, Path(folder), name)
            number = _log(trained, files, settings.tracking_uri, name)
        report(f"registered {name} version {number}")
        return registry.find(number)


def _prepare_files(trained: TrainedModel, folder: Path, name: str) -> _VersionFiles:
    files = _VersionFiles(
        ensemble=folder / Path(ARTIFACT_FOLDER).name,
        code=folder / "rossmann",
        card_markdown=folder / "card.md",
        card_html=folder / CARD_PAGE_FILE,
    )
    files.ensemble.mkdir()
    for file in (CARD_FILE, *member_files(trained.folder)):
        shutil.copy2(trained.folder / file, files.ensemble / file)
    package = Path(rossmann.__file__).parent
    shutil.copytree(package, files.code, ignore=_ignored_names)
    card = render_markdown(trained.card, trained.windows, name)
    files.card_markdown.write_text(card, encoding="utf-8")
    files.card_html.write_text(render_html(card, name, trained.folder), encoding="utf-8")
    return files


def _ignored_names(folder: str, names: list[str]) -> list[str]:
    is_package_root = Path(folder) == Path(rossmann.__file__).parent
    ignored = {"__pycache__", *(_EXCLUDED_LAYERS if is_package_root else ())}
    return [name for name in names if name in ignored]


def _log(trained: TrainedModel, files: _VersionFiles, tracking_uri: str, name: str) -> int:
    import mlflow
    from mlflow.exceptions import MlflowException

    try:
        mlflow.set_tracking_uri(tracking_uri)
        mlflow.set_experiment(EXPERIMENT)
        run_name = str(trained.card.get("profile", "train"))
        tags = {CARD_DIGEST_TAG: card_digest(trained)}
        with mlflow.start_run(run_name=run_name, tags=tags) as run:
            _log_run(trained, files)
            source, model_id = _log_model(files)
        return _create_version(trained, files, name, source, model_id, run.info.run_id)
    except MlflowException as error:
        raise to_service_error(tracking_uri, error) from error
    finally:
        mlflow.set_tracking_uri(None)  # type: ignore[arg-type]  # as if never set


def _log_run(trained: TrainedModel, files: _VersionFiles) -> None:
    import mlflow

    mlflow.log_params(_flatten(trained.card.get("params", {})))
    mlflow.log_metrics(_metrics(_windows(trained)))
    mlflow.set_tags(lineage_tags(trained.card))
    mlflow.log_artifact(str(files.card_markdown))
    mlflow.log_artifact(str(files.card_html))
    for path in sorted(trained.folder.iterdir()):
        if path.is_dir():
            mlflow.log_artifacts(str(path), path.name)
        elif not (files.ensemble / path.name).exists() and not path.name.startswith("."):
            mlflow.log_artifact(str(path))


def _log_model(files: _VersionFiles) -> tuple[str, str]:
    import mlflow

    info = mlflow.pyfunc.log_model(
        name="model",
        python_model=str(files.code / "models" / "publishing" / "pyfunc_model.py"),
        artifacts={"ensemble": str(files.ensemble)},
        code_paths=[str(files.code)],
        signature=signature(),
        input_example=input_example(),
        pip_requirements=pip_requirements(),
    )
    return str(info.model_uri), str(info.model_id)


def _create_version(
    trained: TrainedModel, files: _VersionFiles, name: str, source: str, model_id: str, run_id: str
) -> int:
    from mlflow import MlflowClient, get_tracking_uri
    from mlflow.exceptions import MlflowException

    # Without the second address it would take a registry that this process has set.
    client = MlflowClient(get_tracking_uri(), get_tracking_uri())
    try:
        client.create_registered_model(name, description="Daily sales of each store, 48 days on.")
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    tags = {
        **lineage_tags(trained.card),
        **{f"rmspe.{w['origin']}": f"{w['rmspe']['ensemble']:.5f}" for w in _windows(trained)},
        WINDOWS_TAG: json.dumps(_windows(trained)),
        CARD_DIGEST_TAG: card_digest(trained),
        STAGE_TAG: Stage.NONE.value,
    }
    predictions = trained.folder / PREDICTIONS_FILE
    if predictions.is_file():
        tags[PREDICTIONS_DIGEST_TAG] = sha256(predictions)
    version = client.create_model_version(
        name,
        source=source,
        run_id=run_id,
        tags=tags,
        description=files.card_markdown.read_text(encoding="utf-8")[:_MAX_DESCRIPTION],
        model_id=model_id,
    )
    link_logged_model(client, model_id, name, version.version)
    return int(version.version)


def _windows(trained: TrainedModel) -> list[dict[str, Any]]:
    return [
        {"origin": str(w.origin), "days": w.days, "rows": w.rows, "rmspe": dict(w.rmspe)}
        for w in trained.windows
    ]


def _metrics(windows: list[dict[str, Any]]) -> dict[str, float]:
    """A metric for each window and forecaster; MLflow cannot store NaN or infinity."""
    return {
        f"rmspe/{window['origin']}/{key}": value
        for window in windows
        for key, value in window["rmspe"].items()
        if math.isfinite(value)
    }


def _flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat.update(_flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat
