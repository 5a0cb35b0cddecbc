"""What ``serving.py`` compares, each begun on a free port and ended with the block."""

import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from rossmann.launcher.mlflow_server import server_command, server_environment
from rossmann.models.registry.registry import Registry
from rossmann.schema import Stage
from rossmann.settings import Settings, load_settings

_PATIENCE: Final = 120.0
_PINNED: Final = (
    "import os, sys; os.sched_setaffinity(0, map(int, sys.argv[1].split(','))); "
    "os.execv(sys.argv[2], sys.argv[2:])"
)


@contextmanager
def registry(settings: Settings) -> Iterator[int]:
    """MLflow over the data folder, on a port of its own."""
    port = free_port()
    mine = load_settings(mlflow_port=port, mlflow_tracking_uri="")
    command, environment = server_command(mine), server_environment(mine)
    with running(command, environment, f"http://127.0.0.1:{port}/health", None):
        yield port


@contextmanager
def floor(workers: int = 1) -> Iterator[int]:
    """HTTP alone (``http_floor.py``), a core for each worker."""
    port, script = free_port(), Path(__file__).with_name("http_floor.py")
    command = [sys.executable, str(script), str(port), str(workers)]
    with running(command, {}, f"http://127.0.0.1:{port}/openapi.json", set(range(workers))):
        yield port


@contextmanager
def service(settings: Settings, workers: int) -> Iterator[int]:
    """The service, a core for each worker, one thread each."""
    port = free_port()
    environment = {
        "ROSSMANN_API_PORT": str(port),
        "ROSSMANN_MLFLOW_PORT": str(settings.mlflow_port),
        "ROSSMANN_MLFLOW_TRACKING_URI": "",
        "ROSSMANN_WORKERS": str(workers),
        "ROSSMANN_THREADS": "1",
    }
    command = [sys.executable, "-m", "rossmann.cli", "serve"]
    url = f"http://127.0.0.1:{port}/health/ready"
    with running(command, environment, url, set(range(workers))):
        yield port


@contextmanager
def mlflow_models_serve(settings: Settings) -> Iterator[int]:
    """MLflow's own server of the Production version, on the first core."""
    port = free_port()
    registry = Registry(settings.tracking_uri)
    version = next(v.version for v in registry.versions() if v.stage == Stage.PRODUCTION)
    command = [
        *(sys.executable, "-m", "mlflow", "models", "serve", "--env-manager", "local"),
        *("-m", f"models:/rossmann-ensemble/{version}", "-p", str(port)),
    ]
    # It looks for uvicorn on PATH, which has this environment's only where it is activated.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    environment = {"MLFLOW_TRACKING_URI": settings.tracking_uri, "PATH": path}
    with running(command, environment, f"http://127.0.0.1:{port}/ping", {0}):
        yield port


@contextmanager
def running(
    command: list[str], environment: dict[str, str], url: str, cores: set[int] | None
) -> Iterator[None]:
    """A server, from its first good answer at ``url`` on; on ``cores`` where they are told."""
    if cores is not None:
        command = [sys.executable, "-c", _PINNED, ",".join(map(str, sorted(cores))), *command]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            command,
            env={**os.environ, **environment},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            _await(url, process, log)
            yield
        finally:
            if process.poll() is None:
                os.killpg(process.pid, 15)
            process.wait(30)


def _await(url: str, process: "subprocess.Popen[bytes]", log: Any) -> None:
    ends = time.monotonic() + _PATIENCE
    while time.monotonic() < ends:
        try:
            with urllib.request.urlopen(url, timeout=2) as answer:
                if answer.status == 200:
                    return
        except OSError:
            if process.poll() is not None:
                break
            time.sleep(0.02)
    log.seek(0)
    raise SystemExit(f"no answer from {url}:\n{log.read().decode()[-2000:]}")


def free_port() -> int:
    """A port that nobody has."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
