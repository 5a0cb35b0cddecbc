"""The health check inside of the container images."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from tests.paths import ROOT

FOLDER = ROOT / "deployment" / "docker"


@pytest.fixture
def server() -> Iterator[HTTPServer]:
    """Answers 200 below ``/base/health/ready`` and 503 elsewhere."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/base/health/ready" else 503)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Nothing."""

    running = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    yield running
    running.shutdown()


@pytest.mark.parametrize(("base", "code"), [("/base", 0), ("", 1)])
def test_health_check_asks_on_the_port_and_below_the_base_path(
    server: HTTPServer, base: str, code: int
) -> None:
    variables = {"ROSSMANN_API_PORT": str(server.server_port), "ROSSMANN_API_BASE_PATH": base}
    done = subprocess.run(
        [sys.executable, FOLDER / "healthcheck.py", "api"],
        env={**os.environ, **variables, "http_proxy": "http://127.0.0.1:9"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stderr
    assert "503" in done.stderr or code == 0


def test_health_check_of_an_unknown_service_is_an_error() -> None:
    done = subprocess.run(
        [sys.executable, FOLDER / "healthcheck.py", "grafana"], capture_output=True, check=False
    )
    assert done.returncode == 2
