"""The embedded MLflow server as a process: it ends on a signal, and prints why it cannot start."""

import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from rossmann.launcher import mlflow_server as server_module
from rossmann.launcher.mlflow_server import allowed_hosts, server_command, server_environment
from rossmann.settings import Settings, load_settings


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[Settings]:
    """Settings with a port of their own."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    yield load_settings(data_dir=tmp_path, mlflow_port=port)


def start(settings: Settings) -> subprocess.Popen[str]:
    return subprocess.Popen(
        server_command(settings),
        env={**os.environ, **server_environment(settings)},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def test_sigterm_ends_the_server_and_its_children(settings: Settings) -> None:
    server = start(settings)
    assert server.stderr is not None
    lines = iter(server.stderr.readline, "")
    assert any("Uvicorn running" in line for line in lines)
    assert psutil.Process(server.pid).children(recursive=True) == []
    server.send_signal(signal.SIGTERM)
    server.communicate(timeout=30)
    assert server.returncode in {0, -signal.SIGTERM}
    assert (settings.mlflow_dir / "mlflow.db").stat().st_size > 0


def test_taken_port_is_a_one_line_error(settings: Settings) -> None:
    with socket.socket() as holder:
        holder.bind((settings.host, settings.mlflow_port))
        holder.listen()
        server = start(settings)
        _, error = server.communicate(timeout=120)
    assert server.returncode == 1
    assert error.startswith("error: ")
    assert "ROSSMANN_MLFLOW_PORT" in error
    assert error.count("\n") == 1
    assert not settings.mlflow_dir.exists()


def test_broken_database_is_a_one_line_error(settings: Settings) -> None:
    settings.mlflow_dir.mkdir(parents=True)
    (settings.mlflow_dir / "mlflow.db").write_bytes(b"no database " * 500)
    server = start(settings)
    _, error = server.communicate(timeout=120)
    assert server.returncode == 1
    assert "error: MLflow cannot use its database" in error
    assert "Traceback" not in error


@pytest.mark.parametrize(
    ("host", "allowed", "denied"),
    [
        ("127.0.0.1", ["localhost", "localhost:5000", "127.0.0.1:5000"], ["10.*", "*"]),
        ("::1", ["[::1]", "[::1]:5000"], ["::1"]),
        ("registry.example", ["registry.example:5000", "localhost:5000"], ["*"]),
        ("0.0.0.0", ["10.*", "192.168.*", "172.16.*", os.uname().nodename], ["172.15.*", "*"]),
    ],
)
def test_allowed_hosts(host: str, allowed: list[str], denied: list[str]) -> None:
    hosts = allowed_hosts(host, 5000).split(",")
    assert set(allowed) <= set(hosts)
    assert not set(denied) & set(hosts)


def test_allowed_hosts_can_be_configured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_SERVER_ALLOWED_HOSTS", "mlflow.example")
    assert allowed_hosts("127.0.0.1", 5000) == "mlflow.example"


def test_variables_are_those_that_mlflow_reads() -> None:
    from mlflow.server import constants

    assert server_module._BACKEND == constants.BACKEND_STORE_URI_ENV_VAR
    assert server_module._ARTIFACT_ROOT == constants.ARTIFACT_ROOT_ENV_VAR
    assert server_module._ARTIFACT_FOLDER == constants.ARTIFACTS_DESTINATION_ENV_VAR
    assert server_module._SERVE_ARTIFACTS == constants.SERVE_ARTIFACTS_ENV_VAR


@pytest.mark.parametrize(("host", "code"), [("localhost", 200), ("evil.example", 403)])
def test_unknown_host_header_is_refused(mlflow_server: str, host: str, code: int) -> None:
    port = mlflow_server.rsplit(":", 1)[1]
    response = httpx.get(
        f"{mlflow_server}/api/2.0/mlflow/registered-models/search",
        headers={"Host": f"{host}:{port}"},
        trust_env=False,
        timeout=30,
    )
    assert response.status_code == code
