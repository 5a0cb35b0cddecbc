"""The verb docs: builds into the data folder or another, and says what hinders it."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.request import urlopen

import pytest

from rossmann.cli import main
from tests.fixtures.launches import free_port
from tests.paths import ROOT


def test_site_is_built_into_the_data_folder_or_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ROSSMANN_DATA_DIR", str(tmp_path / "data"))
    assert main(["docs", "--build"]) == 0
    assert (tmp_path / "data" / "documentation" / "index.html").is_file()
    assert "built" in capsys.readouterr().out
    assert main(["docs", "--build"]) == 0
    assert "up to date" in capsys.readouterr().out
    assert main(["docs", "-o", str(tmp_path / "public")]) == 0
    assert (tmp_path / "public" / "llms.txt").is_file()
    assert main(["docs", "-o", str(ROOT / "tests")]) == 1
    assert "other files" in capsys.readouterr().err


def test_site_is_served_until_ctrl_c(tmp_path: Path) -> None:
    port = free_port()
    environment = os.environ | {"ROSSMANN_DATA_DIR": str(tmp_path), "ROSSMANN_DOCS_PORT": str(port)}
    command = [sys.executable, "-m", "rossmann.cli", "docs"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 120
        served = False
        while not served and time.monotonic() < deadline and process.poll() is None:
            try:
                with urlopen(f"http://127.0.0.1:{port}/deployment/overview/", timeout=5) as page:
                    served = b"<h1" in page.read()
            except OSError:
                time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        output = process.communicate(timeout=30)[0]
    assert served
    assert f":{port}/" in output
    assert process.returncode in {0, 130}


def test_taken_port_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ROSSMANN_DATA_DIR", str(tmp_path))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        monkeypatch.setenv("ROSSMANN_DOCS_PORT", str(taken.getsockname()[1]))
        assert main(["docs"]) == 1
    assert "ROSSMANN_DOCS_PORT" in capsys.readouterr().err
