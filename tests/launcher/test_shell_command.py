"""The command line that messages print."""

import subprocess
import sys
from pathlib import Path

import pytest

from rossmann.launcher.run_files import RunFolder
from rossmann.launcher.shell_command import shell_command
from tests.fixtures.networks import ODD_NAME

PROGRAM = Path(sys.executable).with_name("rossmann")


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DATA_DIR", "PARAMS", "HOST", "API_PORT", "MLFLOW_PORT", "DASHBOARD_PORT"):
        monkeypatch.delenv(f"ROSSMANN_{name}", raising=False)


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / ODD_NAME / "run")


def test_whole_path_where_the_shell_does_not_find_the_program(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    assert shell_command("down", run) == f"{PROGRAM} down"


def test_name_alone_in_an_active_environment(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", f"{PROGRAM.parent}:/usr/bin:/bin")
    assert shell_command("down", run) == "rossmann down"


def test_program_of_another_environment_is_not_meant(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "rossmann").write_text("#!/bin/sh\n")
    (tmp_path / "rossmann").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert shell_command("status", run) == f"{PROGRAM} status"


def test_variables_that_find_the_services_are_part_of_it(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = run.folder.parent
    folder.mkdir()
    monkeypatch.setenv("ROSSMANN_DATA_DIR", str(folder))
    monkeypatch.setenv("ROSSMANN_API_PORT", "18123")
    command = shell_command("settings", run)
    printed = subprocess.run(
        ["bash", "-c", command],
        env={"PATH": "/usr/bin:/bin"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert '"api_port": 18123' in printed
    assert "a b %20 100% c?d=1 #e ~f" in printed
