"""The service as a process: start-up rules, exit codes and log output."""

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
from structlog.testing import capture_logs

from rossmann.errors import GateRejectedError, PortInUseError, SettingsError
from rossmann.models.publishing.register import register
from rossmann.models.publishing.trained_model import TrainedModel
from rossmann.models.registry.registry import Registry
from rossmann.serving.client.client import Client
from rossmann.serving.server import bind, log_access_policy
from rossmann.settings import Settings, load_settings
from tests.paths import ROOT

API_FOLDER = ROOT / "deployment" / "api"
Start = Callable[..., subprocess.Popen[str]]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def data_folder(chain_settings: Settings, tmp_path: Path) -> Path:
    """A data folder with the small chain's tables and nothing else."""
    for name in ("demo", "processed"):
        (tmp_path / name).symlink_to(chain_settings.data_dir / name)
    return tmp_path


@pytest.fixture
def start(data_folder: Path) -> Iterator[Start]:
    """Starts the service with settings from keyword arguments; ends it after the test."""
    started: list[subprocess.Popen[str]] = []

    def run(**values: Any) -> subprocess.Popen[str]:
        variables = {f"ROSSMANN_{name.upper()}": str(value) for name, value in values.items()}
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("ROSSMANN_")}
        process = subprocess.Popen(
            [sys.executable, "main.py"],
            cwd=API_FOLDER,
            env={**inherited, "ROSSMANN_DATA_DIR": str(data_folder), **variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        started.append(process)
        return process

    yield run
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.fixture
def empty_registry() -> Iterator[str]:
    """URL of a server that responds like an MLflow without models."""

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


def wait_for(url: str, process: subprocess.Popen[str], accepts: Callable[[Any], bool]) -> Any:
    """Poll ``/health`` until ``accepts`` is true; returns the last body."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()[0]
        try:
            health = httpx.get(f"{url}/health", timeout=5, trust_env=False).json()
            if accepts(health):
                return health
        except httpx.HTTPError:
            pass
        time.sleep(0.05)
    raise AssertionError(f"{url} never reported the expected health")


def test_start_without_production_version_exits_with_1(start: Start, empty_registry: str) -> None:
    process = start(mlflow_tracking_uri=empty_registry, api_port=free_port())
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "error: there is no Production version" in output
    assert "rossmann up" in output and "Traceback" not in output


@pytest.mark.parametrize("workers", [1, 2])
def test_start_without_registry_and_local_copy_exits_with_1(start: Start, workers: int) -> None:
    uri = f"http://127.0.0.1:{free_port()}"
    process = start(mlflow_tracking_uri=uri, api_port=free_port(), workers=workers)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "the registry is away" in output and "rossmann mlflow" in output
    assert "Traceback" not in output


def test_invalid_setting_exits_with_one_error_line(start: Start) -> None:
    for values in ({"api_keys": "hunter2"}, {"api_port": 0}, {"host": "no such host"}):
        process = start(**{"mlflow_tracking_uri": "http://127.0.0.1:1", **values})
        output, _ = process.communicate(timeout=120)
        assert process.returncode == 1 and output.count("error: ") == 1
        assert "hunter2" not in output and "Traceback" not in output


def test_port_in_use_is_named_in_the_error() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(PortInUseError, match=f"port {port} .*ROSSMANN_API_PORT"):
            bind("127.0.0.1", port)
    with pytest.raises(SettingsError):
        bind("192.0.2.1", free_port())


@pytest.mark.usefixtures("ipv6")
@pytest.mark.parametrize(
    ("host", "reached", "missed"),
    [("::1", ["::1"], ["127.0.0.1"]), ("::", ["::1", "127.0.0.1"], [])],
)
def test_server_listens_on_ipv6(host: str, reached: list[str], missed: list[str]) -> None:
    with bind(host, 0) as listener:
        listener.listen()
        port = listener.getsockname()[1]
        for address in reached:
            socket.create_connection((address, port), timeout=5).close()
        for address in missed:
            with pytest.raises(OSError):
                socket.create_connection((address, port), timeout=5)


def test_service_follows_the_registry_and_survives_its_outage(
    start: Start, data_folder: Path, trained: TrainedModel, mlflow_server: str
) -> None:
    settings = load_settings(data_dir=data_folder, mlflow_tracking_uri=mlflow_server)
    first = register(trained, settings).version
    second = register(trained, settings).version
    with Registry(mlflow_server) as registry:
        registry.promote(first, "the first", "test")
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    process = start(mlflow_tracking_uri=mlflow_server, api_port=port, reload_seconds=0.2)
    health = wait_for(url, process, lambda _: True)
    assert (health["status"], health["model_version"]) == ("healthy", first)
    with Client(url) as client:
        rows = [row.model_dump(mode="json", exclude={"scheduled"}) for row in client.plan(1).rows]
        before = client.predict(rows, intervals=[0.8])
        assert before.warnings == []
        with Registry(mlflow_server) as registry:
            registry.promote(second, "by another process", "test")
        wait_for(url, process, lambda body: bool(body["model_version"] == second))
        assert client.predict(rows).predictions == before.predictions
        assert client.rollback("back").version == first
        assert client.health().model_version == first
        with pytest.raises(GateRejectedError, match=f"better than version {first}"):
            client.promote(second, "forth")  # the same model is no better
        assert client.promote(second, "forth", force=True).stage == "Production"
        assert client.predict(rows, stage=first).model_version == first
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert "open to all" in output and "Traceback" not in output

    unreachable = f"http://127.0.0.1:{free_port()}"
    process = start(mlflow_tracking_uri=unreachable, api_port=port)
    health = wait_for(url, process, lambda _: True)
    assert (health["status"], health["model_version"]) == ("degraded", second)
    assert health["registry"] == "away" and "the registry is away" in health["reason"]
    with Client(url) as client:
        assert client.predict(rows).predictions == before.predictions
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0 and "Traceback" not in output


def test_two_workers_start_and_stop_cleanly(
    start: Start, data_folder: Path, trained: TrainedModel, mlflow_server: str
) -> None:
    settings = load_settings(data_dir=data_folder, mlflow_tracking_uri=mlflow_server)
    version = register(trained, settings).version
    with Registry(mlflow_server) as registry:
        registry.promote(version, "", "test")
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    process = start(mlflow_tracking_uri=mlflow_server, api_port=port, workers=2)
    assert wait_for(url, process, lambda _: True)["model_version"] == version
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert "Traceback" not in output
    with pytest.raises(httpx.ConnectError):
        httpx.get(url, trust_env=False)


LONG = b"x" * 2**21


@pytest.mark.parametrize(
    ("head", "answer"),
    [
        (b"GET /health HTTP/1.1\r\nHost: localhost\r\nX-A: " + LONG, b"HTTP/1.1 431 "),
        (b"GET /health HTTP/1.1\r\nHost: localhost\r\n" + LONG, b"HTTP/1.1 431 "),
        (b"GET /health HTTP/1.1\r\nHost: localhost\r\n" + b"X-A: b\r\n" * 2**18, b"HTTP/1.1 431 "),
        (b"GET /health?" + LONG, b"HTTP/1.1 431 "),
        # Trailers, and the extension of a chunk, of a body that a request waits for.
        (b"POST /predict HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
         b"1\r\n{\r\n0\r\nX-A: " + LONG, b""),
        (b"POST /predict HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n1;"
         + LONG, b""),
        # Whole, in one read of the server's.
        (b"GET /health HTTP/1.1\r\nHost: localhost\r\nX-A: " + b"x" * 70_000 + b"\r\n\r\n",
         b"HTTP/1.1 431 "),
        (b"GET /health HTTP/1.1\r\nHost: localhost\r\nX-A: " + b"x" * 60_000 + b"\r\n\r\n",
         b"HTTP/1.1 200 "),
    ],
    ids=["value", "name", "many", "url", "trailer", "chunk extension", "whole", "short enough"],
)  # fmt: skip
def test_headers_are_bounded(api_url: str, head: bytes, answer: bytes) -> None:
    address = ("127.0.0.1", int(api_url.rpartition(":")[2]))
    with socket.create_connection(address, timeout=20) as connection:
        response = b""
        try:
            connection.sendall(head)
            while not response.endswith(b"}") and (part := connection.recv(4_096)):
                response += part
        except ConnectionError:  # closed, with bytes that nobody has read
            pass
    assert response.startswith(answer) or (len(head) > 2**20 and not response)
    with httpx.Client(base_url=api_url, trust_env=False) as client:
        large = client.post("/predict", content=b" " * 2**20)
        assert (large.status_code, client.get("/health").status_code) == (422, 200)


@pytest.fixture
def api_url(make_app: Any, live: Any) -> Iterator[str]:
    with live(make_app()) as url:
        yield url


@pytest.mark.parametrize(
    ("proxies", "warned"),
    [("*", "*"), ("192.0.2.1, *", "*"), ("0.0.0.0/0", "0.0.0.0/0"), ("::/0", "::/0"),
     ("192.0.2.1", ""), ("10.0.0.0/8, ::1", ""), ("proxy.example", ""), ("", "")],
)  # fmt: skip
def test_trust_in_every_proxy_is_warned_of_at_each_start(
    proxies: str, warned: str, tmp_path: Path
) -> None:
    for _ in range(2):
        with capture_logs() as events:
            log_access_policy(load_settings(data_dir=tmp_path, trusted_proxies=proxies))
        message = f"ROSSMANN_TRUSTED_PROXIES={warned} believes"
        assert any(message in event["event"] for event in events) == bool(warned)
