"""The plan of our own launch: which services, what is made first, what is said at the end."""

import sys
from collections.abc import Sequence

from rossmann.errors import ServiceError
from rossmann.launcher.preparation import wanted_dataset
from rossmann.launcher.runfiles import RunFolder
from rossmann.launcher.services import Service, our_services
from rossmann.launcher.up import Plan
from rossmann.serving.client import Client
from rossmann.serving.model_messages import Health
from rossmann.settings import Settings


def our_plan(settings: Settings, *, browser: bool) -> Plan:
    """MLflow early, then data and model, then the API and the dashboard.

    Raises ``MissingData`` where only one of the real tables is there.
    """
    services = our_services(settings)
    api, dashboard = services[-2:]
    wanted = wanted_dataset(settings)

    def agrees(running: Sequence[Service]) -> str:
        health = _health(api) if api in running else None
        if health is None or health.data is None or health.data.dataset == wanted:
            return ""
        return (
            f"the API at {api.address} runs already and serves the {health.data.label}, but this"
            f" launch is for the {wanted} data; end it first (rossmann down), or choose another"
            " data folder and other ports: ROSSMANN_DATA_DIR, ROSSMANN_API_PORT"
        )

    return Plan(
        services=services,
        logs=settings.logs_dir,
        run=RunFolder(settings.run_dir),
        early=len(services) - 2,
        preparation=[sys.executable, "-m", "rossmann.cli", "prepare"],
        environment={
            "ROSSMANN_DATA_DIR": str(settings.data_dir),
            "ROSSMANN_DEMO": "1" if settings.demo else "0",
        },
        about=lambda: served(api),
        agrees=agrees,
        open_url=dashboard.address if browser else "",
    )


def served(api: Service) -> str:
    """Which model answers and which data it comes from, in one line; "" where none does."""
    health = _health(api)
    if health is None:
        return ""
    data = health.data.label if health.data else "unknown data"
    line = f"Model version {health.model_version} ({health.model_stage}), data: {data}."
    return f"{line} {health.status}: {health.reason}" if health.reason else line


def _health(api: Service) -> Health | None:
    try:
        with Client(api.address, timeout=5) as client:
            return client.health()
    except ServiceError:
        return None
