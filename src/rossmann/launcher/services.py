"""What the launcher starts: three services, each with its command, its port and its health."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum

import httpx

from rossmann.launcher import processes as ports
from rossmann.settings import Settings


class State(Enum):
    """What is found on a service's port."""

    ABSENT = "not running"
    HEALTHY = "healthy"
    UNHEALTHY = "not healthy yet"
    OTHER_PROCESS = "held by something else"


def is_ok_response(response: httpx.Response) -> bool:
    """Whether the answer is a plain success."""
    return response.status_code == 200


@dataclass(frozen=True)
class Service:
    """One server process.

    ``accepts``: whether an answer to ``health_url`` is a healthy service's. ``marks``: of these,
    one stands in the command line or working folder of a process of ours; empty: the answer is
    proof enough. ``setting``: the variable that moves the port. ``patience``: seconds to wait.
    """

    name: str
    command: Sequence[str]
    host: str
    port: int
    health_url: str
    address: str
    setting: str
    environment: dict[str, str] = field(default_factory=dict)
    accepts: Callable[[httpx.Response], bool] = is_ok_response
    command_markers: tuple[str, ...] = ()
    patience: float = 180.0

    def healthy(self, timeout: float = 5.0) -> bool:
        """Whether it answers as it should, now; ``timeout`` in seconds."""
        try:
            # On this machine and in plain HTTP: no proxy, and no certificates to read each time.
            response = httpx.get(self.health_url, timeout=timeout, trust_env=False, verify=False)
        except (httpx.HTTPError, OSError):
            return False
        return self.accepts(response)

    def owns(self, holder: ports.PortOwner | None) -> bool:
        """Whether the process on the port is one of ours; a process we cannot see may be."""
        if holder is None or not self.command_markers:
            return True
        return any(mark in f"{holder.command}\n{holder.folder}" for mark in self.command_markers)

    def state(self) -> State:
        """What is on the port, for a service that the launcher has not started itself."""
        if not ports.is_taken(self.host, self.port):
            return State.ABSENT
        if not self.healthy():
            return State.UNHEALTHY
        return State.HEALTHY if self.owns(ports.find_port_owner(self.port)) else State.OTHER_PROCESS


def client_host(host: str) -> str:
    """The address to call for a server that listens on ``host``: a wildcard is no address."""
    plain = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"[{plain}]" if ":" in plain else plain


def is_mlflow(response: httpx.Response) -> bool:
    """Whether the answer is that of an MLflow server's ``/health``."""
    return response.status_code == 200 and response.text.strip() == "OK"


def is_api(response: httpx.Response) -> bool:
    """Whether the answer is that of our ``/health`` with a model in memory."""
    try:
        body = response.json()
    except ValueError:
        return False
    return isinstance(body, dict) and "model_stage" in body and body.get("model_loaded") is True


def default_services(settings: Settings) -> list[Service]:
    """MLflow, the API and the dashboard, in the order in which they need each other.

    MLflow is left out where the settings name another server than the embedded one.
    """
    here = client_host(settings.host)
    common = {
        "ROSSMANN_DATA_DIR": str(settings.data_dir),
        "ROSSMANN_DEMO": "1" if settings.demo else "0",
    }
    services = [_api(settings, here, common), _dashboard(settings, here, common)]
    return services if settings.mlflow_tracking_uri else [_mlflow(settings, here), *services]


def _mlflow(settings: Settings, here: str) -> Service:
    from rossmann.launcher import mlflow_server

    address = f"http://{here}:{settings.mlflow_port}"
    return Service(
        name="MLflow",
        command=mlflow_server.server_command(settings),
        environment=mlflow_server.server_environment(settings),
        host=settings.host,
        port=settings.mlflow_port,
        health_url=f"{address}/health",
        address=address,
        setting="ROSSMANN_MLFLOW_PORT",
        accepts=is_mlflow,
        command_markers=(str(settings.mlflow_dir),),
    )


def _api(settings: Settings, here: str, common: dict[str, str]) -> Service:
    address = f"http://{here}:{settings.api_port}"
    return Service(
        name="API",
        command=[sys.executable, "-m", "rossmann.cli", "serve"],
        environment=common,
        host=settings.host,
        port=settings.api_port,
        health_url=f"{address}/health",
        address=address,
        setting="ROSSMANN_API_PORT",
        accepts=is_api,
    )


def _dashboard(settings: Settings, here: str, common: dict[str, str]) -> Service:
    from rossmann.dashboard import server

    address = f"http://{here}:{settings.dashboard_port}"
    return Service(
        name="dashboard",
        command=server.server_command(settings),
        environment=server.server_environment(settings) | common,
        host=settings.host,
        port=settings.dashboard_port,
        health_url=f"{address}/_stcore/health",
        address=address,
        setting="ROSSMANN_DASHBOARD_PORT",
        command_markers=("rossmann/dashboard/app.py", "deployment/streamlit"),
    )
