"""The embedded MLflow server as a process: it ends on a signal, and prints why it cannot start."""

import http.client
import os
import re
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import sqlalchemy as sa
from mlflow.server.security_utils import is_allowed_host_header

from rossmann.addresses import sqlite_url
from rossmann.errors import SettingsError
from rossmann.launcher import mlflow_server as server_module
from rossmann.launcher.mlflow_server import allowed_hosts, server_command, server_environment
from rossmann.models.publishing.register import register
from rossmann.models.publishing.trained_model import TrainedModel
from rossmann.models.registry.registry import Registry
from rossmann.settings import Settings, load_settings
from tests.fixtures.networks import ODD_NAME, free_port, mlflow_variables


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
    for path in (settings.mlflow_dir, *settings.mlflow_dir.rglob("*")):
        assert path.stat().st_mode & 0o077 == 0, path


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
    ("revision", "words"),
    [
        ("ffff00001111", ["newer MLflow", "ffff00001111", "ROSSMANN_DATA_DIR"]),
        pytest.param(
            "451aebb31d03",
            ["older MLflow", "-m mlflow db upgrade sqlite+pysqlite:///"],
            marks=pytest.mark.nightly,
        ),
    ],
    ids=["newer", "older"],
)
def test_database_of_another_mlflow_is_named_as_newer_or_older(
    revision: str, words: list[str], settings: Settings
) -> None:
    """A real database, whose schema version is another release's."""
    first = start(settings)
    assert first.stderr is not None
    assert any("Uvicorn running" in line for line in iter(first.stderr.readline, ""))
    first.send_signal(signal.SIGTERM)
    first.communicate(timeout=30)
    engine = sa.create_engine(sqlite_url(settings.mlflow_dir / "mlflow.db"))
    with engine.begin() as connection:
        update = f"UPDATE alembic_version SET version_num = '{revision}'"
        assert connection.exec_driver_sql(update).rowcount == 1
    engine.dispose()
    server = start(settings)
    _, error = server.communicate(timeout=120)
    assert server.returncode == 1
    last = error.splitlines()[-1]
    assert last.startswith("error: the database sqlite+pysqlite:///")
    assert all(word in last for word in words), last
    assert "Traceback" not in error


@pytest.mark.nightly
def test_data_folder_of_any_name_holds_database_and_artifacts(
    running_mlflow: Callable[[Path, dict[str, str]], AbstractContextManager[str]],
    trained: TrainedModel,
    tmp_path: Path,
) -> None:
    folder = tmp_path / ODD_NAME
    folder.mkdir()
    with running_mlflow(folder, {}) as uri:
        version = register(trained, load_settings(mlflow_tracking_uri=uri), "odd-folder")
        with Registry(uri, "odd-folder") as registry:
            copy = registry.fetch(version.version, tmp_path / "copies")
        assert (copy / "ensemble.json").is_file()
    assert (folder / "mlflow" / "mlflow.db").stat().st_size > 0
    assert list((folder / "mlflow" / "artifacts").rglob("ensemble.json"))
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([ODD_NAME, "copies"])
    assert sorted(path.name for path in folder.iterdir()) == ["mlflow", "server.log"]


@pytest.mark.usefixtures("ipv6")
@pytest.mark.parametrize("host", ["::", pytest.param("::1", marks=pytest.mark.nightly)])
def test_server_listens_on_ipv6(host: str, tmp_path: Path) -> None:
    settings = load_settings(
        data_dir=tmp_path, host=host, mlflow_port=free_port("::1"), mlflow_tracking_uri=""
    )
    server = start(settings)
    try:
        assert server.stderr is not None
        lines = iter(server.stderr.readline, "")
        assert any("Uvicorn running" in line for line in lines)
        with Registry(settings.tracking_uri) as registry:
            registry.ping()
            assert registry.versions() == []
        if host == "::":
            with Registry(f"http://127.0.0.1:{settings.mlflow_port}") as registry:
                registry.ping()
    finally:
        server.send_signal(signal.SIGTERM)
        server.communicate(timeout=30)


@pytest.mark.parametrize(
    ("host", "allowed", "denied"),
    [
        ("127.0.0.1", ["localhost", "localhost:5000", "127.0.0.1:5000"], ["10.1.2.3", "evil"]),
        ("::1", ["[::1]", "[::1]:5000"], ["::1"]),
        ("registry.example", ["registry.example:5000", "localhost:5000"], ["a.registry.example"]),
        ("0.0.0.0", [os.uname().nodename, f"{os.uname().nodename}:5000"], ["10.evil.example"]),
        ("0.0.0.0", ["127.0.0.1:5000"], ["192.168.evil.example:5000", "172.16.evil.example"]),
    ],
)
def test_allowed_hosts(host: str, allowed: list[str], denied: list[str]) -> None:
    """By MLflow's own check."""
    hosts = allowed_hosts(host, 5000).split(",")
    assert all(is_allowed_host_header(hosts, name) for name in allowed)
    assert not any(is_allowed_host_header(hosts, name) for name in denied)
    assert not any("*" in name for name in hosts)


def test_allowed_hosts_of_every_address_are_those_that_this_machine_has() -> None:
    hosts = allowed_hosts("0.0.0.0", 5000).split(",")
    for addresses in psutil.net_if_addrs().values():
        for item in addresses:
            if item.family == socket.AF_INET:
                assert {item.address, f"{item.address}:5000"} <= set(hosts)


def test_allowed_hosts_can_be_configured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_SERVER_ALLOWED_HOSTS", "mlflow.example, *.corp.example")
    hosts = allowed_hosts("127.0.0.1", 5000, ["forecasts.example"]).split(",")
    for name in ("mlflow.example", "mlflow.example:5000", "a.corp.example:5000", "127.0.0.1:5000",
                 "forecasts.example:5000"):  # fmt: skip
        assert is_allowed_host_header(hosts, name), name
    assert not is_allowed_host_header(hosts, "corp.example.evil.example")


@pytest.mark.parametrize("pattern", ["*", "10.*", "a,192.168.*", "*.1", "*:5000", "mlflow*", "*.*"])
def test_patterns_that_names_of_others_fit_are_refused(
    pattern: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_SERVER_ALLOWED_HOSTS", pattern)
    with pytest.raises(SettingsError, match="MLFLOW_SERVER_ALLOWED_HOSTS"):
        allowed_hosts("127.0.0.1", 5000)


def test_variables_of_another_server_do_not_matter(running_mlflow: Any, tmp_path: Path) -> None:
    """They would choose another database, another URL, or end the server."""
    own = server_environment(load_settings(data_dir=tmp_path))
    others = {name: value for name, value in mlflow_variables().items() if name not in own}
    with running_mlflow(tmp_path, {**others, "WEB_CONCURRENCY": "auto"}) as uri:
        assert httpx.get(f"{uri}/health", trust_env=False).text == "OK"
    assert (tmp_path / "mlflow" / "mlflow.db").is_file()


def test_variables_are_those_that_mlflow_reads() -> None:
    from mlflow.server import constants

    assert server_module._BACKEND == constants.BACKEND_STORE_URI_ENV_VAR
    assert server_module._ARTIFACT_ROOT == constants.ARTIFACT_ROOT_ENV_VAR
    assert server_module._ARTIFACT_FOLDER == constants.ARTIFACTS_DESTINATION_ENV_VAR
    assert server_module._SERVE_ARTIFACTS == constants.SERVE_ARTIFACTS_ENV_VAR


@pytest.mark.parametrize(
    ("host", "code"),
    [("localhost", 200), ("evil.example", 403), ("10.evil.example", 403), ("10.1.2.3", 403)],
)
def test_unknown_host_header_is_refused(mlflow_server: str, host: str, code: int) -> None:
    port = mlflow_server.rsplit(":", 1)[1]
    response = httpx.get(
        f"{mlflow_server}/api/2.0/mlflow/registered-models/search",
        headers={"Host": f"{host}:{port}"},
        trust_env=False,
        timeout=30,
    )
    assert response.status_code == code


@pytest.mark.parametrize(
    ("origin", "code"),
    [("http://localhost:1", 403), ("http://127.0.0.1:3000", 403), ("null", 403),
     ("http://evil.example", 403), ("own", 200), ("", 200)],
)  # fmt: skip
def test_page_of_another_origin_cannot_write(origin: str, code: int, mlflow_server: str) -> None:
    """MLflow itself lets every page on localhost set tags and overwrite artifacts."""
    headers = {"Origin": mlflow_server if origin == "own" else origin} if origin else {}
    with httpx.Client(base_url=mlflow_server, trust_env=False, timeout=30) as client:
        path = "/api/2.0/mlflow-artifacts/artifacts/9/models/m-1/artifacts/pyfunc.py"
        assert client.put(path, content=b"import os", headers=headers).status_code == code
        fields = {"name": f"by a page {origin or 'of none'}"}
        path = "/api/2.0/mlflow/registered-models/create"
        assert client.post(path, json=fields, headers=headers).status_code == code
        assert client.get("/health", headers=headers).status_code == 200


def mlflow_rules() -> list[Any]:
    """MLflow's own table of pages."""
    from mlflow.server import app

    return list(app.url_map.iter_rules())


def runs_or_sends(rule: Any) -> bool:
    """By the name of the handler, where the product goes by the path."""
    handler = str(rule.endpoint).lower()
    if "webhook" in handler:
        return any(word in handler for word in ("create", "update", "test"))
    return any(word in handler for word in ("gateway", "job", "invoke", "promptlab", "budget"))


@pytest.fixture(scope="module")
def refused_paths() -> list[tuple[str, str]]:
    """Method and path of every route that runs programs or sends requests."""
    from mlflow.server.assistant.api import assistant_router
    from mlflow.server.gateway_api import gateway_router
    from mlflow.server.job_api import job_api_router

    pages = [(rule.methods, rule.rule) for rule in mlflow_rules() if runs_or_sends(rule)]
    routers = (assistant_router, gateway_router, job_api_router)
    routes = [(route.methods, route.path) for router in routers for route in router.routes]
    found = [
        (method, re.sub(r"<[^>]*>|{[^}]*}", "7", path))
        for methods, path in [*pages, *routes]
        for method in sorted(methods - {"OPTIONS", "HEAD"})
    ]
    assert len({path for _, path in found}) > 80
    return found


def test_routes_that_run_programs_or_send_requests_are_refused(
    mlflow_server: str, refused_paths: list[tuple[str, str]]
) -> None:
    with httpx.Client(base_url=mlflow_server, trust_env=False, timeout=30) as client:
        for method, path in refused_paths:
            response = client.request(method, path, json={})
            assert response.status_code == 403, (method, path, response.text)
            assert "no assistant, gateway, jobs and webhooks" in response.json()["message"]


@pytest.mark.parametrize(
    "path",
    [
        "/ajax-api/3.0/mlflow/%61ssistant/config",
        "/ajax-api/3.0/mlflow%2Fassistant/config",
        "//ajax-api/3.0/mlflow/assistant/config",
        "/ajax-api/3.0/mlflow/assistant/config/",
        "/ajax-api/3.0/mlflow/assistant/config?a=/health",
        "/ajax-api/3.0/mlflow/runs/../assistant/config",
        "/ajax-api/2.0/mlflow/%67ateway-proxy?gateway_path=x",
        "//ajax-api//2.0/mlflow/gateway-proxy",
        "/gateway/7/mlflow/invocations;a=b",
        "/static-prefix/ajax-api/3.0/mlflow/assistant/config",
    ],
)
def test_no_spelling_of_a_path_reaches_a_refused_route(mlflow_server: str, path: str) -> None:
    """Sent as it stands, which an HTTP client would not do."""
    host, port = mlflow_server.removeprefix("http://").split(":")
    with closing(http.client.HTTPConnection(host, int(port), timeout=30)) as connection:
        for method in ("GET", "PUT", "POST"):
            connection.request(method, path, b"{}", {"Content-Type": "application/json"})
            response = connection.getresponse()
            response.read()
            assert response.status in {307, 308, 403, 404, 405}, (method, response.status)


def test_pages_for_runs_and_versions_are_not_refused() -> None:
    """No handler of a refused route serves another one."""
    refused = {rule.endpoint for rule in mlflow_rules() if runs_or_sends(rule)}
    words = ("gateway", "jobs", "invoke", "promptlab", "webhooks")
    kept = {rule.endpoint for rule in mlflow_rules() if not any(w in rule.rule for w in words)}
    assert not refused & kept
