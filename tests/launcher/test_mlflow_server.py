"""The embedded MLflow server as a process: it ends when told, and says in a line why it cannot."""

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
def mine(tmp_path: Path) -> Iterator[Settings]:
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


def test_it_ends_when_told_and_leaves_nobody_behind(mine: Settings) -> None:
    server = start(mine)
    assert server.stderr is not None
    lines = iter(server.stderr.readline, "")
    assert any("Uvicorn running" in line for line in lines)
    assert psutil.Process(server.pid).children(recursive=True) == []
    server.send_signal(signal.SIGTERM)
    server.communicate(timeout=30)
    assert server.returncode in {0, -signal.SIGTERM}
    assert (mine.mlflow_dir / "mlflow.db").stat().st_size > 0


def test_a_taken_port_is_told_in_a_line(mine: Settings) -> None:
    with socket.socket() as stranger:
        stranger.bind((mine.host, mine.mlflow_port))
        stranger.listen()
        server = start(mine)
        _, told = server.communicate(timeout=120)
    assert server.returncode == 1
    assert told.startswith("error: ")
    assert "ROSSMANN_MLFLOW_PORT" in told
    assert told.count("\n") == 1
    assert not mine.mlflow_dir.exists()


def test_a_broken_database_is_told_in_a_line(mine: Settings) -> None:
    mine.mlflow_dir.mkdir(parents=True)
    (mine.mlflow_dir / "mlflow.db").write_bytes(b"no database " * 500)
    server = start(mine)
    _, told = server.communicate(timeout=120)
    assert server.returncode == 1
    assert "error: MLflow cannot use its database" in told
    assert "Traceback" not in told


@pytest.mark.parametrize(
    ("host", "there", "away"),
    [
        ("127.0.0.1", ["localhost", "localhost:5000", "127.0.0.1:5000"], ["10.*", "*"]),
        ("::1", ["[::1]", "[::1]:5000"], ["::1"]),
        ("registry.example", ["registry.example:5000", "localhost:5000"], ["*"]),
        ("0.0.0.0", ["10.*", "192.168.*", "172.16.*", os.uname().nodename], ["172.15.*", "*"]),
    ],
)
def test_hosts_that_are_answered(host: str, there: list[str], away: list[str]) -> None:
    hosts = allowed_hosts(host, 5000).split(",")
    assert set(there) <= set(hosts)
    assert not set(away) & set(hosts)


def test_hosts_can_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_SERVER_ALLOWED_HOSTS", "mlflow.example")
    assert allowed_hosts("127.0.0.1", 5000) == "mlflow.example"


def test_the_servers_variables_are_those_that_mlflow_reads() -> None:
    from mlflow.server import constants

    assert server_module._BACKEND == constants.BACKEND_STORE_URI_ENV_VAR
    assert server_module._ARTIFACT_ROOT == constants.ARTIFACT_ROOT_ENV_VAR
    assert server_module._ARTIFACT_FOLDER == constants.ARTIFACTS_DESTINATION_ENV_VAR
    assert server_module._SERVE_ARTIFACTS == constants.SERVE_ARTIFACTS_ENV_VAR


@pytest.mark.parametrize(("host", "code"), [("localhost", 200), ("evil.example", 403)])
def test_only_known_hosts_are_answered(mlflow_server: str, host: str, code: int) -> None:
    port = mlflow_server.rsplit(":", 1)[1]
    answer = httpx.get(
        f"{mlflow_server}/api/2.0/mlflow/registered-models/search",
        headers={"Host": f"{host}:{port}"},
        trust_env=False,
        timeout=30,
    )
    assert answer.status_code == code
