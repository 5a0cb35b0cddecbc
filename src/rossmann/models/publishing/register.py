"""Writing a trained version to the registry: run, files, pyfunc, card, lineage.

MLflow takes seconds to import and is imported where it is needed.
"""

import json
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rossmann
from rossmann.models.ensemble import artifact_files as model_files
from rossmann.models.gate.backtest_predictions import PREDICTIONS_FILE
from rossmann.models.gate.gate import EVIDENCE_TAG, WINDOWS_TAG
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
from rossmann.models.registry.lineage import lineage_tags
from rossmann.models.registry.model_cache import ARTIFACT_FOLDER
from rossmann.models.registry.model_version import CARD_DIGEST_TAG, STAGE_TAG, ModelVersion
from rossmann.models.registry.registry import Registry
from rossmann.models.reports import model_card
from rossmann.models.reports.model_card import PAGE_FILE, render_html
from rossmann.schema import MODEL_NAME, Stage
from rossmann.settings import Settings

if TYPE_CHECKING:
    from rossmann.models.publishing.trained_model import TrainedModel


_EXCLUDED_LAYERS = ("prediction_log", "serving", "dashboard", "launcher", "cli")
"""Layers that a model may not import, so that its copy of the code does without them."""
_DESCRIPTION_LENGTH = 5000


@dataclass(frozen=True)
class _Parts:
    """Files laid out as a version holds them."""

    ensemble: Path
    code: Path
    card_text: Path
    card_page: Path


def register(
    trained: "TrainedModel",
    settings: Settings,
    name: str = MODEL_NAME,
    report: Callable[[str], None] = lambda line: None,
) -> ModelVersion:
    """Log a run with everything that ``trained`` is, and register it as a version in stage None.

    Raises ``ServiceError`` when MLflow is away or refuses, ``DamagedModel`` when the trained
    folder is not whole.
    """
    model_files.verify_digests(trained.folder)
    with Registry(settings.tracking_uri, name) as registry:
        registry.ping()
        report(f"registering with MLflow at {settings.tracking_uri}")
        with tempfile.TemporaryDirectory(prefix="rossmann-") as folder, quiet_mlflow():
            parts = _lay_out(trained, Path(folder), name)
            number = _log(trained, parts, settings.tracking_uri, name)
        report(f"registered {name} version {number}")
        return registry.find(number)


def _lay_out(trained: "TrainedModel", folder: Path, name: str) -> _Parts:
    parts = _Parts(
        folder / Path(ARTIFACT_FOLDER).name,
        folder / "rossmann",
        folder / "card.md",
        folder / PAGE_FILE,
    )
    parts.ensemble.mkdir()
    for file in (model_files.CARD_FILE, *model_files.member_files(trained.folder)):
        shutil.copy2(trained.folder / file, parts.ensemble / file)
    package = Path(rossmann.__file__).parent
    shutil.copytree(package, parts.code, ignore=_without_layers_above(package))
    card = model_card.render_markdown(trained.card, trained.windows, name)
    parts.card_text.write_text(card, encoding="utf-8")
    parts.card_page.write_text(render_html(card, name, trained.folder), encoding="utf-8")
    return parts


def _without_layers_above(package: Path) -> Callable[[str, list[str]], list[str]]:
    def ignore(folder: str, names: list[str]) -> list[str]:
        above = _EXCLUDED_LAYERS if Path(folder) == package else ()
        return [name for name in names if name in above or name == "__pycache__"]

    return ignore


def _log(trained: "TrainedModel", parts: _Parts, tracking_uri: str, name: str) -> int:
    import mlflow
    from mlflow.exceptions import MlflowException

    before = os.environ.get("MLFLOW_TRACKING_URI")  # MLflow keeps its own setting there, too
    try:
        mlflow.set_tracking_uri(tracking_uri)
        mlflow.set_experiment(EXPERIMENT)
        name_of_run = str(trained.card.get("profile", "train"))
        digest = {CARD_DIGEST_TAG: card_digest(trained)}
        with mlflow.start_run(run_name=name_of_run, tags=digest) as run:
            _log_run(trained, parts)
            source, model_id = _log_model(parts)
        return _create_version(trained, parts, name, source, model_id, run.info.run_id)
    except MlflowException as error:
        raise to_service_error(tracking_uri, error) from error
    finally:
        mlflow.set_tracking_uri(before)  # type: ignore[arg-type]  # None: as if never set


def _log_run(trained: "TrainedModel", parts: _Parts) -> None:
    import mlflow

    mlflow.log_params(_flat(trained.card.get("params", {})))
    mlflow.log_metrics(_metrics(_windows(trained)))
    mlflow.set_tags(lineage_tags(trained.card))
    mlflow.log_artifact(str(parts.card_text))
    mlflow.log_artifact(str(parts.card_page))
    for file in sorted(trained.folder.iterdir()):
        if file.is_dir():
            mlflow.log_artifacts(str(file), file.name)
        elif not (parts.ensemble / file.name).exists() and not file.name.startswith("."):
            mlflow.log_artifact(str(file))


def _log_model(parts: _Parts) -> tuple[str, str]:
    import mlflow

    info = mlflow.pyfunc.log_model(
        name="model",
        python_model=str(parts.code / "models" / "publishing" / "pyfunc_model.py"),
        artifacts={"ensemble": str(parts.ensemble)},
        code_paths=[str(parts.code)],
        signature=signature(),
        input_example=input_example(),
        pip_requirements=pip_requirements(),
    )
    return str(info.model_uri), str(info.model_id)


def _create_version(
    trained: "TrainedModel", parts: _Parts, name: str, source: str, model_id: str, run_id: str
) -> int:
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    client = MlflowClient()
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
    evidence = trained.folder / PREDICTIONS_FILE
    if evidence.is_file():
        tags[EVIDENCE_TAG] = model_files.sha256(evidence)
    version = client.create_model_version(
        name,
        source=source,
        run_id=run_id,
        tags=tags,
        description=parts.card_text.read_text(encoding="utf-8")[:_DESCRIPTION_LENGTH],
        model_id=model_id,
    )
    link_logged_model(client, model_id, name, version.version)
    return int(version.version)


def _windows(trained: "TrainedModel") -> list[dict[str, Any]]:
    return [
        {"origin": str(w.origin), "days": w.days, "rows": w.rows, "rmspe": dict(w.rmspe)}
        for w in trained.windows
    ]


def _metrics(windows: list[dict[str, Any]]) -> dict[str, float]:
    """One metric for each window and model; MLflow has no place for those that are not numbers."""
    return {
        f"rmspe/{window['origin']}/{key}": value
        for window in windows
        for key, value in window["rmspe"].items()
        if math.isfinite(value)
    }


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat.update(_flat(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat
