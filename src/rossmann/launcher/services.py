"""The services that the launcher starts: command, health check and port of each, and its holder."""

import errno
import socket
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Final

import httpx
import psutil

from rossmann.addresses import url_host
from rossmann.installation import absolute_path
from rossmann.settings import Settings

_DATA_DIR: Final = "ROSSMANN_DATA_DIR"


class State(Enum):
    """What is found on a service's port."""

    ABSENT = "not running"
    HEALTHY = "healthy"
    UNHEALTHY = "not healthy yet"
    OTHER_PROCESS = "held by something else"


@dataclass(frozen=True, slots=True)
class PortOwner:
    """The process that listens on a port: its command line and its working folder.

    ``data_dir``: the data folder that its environment names; "" where it names none.
    """

    pid: int
    command: str
    folder: str
    data_dir: str = ""

    def __str__(self) -> str:
        shown = self.command if len(self.command) <= 80 else self.command[:77] + "..."
        data = f", data folder {self.data_dir}" if self.data_dir else ""
        return f"{shown} (pid {self.pid}{data})"


def bind_error(host: str, port: int) -> OSError | None:
    """Why no server could listen there now; None where one could."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # Connections that a server left when it ended do not hold the port.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            return error
    return None


def is_port_taken(host: str, port: int) -> bool:
    """Whether a process listens there, or holds the port so that no other could."""
    with suppress(OSError), socket.create_connection((host, port), timeout=2):
        return True
    error = bind_error(host, port)
    return error is not None and error.errno in {errno.EADDRINUSE, errno.EACCES}


def find_port_owner(port: int) -> PortOwner | None:
    """The process that listens on the port; None where there is none, or it is another user's."""
    with suppress(psutil.Error):
        for connection in psutil.net_connections("tcp"):
            listens = connection.status == psutil.CONN_LISTEN and connection.laddr.port == port
            if listens and connection.pid is not None:
                process = psutil.Process(connection.pid)
                command = " ".join(process.cmdline()).strip()
                return PortOwner(process.pid, command, _folder(process), _data_dir(process))
    return None


def _folder(process: psutil.Process) -> str:
    with suppress(psutil.Error):
        return str(process.cwd())
    return ""


def _data_dir(process: psutil.Process) -> str:
    with suppress(psutil.Error):
        return str(process.environ().get(_DATA_DIR, ""))
    return ""


def is_ok_response(response: httpx.Response) -> bool:
    """Whether the response is a plain success."""
    return response.status_code == 200


@dataclass(frozen=True)
class Service:
    """One server process.

    ``accepts``: whether a response of ``health_url`` is a healthy service's. ``command_markers``:
    the command line or working folder of this service's process holds one of them; empty: the
    response is proof enough. ``setting``: the environment variable of the port.
    ``startup_timeout``: seconds.
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
    startup_timeout: float = 180.0

    def healthy(self, timeout: float = 5.0) -> bool:
        """Whether it answers as it should, now; ``timeout`` in seconds."""
        try:
            # On this machine and in plain HTTP: no proxy, and no certificates to read each time.
            response = httpx.get(self.health_url, timeout=timeout, trust_env=False, verify=False)
        except (httpx.HTTPError, OSError):
            return False
        return self.accepts(response)

    def owns(self, owner: PortOwner | None) -> bool:
        """Whether the port's process is this service's; one that cannot be read (None) may be.

        One of another data folder is not: its forecasts are of other sales.
        """
        if owner is None:
            return True
        if owner.data_dir and not _same_folder(owner.data_dir, self.environment.get(_DATA_DIR)):
            return False
        if not self.command_markers:
            return True
        return any(mark in f"{owner.command}\n{owner.folder}" for mark in self.command_markers)

    def state(self) -> State:
        """What is on the port, for a service that this launch has not started."""
        if not is_port_taken(self.host, self.port):
            return State.ABSENT
        if not self.healthy():
            return State.UNHEALTHY
        return State.HEALTHY if self.owns(find_port_owner(self.port)) else State.OTHER_PROCESS


def _same_folder(one: str, other: str | None) -> bool:
    """Whether two settings name one folder; a service that names none is of any."""
    if not other:
        return True
    return absolute_path(Path(one)).resolve() == absolute_path(Path(other)).resolve()


def is_mlflow(response: httpx.Response) -> bool:
    """Whether the response is that of an MLflow server's ``/health``."""
    return response.status_code == 200 and response.text.strip() == "OK"


def is_api(response: httpx.Response) -> bool:
    """Whether the response is that of the API's ``/health`` with a model in memory."""
    try:
        body = response.json()
    except ValueError:
        return False
    return isinstance(body, dict) and "model_stage" in body and body.get("model_loaded") is True


def default_services(settings: Settings) -> list[Service]:
    """MLflow, the API and the dashboard, in the order in which they need each other.

    MLflow is left out where the settings name another server than the embedded one.
    """
    from rossmann.dashboard import server
    from rossmann.launcher import mlflow_server

    common = {_DATA_DIR: str(settings.data_dir), "ROSSMANN_DEMO": "1" if settings.demo else "0"}
    mlflow = _service("MLflow", settings, settings.mlflow_port)(
        command=mlflow_server.server_command(settings),
        environment=mlflow_server.server_environment(settings),
        accepts=is_mlflow,
        command_markers=(str(settings.mlflow_dir),),
    )
    api = _service("API", settings, settings.api_port, settings.api_base_path)(
        command=[sys.executable, "-m", "rossmann.cli", "serve"], environment=common, accepts=is_api
    )
    dashboard = _service(
        "dashboard", settings, settings.dashboard_port, settings.dashboard_base_path
    )(
        health_url=server.health_url(settings),
        command=server.server_command(settings),
        environment=server.server_environment(settings) | common,
        command_markers=(
            "rossmann/dashboard/web_app.py",
            "rossmann/dashboard/app.py",
            "deployment/streamlit",
        ),
    )
    return [api, dashboard] if settings.mlflow_tracking_uri else [mlflow, api, dashboard]


def _service(name: str, settings: Settings, port: int, base_path: str = "") -> partial[Service]:
    """A service at its address; the caller adds how it is started and recognized."""
    address = f"http://{url_host(settings.host)}:{port}{base_path}"
    return partial(
        Service,
        name=name,
        host=settings.host,
        port=port,
        address=address,
        health_url=f"{address}/health",
        setting=f"ROSSMANN_{name.upper()}_PORT",
    )
