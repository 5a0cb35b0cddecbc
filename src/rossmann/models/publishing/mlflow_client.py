"""MLflow's Python client: quiet, with short timeouts; repair of registrations, backtest runs.

Also the signature, input example and requirements of a registered version. MLflow takes seconds to
import, so functions import it.
"""

import importlib.metadata
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from rossmann.addresses import redact_password
from rossmann.errors import ServiceError
from rossmann.models.ensemble.artifact_files import CARD_FILE, sha256
from rossmann.models.publishing.trained_model import TrainedModel
from rossmann.models.registry.mlflow_environment import mlflow_environment
from rossmann.models.registry.model_version import CARD_DIGEST_TAG, ModelVersion
from rossmann.models.registry.registry import Registry
from rossmann.models.reports.html_report import REPORT_DATA_FILE, REPORT_PAGE_FILE
from rossmann.schema import FEATURES, MODEL_NAME
from rossmann.settings import Settings

if TYPE_CHECKING:
    import pandas as pd
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException
    from mlflow.models import ModelSignature

EXPERIMENT: Final = "rossmann"
BACKTEST_EXPERIMENT: Final = "rossmann-backtests"
"""Backtests register nothing, so they have an experiment of their own."""
_ENVIRONMENT: Final = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    # MLflow's own defaults retry for minutes.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "60",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
PACKAGES: Final = ("mlflow", "numpy", "numba", "pandas", "lightgbm", "xgboost-cpu", "catboost")
"""Packages that a version requires apart from its own code."""
_EXAMPLE: Final = {
    # A Friday in a promotion week, eight days ahead, of a store that sells about 6,600 a day.
    **{"day_of_week": 5, "day_of_month": 19, "working_days_left_in_month": 7, "promo_lift": 0.3},
    **{"days_from_easter": 75, "days_to_christmas": 60, "promo": 1, "days_to_promo": 0},
    **{"promo_days_left": 1, "promo2_phase": -1, "days_since_holiday": 15, "days_to_holiday": 30},
    **{"days_since_school_holiday": 60, "days_to_school_holiday": 34, "closed_days_after": 0},
    **{"days_since_long_closure": 200, "open_days_before": 12, "log_competition_distance": 7.1},
    **{"months_since_competition": 58, "region": 5, "horizon": 8, "mean_weekday_91": -0.11},
    **{"mean_promo_28": 0.03, "mean_same_182": -0.01, "mean_same_364": -0.02},
    **{"median_same_364": -0.03, "sd_same_364": 0.12, "count_same_364": 24, "open_days_365": 300},
    **{"log_sales_per_customer_365": 2.2, "log_customers_same_364": 6.6, "last_year_day": -0.05},
    **{"last_year_same": -0.04, "last_year_change": 0.02, "kfa": 0.01, "kfc": -0.01},
    **{"kfd": -0.02, "last_year_error": 0.01, "last_year_error_chain": 0.01, "kfb": 8.8},
}


@contextmanager
def quiet_mlflow(tracking_uri: str) -> Iterator[None]:
    """MLflow's variables for a client of that server (``mlflow_environment``), and a quiet log."""
    logger = logging.getLogger("mlflow")
    with mlflow_environment(tracking_uri, **_ENVIRONMENT):
        import mlflow  # noqa: F401 - it sets its log level when it is imported

        level = logger.level
        logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            logger.setLevel(level)


@contextmanager
def open_client(settings: Settings) -> "Iterator[MlflowClient]":
    """A client of the settings' server, whose errors become ``ServiceError`` of one line."""
    with quiet_mlflow(settings.tracking_uri):
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException

        try:
            yield MlflowClient(settings.tracking_uri, settings.tracking_uri)
        except MlflowException as error:
            raise to_service_error(settings.tracking_uri, error) from error


def to_service_error(tracking_uri: str, error: "MlflowException") -> ServiceError:
    """MLflow's error in one line."""
    reason = str(error.message).strip().splitlines()[0]
    return ServiceError(f"MLflow at {redact_password(tracking_uri)} refused: {reason}")


def card_digest(trained: TrainedModel) -> str:
    """SHA-256 of the card, which identifies a version and its run."""
    return sha256(trained.folder / CARD_FILE)


def link_logged_model(client: "MlflowClient", model_id: str, name: str, version: int | str) -> None:
    """Tag a logged model with its version: MLflow's pages find the version by that."""
    text = json.dumps([{"name": name, "version": str(version)}])
    client.set_logged_model_tags(model_id, {"mlflow.modelVersions": text})


def complete_registration(
    version: ModelVersion, settings: Settings, name: str = MODEL_NAME
) -> None:
    """Do the last step of a registration, which a kill may have left out."""
    with open_client(settings) as client:
        model_id = client.get_model_version(name, str(version.version)).model_id
        if model_id:
            link_logged_model(client, model_id, name, version.version)


def drop_abandoned_runs(trained: TrainedModel, settings: Settings) -> None:
    """Delete the runs of registrations of ``trained`` that were cut short.

    Only for a folder that no version comes from and whose process has ended: else the run may be
    in use.
    """
    with open_client(settings) as client:
        experiment = client.get_experiment_by_name(EXPERIMENT)
        if experiment is None:
            return
        experiments = [experiment.experiment_id]
        same_card = f"tags.`{CARD_DIGEST_TAG}` = '{card_digest(trained)}'"
        for run in client.search_runs(experiments, same_card):
            of_run = f"source_run_id = '{run.info.run_id}'"
            for model in client.search_logged_models(experiments, of_run):
                client.delete_logged_model(model.model_id)
            if run.info.status == "RUNNING":
                client.set_terminated(run.info.run_id, "KILLED")
            client.delete_run(run.info.run_id)


def log_backtest_run(settings: Settings, folder: Path, report: dict[str, Any]) -> str:
    """Log the report in ``folder`` with its metrics; returns the run's address in MLflow's pages.

    Raises ``ServiceError`` where MLflow is unreachable or rejects the request.
    """
    with Registry(settings.tracking_uri) as registry:
        registry.ping()
    with open_client(settings) as client:
        existing = client.get_experiment_by_name(BACKTEST_EXPERIMENT)
        experiment_id = (
            client.create_experiment(BACKTEST_EXPERIMENT)
            if existing is None
            else existing.experiment_id
        )
        tags = {"profile": str(report["profile"]), "data.version": str(report["data"]["version"])}
        run_name = _run_name(report)
        run_id = client.create_run(experiment_id, tags=tags, run_name=run_name).info.run_id
        for name, value in _metrics(report).items():
            client.log_metric(run_id, name, value)
        for file in (REPORT_PAGE_FILE, REPORT_DATA_FILE):
            client.log_artifact(run_id, str(folder / file))
        client.set_terminated(run_id)
    return f"{redact_password(settings.tracking_uri)}/#/experiments/{experiment_id}/runs/{run_id}"


def _run_name(report: dict[str, Any]) -> str:
    origins = [window["origin"] for window in report["windows"]]
    return f"{report['profile']} from {', '.join(origins)}"


def _metrics(report: dict[str, Any]) -> dict[str, float]:
    """RMSPE by window and forecaster, and the ensemble's other errors, where measured."""
    metrics = {}
    for window in report["windows"]:
        for name, value in window["rmspe"].items():
            metrics[f"rmspe/{window['origin']}/{name}"] = value
        for name, value in window["ensemble"].items():
            metrics[f"{name}/{window['origin']}"] = value
    return {name: value for name, value in metrics.items() if value is not None}


def pip_requirements() -> list[str]:
    """Requirements, pinned to the installed versions: package names and versions, no hosts."""
    return [f"{name}=={importlib.metadata.version(name)}" for name in PACKAGES]


def signature() -> "ModelSignature":
    """46 doubles in feature order in, one double out.

    All are doubles because MLflow drops a signature whose integers may be missing.
    """
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema, TensorSpec

    columns: list[ColSpec | TensorSpec] = [ColSpec(DataType.double, name) for name in FEATURES]
    return ModelSignature(inputs=Schema(columns), outputs=Schema([ColSpec(DataType.double)]))


def input_example() -> "pd.DataFrame":
    """One row of input, (1, 46); features that the example leaves out are 0."""
    import pandas as pd

    row = {name: float(_EXAMPLE.get(name, 0)) for name in FEATURES}
    return pd.DataFrame([row], columns=list(FEATURES), dtype="float64")
