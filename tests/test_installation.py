"""The command line that messages print: it works as it stands, in a new shell, from any folder."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from rossmann.installation import shell_command
from rossmann.settings import load_settings
from tests.fixtures.networks import ODD_NAME
from tests.paths import ROOT

PROGRAM = Path(sys.executable).with_name("rossmann")


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("ROSSMANN_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("PATH", "/usr/bin:/bin")


def run_in_new_shell(command: str, folder: Path) -> str:
    environment = {"PATH": "/usr/bin:/bin"}
    shell = subprocess.run(
        ["bash", "-c", command],
        env=environment,
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    )
    return shell.stdout


def test_whole_path_where_the_shell_does_not_find_the_program() -> None:
    assert shell_command("down") == f"{PROGRAM} down"


def test_name_alone_in_an_active_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{PROGRAM.parent}:/usr/bin:/bin")
    assert shell_command("down") == "rossmann down"


def test_program_of_another_environment_is_not_meant(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "rossmann").write_text("#!/bin/sh\n")
    (tmp_path / "rossmann").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert shell_command("status") == f"{PROGRAM} status"


def test_variables_that_choose_data_and_services_are_part_of_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = tmp_path / ODD_NAME
    folder.mkdir()
    (tmp_path / "params.yaml").write_text("seed: 4711\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ROSSMANN_DATA_DIR", str(folder))
    monkeypatch.setenv("ROSSMANN_PARAMS", "params.yaml")  # relative to the working folder
    monkeypatch.setenv("ROSSMANN_API_PORT", "18123")
    monkeypatch.setenv("ROSSMANN_DEMO", "true")
    monkeypatch.setenv("ROSSMANN_MLFLOW_TRACKING_URI", "http://registry.example:5000")
    printed = run_in_new_shell(shell_command("settings"), folder)
    for line in (
        '"api_port": 18123',
        '"demo": true',
        '"seed": 4711',
        '"mlflow_tracking_uri": "http://registry.example:5000"',
        "/a b %20 100% c?d=1 #e ~f",
    ):
        assert line in printed


def test_relative_data_folder_is_that_of_the_settings(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("ROSSMANN_DATA_DIR", "elsewhere/data")
    printed = run_in_new_shell(shell_command("settings"), tmp_path)
    assert f'"data_dir": "{load_settings().data_dir}"' in printed


def test_variables_that_change_nothing_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """A launch sets these for its services: their messages must not become longer by that."""
    monkeypatch.setenv("ROSSMANN_DATA_DIR", str(ROOT / "data"))
    monkeypatch.setenv("ROSSMANN_DEMO", "0")
    assert shell_command("train") == f"{PROGRAM} train"


def test_passwords_are_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROSSMANN_MLFLOW_TRACKING_URI", "http://me:secret@registry.example:5000")
    assert "secret" not in shell_command("train")
