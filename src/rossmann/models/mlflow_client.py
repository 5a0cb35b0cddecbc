"""MLflow's own client, kept quiet and short of patience; and mending what a kill left half-done.

MLflow takes seconds to import and is imported where it is needed.
"""

import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from rossmann.errors import ServiceError
from rossmann.models import model_files
from rossmann.models.model_versions import CARD_DIGEST_TAG, ModelVersion
from rossmann.schema import MODEL_NAME
from rossmann.settings import Settings

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    from rossmann.models.train import Trained

EXPERIMENT: Final = "rossmann"
_ENVIRONMENT: Final = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    # MLflow's own defaults retry for minutes.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "60",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}


@contextmanager
def quiet_mlflow() -> Iterator[None]:
    """MLflow's settings in the environment, where nobody set them, and no chatter in its log."""
    added = {key: value for key, value in _ENVIRONMENT.items() if key not in os.environ}
    logger = logging.getLogger("mlflow")
    os.environ.update(added)
    import mlflow  # noqa: F401 - it sets its log level when it is imported

    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
        for key in added:
            del os.environ[key]


@contextmanager
def open_client(settings: Settings) -> "Iterator[MlflowClient]":
    """A client of the settings' server; what it refuses is a ``ServiceError`` of one line."""
    with quiet_mlflow():
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException

        try:
            yield MlflowClient(settings.tracking_uri, settings.tracking_uri)
        except MlflowException as error:
            raise refusal(settings.tracking_uri, error) from error


def refusal(tracking_uri: str, error: "MlflowException") -> ServiceError:
    """What MLflow said, in one line."""
    reason = str(error.message).strip().splitlines()[0]
    return ServiceError(f"MLflow at {tracking_uri} refused: {reason}")


def card_digest(trained: "Trained") -> str:
    """SHA-256 of the card: what a version and its run are known by."""
    return model_files.sha256(trained.folder / model_files.CARD_FILE)


def link(client: "MlflowClient", model_id: str, name: str, version: int | str) -> None:
    """Write down which version comes from a logged model: MLflow's pages find it by that."""
    text = json.dumps([{"name": name, "version": str(version)}])
    client.set_logged_model_tags(model_id, {"mlflow.modelVersions": text})


def finish_version(version: ModelVersion, settings: Settings, name: str = MODEL_NAME) -> None:
    """Do what a registration that was cut short at its very end left to do."""
    with open_client(settings) as client:
        model_id = client.get_model_version(name, str(version.version)).model_id
        if model_id:
            link(client, model_id, name, version.version)


def drop_abandoned_runs(trained: "Trained", settings: Settings) -> None:
    """Take away the runs of registrations of ``trained`` that were cut short.

    Only for a folder that no version comes from and whose maker has ended: else the run may be
    one that is needed.
    """
    with open_client(settings) as client:
        experiment = client.get_experiment_by_name(EXPERIMENT)
        if experiment is None:
            return
        place = [experiment.experiment_id]
        mine = f"tags.`{CARD_DIGEST_TAG}` = '{card_digest(trained)}'"
        for run in client.search_runs(place, mine):
            for model in client.search_logged_models(place, f"source_run_id = '{run.info.run_id}'"):
                client.delete_logged_model(model.model_id)
            if run.info.status == "RUNNING":
                client.set_terminated(run.info.run_id, "KILLED")
            client.delete_run(run.info.run_id)
