"""Command and environment of the dashboard's server, and imports of its pages."""

import os
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from rossmann.dashboard import server
from rossmann.settings import load_settings
from tests.fixtures.networks import free_port
from tests.paths import ROOT


def test_server_command_has_host_port_and_script(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROSSMANN_DASHBOARD_PORT", "18765")
    command = server.server_command(load_settings())
    assert command[0] == sys.executable
    assert Path(command[command.index("run") + 1]).is_file()
    assert "--server.port=18765" in command
    assert "--server.address=127.0.0.1" in command


def test_server_environment_has_the_service_url(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROSSMANN_API_PORT", "18766")
    environment = server.server_environment(load_settings())
    assert environment["ROSSMANN_API_URL"] == "http://127.0.0.1:18766"


def test_variables_of_another_app_do_not_matter(tmp_path: Path) -> None:
    """They would serve by TLS, elsewhere, or not at all."""
    settings = load_settings(data_dir=tmp_path, dashboard_port=free_port())
    variables = {
        "STREAMLIT_SERVER_PORT": "1",
        "STREAMLIT_SERVER_ADDRESS": "192.0.2.1",
        "STREAMLIT_SERVER_SSL_CERT_FILE": "/nowhere/certificate.pem",
        "STREAMLIT_SERVER_SSL_KEY_FILE": "/nowhere/key.pem",
        "STREAMLIT_GLOBAL_DEVELOPMENT_MODE": "true",
        "WEB_CONCURRENCY": "auto",
    }
    environment = {**os.environ, **variables, **server.server_environment(settings)}
    # As the launcher does, with the variables that the server's own environment has, too.
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            server.server_command(settings), env=environment, stdout=log, stderr=log
        )
    try:
        deadline = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < deadline:
            with suppress(httpx.HTTPError):
                if httpx.get(server.health_url(settings), trust_env=False).is_success:
                    break
            time.sleep(0.1)
        assert httpx.get(server.health_url(settings), trust_env=False).is_success
        # DNS rebinding: a page of another site, whose name leads to this machine.
        for host, code in (("127.0.0.1", 101), ("localhost", 101), ("evil.example", 403)):
            assert open_session(settings.dashboard_port, host) == code, host
    finally:
        process.terminate()
        process.wait(30)


def open_session(port: int, host: str) -> int:
    """Status code of a WebSocket connection for a page under ``host``."""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall(
            f"GET /_stcore/stream HTTP/1.1\r\nHost: {host}:{port}\r\n"
            f"Origin: http://{host}:{port}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            "Sec-WebSocket-Version: 13\r\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode()
        )
        return int(connection.recv(4_096).split()[1])


def test_both_scripts_have_a_streamlit_configuration() -> None:
    for folder in (ROOT / "deployment" / "streamlit", Path(server.__file__).parent):
        config = (folder / ".streamlit" / "config.toml").read_text()
        assert "gatherUsageStats = false" in config
        assert 'showErrorDetails = "none"' in config
        assert 'address = "127.0.0.1"' in config
        assert 'allowedHosts = ["localhost", "127.0.0.1", "::1"]' in config


def test_pages_import_neither_mlflow_nor_boosters() -> None:
    code = (
        "import sys, rossmann.dashboard.app\n"
        "heavy = {'mlflow', 'lightgbm', 'xgboost', 'catboost', 'numba', 'fastapi', 'sklearn'}\n"
        "imported = heavy & set(sys.modules)\n"
        "sys.exit(', '.join(sorted(imported)) or 0)"
    )
    process = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert process.returncode == 0, process.stderr[-500:]
