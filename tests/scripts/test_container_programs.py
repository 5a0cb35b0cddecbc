"""The small programs inside of the container images: archive and health check."""

import io
import os
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from tests.paths import ROOT

FOLDER = ROOT / "deployment" / "docker"


def run_archive(*arguments: object, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, FOLDER / "archive.py", *map(str, arguments)]
    return subprocess.run(command, input=stdin, capture_output=True, check=False)


def test_archive_comes_back_as_it_was(tmp_path: Path) -> None:
    data, restored = tmp_path / "data", tmp_path / "restored"
    (data / "mlflow" / "1").mkdir(parents=True)
    (data / "mlflow" / "1" / "file").write_bytes(os.urandom(100_000))
    (data / "raw").mkdir()
    (data / "raw" / "train.csv").write_text("licensed")
    restored.mkdir()
    packed = run_archive("create", data, "--exclude", "raw")
    assert packed.returncode == 0, packed.stderr
    assert run_archive("extract", restored, stdin=packed.stdout).returncode == 0
    assert [path.name for path in restored.iterdir()] == ["mlflow"]
    for path in (data / "mlflow").rglob("*"):
        copied = restored / path.relative_to(data)
        assert not path.is_file() or copied.read_bytes() == path.read_bytes()


def test_parts_are_packed_alone(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    packed = run_archive("create", tmp_path, "two")
    with tarfile.open(fileobj=io.BytesIO(packed.stdout)) as archive:
        assert archive.getnames() == ["two"]


def test_a_file_that_is_gone_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "here").write_text("x")
    packed = run_archive("create", tmp_path, "gone", "here")
    assert packed.returncode == 0, packed.stderr
    with tarfile.open(fileobj=io.BytesIO(packed.stdout)) as archive:
        assert archive.getnames() == ["here"]


def test_an_archive_that_leads_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as archive:
        archive.addfile(tarfile.TarInfo("../outside"))
    target = tmp_path / "target"
    target.mkdir()
    assert run_archive("extract", target, stdin=content.getvalue()).returncode != 0
    assert not (tmp_path / "outside").exists()


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
