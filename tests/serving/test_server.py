"""Start rules, as a process of its own: the door, its exit code, and what it says."""

import http.server
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from rossmann.errors import GateRejectedError, PortInUseError, SettingsError
from rossmann.models.publishing.register import register
from rossmann.models.publishing.trained_model import TrainedModel
from rossmann.models.registry.registry import Registry
from rossmann.serving.client.client import Client
from rossmann.serving.server import bind
from rossmann.settings import Settings, load_settings
from tests.paths import ROOT

DOOR = ROOT / "deployment" / "api"
Start = Callable[..., subprocess.Popen[str]]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def folder(chain_settings: Settings, tmp_path: Path) -> Path:
    """A data folder with the small chain's tables and nothing else."""
    for name in ("demo", "processed"):
        (tmp_path / name).symlink_to(chain_settings.data_dir / name)
    return tmp_path


@pytest.fixture
def start(folder: Path) -> Iterator[Start]:
    """Starts the door with settings from keyword arguments; ends what still runs."""
    started: list[subprocess.Popen[str]] = []

    def make(**values: Any) -> subprocess.Popen[str]:
        named = {f"ROSSMANN_{name.upper()}": str(value) for name, value in values.items()}
        clean = {k: v for k, v in os.environ.items() if not k.startswith("ROSSMANN_")}
        process = subprocess.Popen(
            [sys.executable, "main.py"],
            cwd=DOOR,
            env={**clean, "ROSSMANN_DATA_DIR": str(folder), **named},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        started.append(process)
        return process

    yield make
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.fixture
def empty_registry() -> Iterator[str]:
    """The address of a server that has no model, as MLflow says it."""

    class Empty(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = b'{"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "not found"}'
            self.send_response(404)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET  # noqa: N815

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Empty)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


def wait_for(url: str, process: subprocess.Popen[str], wanted: Callable[[Any], bool]) -> Any:
    """The health that ``wanted`` accepts, as soon as it is told."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()[0]
        try:
            told = httpx.get(f"{url}/health", timeout=5, trust_env=False).json()
            if wanted(told):
                return told
        except httpx.HTTPError:
            pass
        time.sleep(0.05)
    raise AssertionError(f"{url} never said what was waited for")


def test_refuses_to_start_without_production(start: Start, empty_registry: str) -> None:
    process = start(mlflow_tracking_uri=empty_registry, api_port=free_port())
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "error: there is no Production version" in said
    assert "bash scripts/launch_dashboard.sh" in said and "Traceback" not in said


@pytest.mark.parametrize("workers", [1, 2])
def test_refuses_to_start_without_registry_and_copy(start: Start, workers: int) -> None:
    uri = f"http://127.0.0.1:{free_port()}"
    process = start(mlflow_tracking_uri=uri, api_port=free_port(), workers=workers)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "the registry is away" in said and "start_mlflow.sh" in said
    assert "Traceback" not in said


def test_refuses_nonsense_in_one_line(start: Start) -> None:
    for values in ({"api_keys": "hunter2"}, {"api_port": 0}, {"host": "no such host"}):
        process = start(**{"mlflow_tracking_uri": "http://127.0.0.1:1", **values})
        said, _ = process.communicate(timeout=120)
        assert process.returncode == 1 and said.count("error: ") == 1
        assert "hunter2" not in said and "Traceback" not in said


def test_a_taken_port_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(PortInUseError, match=f"port {port} .*ROSSMANN_API_PORT"):
            bind("127.0.0.1", port)
    with pytest.raises(SettingsError):
        bind("192.0.2.1", free_port())


def test_follows_the_registry_and_outlives_it(
    start: Start, folder: Path, trained: TrainedModel, mlflow_server: str
) -> None:
    settings = load_settings(data_dir=folder, mlflow_tracking_uri=mlflow_server)
    first = register(trained, settings).version
    second = register(trained, settings).version
    with Registry(mlflow_server) as registry:
        registry.promote(first, "the first", "test")
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    process = start(mlflow_tracking_uri=mlflow_server, api_port=port, reload_seconds=0.2)
    told = wait_for(url, process, lambda health: True)
    assert (told["status"], told["model_version"]) == ("healthy", first)
    with Client(url) as client:
        rows = [row.model_dump(mode="json", exclude={"scheduled"}) for row in client.plan(1).rows]
        before = client.predict(rows, intervals=[0.8])
        assert before.warnings == []
        with Registry(mlflow_server) as registry:
            registry.promote(second, "by another hand", "test")
        wait_for(url, process, lambda health: bool(health["model_version"] == second))
        assert client.predict(rows).predictions == before.predictions
        assert client.rollback("back").version == first
        assert client.health().model_version == first
        with pytest.raises(GateRejectedError, match=f"better than version {first}"):
            client.promote(second, "forth")  # it is the same model: no better
        assert client.promote(second, "forth", force=True).stage == "Production"
        assert client.predict(rows, stage=first).model_version == first
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=60)
    assert "open to all" in said and "Traceback" not in said

    away = f"http://127.0.0.1:{free_port()}"
    process = start(mlflow_tracking_uri=away, api_port=port)
    told = wait_for(url, process, lambda health: True)
    assert (told["status"], told["model_version"]) == ("degraded", second)
    assert told["registry"] == "away" and "the registry is away" in told["reason"]
    with Client(url) as client:
        assert client.predict(rows).predictions == before.predictions
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 0 and "Traceback" not in said


def test_several_workers(
    start: Start, folder: Path, trained: TrainedModel, mlflow_server: str
) -> None:
    settings = load_settings(data_dir=folder, mlflow_tracking_uri=mlflow_server)
    version = register(trained, settings).version
    with Registry(mlflow_server) as registry:
        registry.promote(version, "", "test")
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    process = start(mlflow_tracking_uri=mlflow_server, api_port=port, workers=2)
    assert wait_for(url, process, lambda health: True)["model_version"] == version
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=60)
    assert "Traceback" not in said
    with pytest.raises(httpx.ConnectError):
        httpx.get(url, trust_env=False)
