"""Backtests in MLflow: a run each, with its page, so that a team sees them side by side."""

from pathlib import Path
from typing import Any, Final

from rossmann.models.mlflow_client import open_client
from rossmann.models.registry import Registry
from rossmann.models.report_html import DATA_FILE, PAGE_FILE
from rossmann.settings import Settings

EXPERIMENT: Final = "rossmann-backtests"
"""Beside the experiment of the versions: a backtest registers nothing."""


def log_backtest(settings: Settings, folder: Path, report: dict[str, Any]) -> str:
    """Log the report in ``folder`` with its figures; answers the run's address in MLflow's pages.

    Raises ``ServiceError`` where MLflow is away or refuses.
    """
    with Registry(settings.tracking_uri) as registry:
        registry.ping()
    with open_client(settings) as client:
        found = client.get_experiment_by_name(EXPERIMENT)
        place = client.create_experiment(EXPERIMENT) if found is None else found.experiment_id
        tags = {"profile": str(report["profile"]), "data.version": str(report["data"]["version"])}
        run = client.create_run(place, tags=tags, run_name=_name(report)).info.run_id
        for name, value in _figures(report).items():
            client.log_metric(run, name, value)
        for file in (PAGE_FILE, DATA_FILE):
            client.log_artifact(run, str(folder / file))
        client.set_terminated(run)
    return f"{settings.tracking_uri}/#/experiments/{place}/runs/{run}"


def _name(report: dict[str, Any]) -> str:
    origins = [window["origin"] for window in report["windows"]]
    return f"{report['profile']} from {', '.join(origins)}"


def _figures(report: dict[str, Any]) -> dict[str, float]:
    """RMSPE by window and method, and the ensemble's other errors, as far as they are known."""
    out = {}
    for window in report["windows"]:
        for name, value in window["rmspe"].items():
            out[f"rmspe/{window['origin']}/{name}"] = value
        for name, value in window["ensemble"].items():
            out[f"{name}/{window['origin']}"] = value
    return {name: value for name, value in out.items() if value is not None}
