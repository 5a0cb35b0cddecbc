"""Servers for the benchmarks, each started on a free port and ended with the block."""

import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from rossmann.launcher.mlflow_server import server_command, server_environment
from rossmann.models.registry.registry import Registry
from rossmann.schema import Stage
from rossmann.settings import Settings, load_settings

_STARTUP_TIMEOUT: Final = 120.0
_PIN_CORES: Final = (
    "import os, sys; os.sched_setaffinity(0, map(int, sys.argv[1].split(','))); "
    "os.execv(sys.argv[2], sys.argv[2:])"
)


@contextmanager
def run_registry(settings: Settings) -> Iterator[int]:
    """MLflow over the data folder; yields its port."""
    port = free_port()
    own = load_settings(data_dir=settings.data_dir, mlflow_port=port, mlflow_tracking_uri="")
    command, environment = server_command(own), server_environment(own)
    with run_server(command, environment, f"http://127.0.0.1:{port}/health", None):
        yield port


@contextmanager
def run_http_baseline(workers: int = 1) -> Iterator[int]:
    """HTTP alone (``http_baseline.py``), a core for each worker; yields its port."""
    port, script = free_port(), Path(__file__).with_name("http_baseline.py")
    command = [sys.executable, str(script), str(port), str(workers)]
    with run_server(command, {}, f"http://127.0.0.1:{port}/openapi.json", set(range(workers))):
        yield port


@contextmanager
def run_service(
    settings: Settings, workers: int, environment: Mapping[str, str] | None = None
) -> Iterator[int]:
    """The service, one core and one thread for each worker; yields its port."""
    port = free_port()
    environment = {
        "ROSSMANN_API_PORT": str(port),
        "ROSSMANN_MLFLOW_PORT": str(settings.mlflow_port),
        "ROSSMANN_MLFLOW_TRACKING_URI": "",
        "ROSSMANN_WORKERS": str(workers),
        "ROSSMANN_THREADS": "1",
        **(environment or {}),
    }
    command = [sys.executable, "-m", "rossmann.cli", "serve"]
    url = f"http://127.0.0.1:{port}/health/ready"
    with run_server(command, environment, url, set(range(workers))):
        yield port


@contextmanager
def run_mlflow_models_serve(settings: Settings) -> Iterator[int]:
    """MLflow's own server of the Production version, on the first core; yields its port."""
    port = free_port()
    registry = Registry(settings.tracking_uri)
    version = next(v.version for v in registry.versions() if v.stage == Stage.PRODUCTION)
    command = [
        *(sys.executable, "-m", "mlflow", "models", "serve", "--env-manager", "local"),
        *("-m", f"models:/rossmann-ensemble/{version}", "-p", str(port)),
    ]
    # It looks for uvicorn on PATH, as in an activated environment.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    environment = {"MLFLOW_TRACKING_URI": settings.tracking_uri, "PATH": path}
    with run_server(command, environment, f"http://127.0.0.1:{port}/ping", {0}):
        yield port


@contextmanager
def run_server(
    command: list[str], environment: Mapping[str, str], url: str, cores: set[int] | None
) -> Iterator[None]:
    """A server, from its first 200 at ``url`` on; pinned to ``cores`` unless None."""
    if cores is not None:
        command = [sys.executable, "-c", _PIN_CORES, ",".join(map(str, sorted(cores))), *command]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            command,
            env={**os.environ, **environment},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            _await_ready(url, process, log)
            yield
        finally:
            if process.poll() is None:
                os.killpg(process.pid, 15)
            process.wait(30)


def _await_ready(url: str, process: "subprocess.Popen[bytes]", log: Any) -> None:
    deadline = time.monotonic() + _STARTUP_TIMEOUT
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(url, timeout=2) as response:
                if response.status == 200:
                    return
        except OSError:
            if process.poll() is not None:
                break
            time.sleep(0.02)
    log.seek(0)
    raise SystemExit(f"no response from {url}:\n{log.read().decode()[-2000:]}")


def read_metric(port: int, prefix: str) -> float:
    """Sum of the service's Prometheus samples with that prefix; 0 where it has no metrics."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as response:
            lines = response.read().decode().splitlines()
    except urllib.error.HTTPError:
        return 0.0
    return sum(float(line.split()[-1]) for line in lines if line.startswith(prefix))


def free_port() -> int:
    """A TCP port that no process listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
