"""Command line: verbs, help texts, exit codes, and errors of one line."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

import rossmann.settings
from rossmann.cli import app, main
from rossmann.data.demo.write_tables import write_demo
from rossmann.errors import RossmannError
from rossmann.settings import Settings

VERBS = (
    "data get", "data demo", "data check", "data ingest", "data status", "features", "train",
    "reweight", "backtest", "benchmark fev", "retrain", "models list", "models show",
    "models compare", "validate", "promote", "rollback", "tune", "predict", "serve", "mlflow",
    "dashboard", "up", "down", "status", "settings", "docs", "keys new", "keys list", "keys revoke",
    "log status", "log export", "log prune", "backup", "restore", "prepare",
)  # fmt: skip
HEAVY_MODULES = (
    "mlflow",
    "optuna",
    "polars",
    "numba",
    "lightgbm",
    "fastapi",
    "streamlit",
    "pydantic_settings",
)

Capture = pytest.CaptureFixture[str]


def verbs(command: Any, path: str = "") -> Iterator[str]:
    for name, subcommand in command.commands.items():
        if hasattr(subcommand, "commands"):
            yield from verbs(subcommand, f"{path}{name} ")
        elif not subcommand.hidden:
            yield f"{path}{name}"


def error_line(capture: Capture) -> str:
    text = capture.readouterr().err
    assert text.startswith("error: ")
    assert text.count("\n") == 1, text
    return text


@pytest.fixture
def empty_data_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty data folder and three unused ports, set in the environment."""
    monkeypatch.setenv("ROSSMANN_DATA_DIR", str(tmp_path))
    sockets = [socket.socket() for _ in range(3)]
    for name, probe in zip(("API", "MLFLOW", "DASHBOARD"), sockets, strict=True):
        probe.bind(("127.0.0.1", 0))
        monkeypatch.setenv(f"ROSSMANN_{name}_PORT", str(probe.getsockname()[1]))
    for probe in sockets:
        probe.close()
    monkeypatch.delenv("ROSSMANN_MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("ROSSMANN_DEMO", raising=False)
    return tmp_path


def test_all_verbs_are_registered() -> None:
    assert set(verbs(typer.main.get_command(app))) == set(VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_with_an_example(verb: str, capsys: Capture) -> None:
    assert main([*verb.split(), "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "Example: " in text
    assert f"rossmann {verb}" in text.partition("Example: ")[2]


@pytest.mark.parametrize("arguments", [["up", "--help"], ["data", "--help"], ["data", "nothing"]])
def test_help_and_usage_name_a_command_that_the_shell_finds(
    arguments: list[str], capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    main(arguments)
    output = "".join(capsys.readouterr())
    named = re.findall(r"\S*rossmann(?= (?:data|up)\b)", output)
    assert named and set(named) == {str(Path(sys.executable).with_name("rossmann"))}


def test_terminal_without_unicode_is_no_error() -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    script = (
        "from rossmann.cli import main; main(['--help'])\n"
        "from rossmann.launcher.console import LaunchConsole; LaunchConsole().print('\u2026')"
    )
    result = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.endswith(b"?\n")


def test_thread_count_that_numba_does_not_take_is_named(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NUMBA_NUM_THREADS", "0")
    assert main(["settings"]) == 1
    assert "NUMBA_NUM_THREADS must be 1 or more" in error_line(capsys)


def test_help_imports_no_heavy_module() -> None:
    script = (
        "import sys; from rossmann.cli import main; code = main(['--help'])\n"
        f"sys.exit(code or [name for name in {HEAVY_MODULES!r} if name in sys.modules] or None)"
    )
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr


def test_installed_command_rejects_an_unknown_verb_in_one_line() -> None:
    command = Path(sys.executable).with_name("rossmann")
    result = subprocess.run([command, "nonsense"], capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert "nonsense" in result.stderr


def test_settings_are_printed_without_secrets(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROSSMANN_MLFLOW_TRACKING_URI", "http://me:secret@registry:5000")
    assert main(["settings"]) == 0
    output = capsys.readouterr().out
    assert json.loads(output)["mlflow_tracking_uri"] == "http://***@registry:5000"
    assert "secret" not in output


@pytest.mark.parametrize(
    "command", [["nonsense"], ["train", "--nonsense"], ["predict"], ["up", "--stop", "--status"]]
)
def test_usage_error_is_one_line_with_exit_code_2(command: list[str], capsys: Capture) -> None:
    assert main(command) == 2
    assert "--help" in error_line(capsys)


def test_invalid_setting_is_an_error_of_one_line(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROSSMANN_API_PORT", "seventy")
    assert main(["settings"]) == 1
    assert "ROSSMANN_API_PORT" in error_line(capsys)


@pytest.mark.usefixtures("empty_data_dir")
@pytest.mark.parametrize(
    "command", [["models", "list"], ["train"], ["rollback"], ["promote", "1"], ["validate", "1"]]
)
def test_error_without_mlflow_names_the_start_script(command: list[str], capsys: Capture) -> None:
    assert main(command) == 1
    assert "rossmann mlflow" in error_line(capsys)


@pytest.mark.usefixtures("empty_data_dir")
@pytest.mark.parametrize("command", [["data", "status"], ["data", "check"], ["features"]])
def test_error_without_tables_names_the_demo_command(command: list[str], capsys: Capture) -> None:
    assert main(command) == 1
    assert "rossmann data demo" in error_line(capsys)


@pytest.mark.usefixtures("empty_data_dir")
@pytest.mark.parametrize(
    ("command", "code", "expected"),
    [
        pytest.param(["train", "--profile", "slow"], 1, "full, quick", id="unknown profile"),
        pytest.param(["predict", "none.csv", "-o", "x.csv"], 1, "none.csv", id="missing input"),
        # The output's format is checked before the input is opened.
        pytest.param(["predict", "none.csv", "-o", "x.doc"], 2, ".parquet", id="unknown format"),
    ],
)
def test_invalid_argument_is_an_error_of_one_line(
    command: list[str], code: int, expected: str, capsys: Capture
) -> None:
    assert main(command) == code
    assert expected in error_line(capsys)


@pytest.mark.usefixtures("empty_data_dir")
def test_status_and_down_without_running_services(capsys: Capture) -> None:
    assert main(["down"]) == 0
    assert main(["status"]) == 1
    assert capsys.readouterr().out.count("not running") == 3


def test_data_check_data_status_and_features_report_the_chain(
    chain_settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setenv("ROSSMANN_DATA_DIR", str(chain_settings.data_dir))
    assert main(["data", "check"]) == 0
    assert "good: " in capsys.readouterr().out
    assert main(["data", "status"]) == 0
    output = capsys.readouterr().out
    assert "demo, version" in output
    assert "of 40 stores" in output
    assert main(["features"]) == 0
    assert "is ready" in capsys.readouterr().out


@pytest.mark.usefixtures("empty_data_dir")
def test_demo_chain_has_the_requested_size(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setenv("ROSSMANN_DEMO", "1")
    assert main(["data", "demo", "--stores", "4", "--days", "70"]) == 0
    assert main(["data", "check"]) == 0
    output = capsys.readouterr().out
    assert ", 4 stores, " in output
    assert main(["data", "demo", "--stores", "0"]) == 2


@pytest.mark.parametrize("words", [[], ["data"], ["keys"]])
def test_no_verb_prints_the_help_and_no_error(words: list[str], capsys: Capture) -> None:
    assert main(words) == 2
    output = capsys.readouterr()
    assert output.out.startswith("Usage:") and output.err == ""


def test_version_is_that_of_the_package(capsys: Capture) -> None:
    assert main(["--version"]) == 0
    assert re.fullmatch(r"\d+\.\d+\.\d+\n", capsys.readouterr().out)


def test_ingest_reports_changes_and_builds_the_arrays(
    empty_data_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setenv("ROSSMANN_DEMO", "1")
    write_demo(empty_data_dir / "demo" / "raw", seed=1, stores=3, days=40, schedule_days=5)
    new = empty_data_dir / "new.csv"
    row = "1,6,2015-08-01,500,50,1,0,0,0"
    names = "Store,DayOfWeek,Date,Sales,Customers,Open,Promo,StateHoliday,SchoolHoliday"
    new.write_text(f"{names}\n{row}\n2{row[1:]}\n")
    assert main(["data", "ingest", str(new)]) == 0
    output = capsys.readouterr().out
    assert "2 added, 0 corrected, 0 unchanged" in output
    assert "2 of them were planned" in output
    assert "last day of sales: 2015-08-01 (before: 2015-07-31)" in output
    assert "is ready" in output
    assert main(["data", "status"]) == 0
    output = capsys.readouterr().out
    assert "0001-sales-" in output
    assert "from new.csv" in output
    assert "2015-07-31" not in output
    assert "2015-08-02 to 2015-08-05: all stores" in output
    assert "2015-08-06 to 2015-09-18: none" in output
    shutil.rmtree(empty_data_dir / "processed")  # as after a kill between increment and arrays
    assert main(["data", "ingest", str(new)]) == 0
    assert "nothing is new" in capsys.readouterr().out
    assert list((empty_data_dir / "processed").glob("*/panel*"))
    new.write_text(f"{names}\n{row}\n9{row[1:]}\n")
    assert main(["data", "ingest", str(new)]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: 1 rule is broken: Store_known in new.csv (1)")
    assert "line 3: Store=9" in error


@pytest.mark.parametrize(
    ("error", "code", "expected"),
    [
        (RossmannError("no data"), 1, "error: no data\n"),
        (PermissionError(13, "Permission denied", "/data"), 1, "Permission denied"),
        (KeyError("field"), 1, "fault of the program: KeyError: 'field'"),
        (KeyboardInterrupt(), 130, "stopped"),
    ],
)
def test_every_exception_is_an_error_of_one_line(
    error: BaseException, code: int, expected: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails() -> Settings:
        raise error

    monkeypatch.setattr(rossmann.settings, "load_settings", fails)
    assert main(["settings"]) == code
    text = capsys.readouterr().err
    assert expected in text
    assert text.count("\n") == 1


def test_trace_setting_prints_the_traceback(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails() -> Settings:
        raise KeyError("field")

    monkeypatch.setattr(rossmann.settings, "load_settings", fails)
    monkeypatch.setenv("ROSSMANN_TRACE", "1")
    assert main(["settings"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_closed_output_pipe_is_no_error() -> None:
    command = f"{sys.executable} -m rossmann.cli settings | true"
    result = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, check=False, env={**os.environ}
    )
    assert "Traceback" not in result.stderr
    assert "BrokenPipe" not in result.stderr


@pytest.mark.parametrize(
    ("words", "mode"),
    [(["data", "demo"], 0o600), (["--", "train"], 0o600), (["predict", "f", "-o", "g"], 0o644)],
)
def test_files_of_the_data_folder_are_private_and_results_are_the_users(
    words: list[str], mode: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the umask that holds while the verb runs."""

    def run_verb(*_: object, **__: object) -> int:
        (tmp_path / "file").touch()
        return 0

    monkeypatch.setattr("typer.core.TyperGroup.main", run_verb)
    assert main(words) == 0
    assert (tmp_path / "file").stat().st_mode & 0o777 == mode
