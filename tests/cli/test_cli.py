"""The command line: every verb explains itself, and every failure is one line."""

import json
import os
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
    "backtest", "retrain", "models list", "models show", "models compare", "validate", "promote",
    "rollback", "tune", "predict", "serve", "mlflow", "dashboard", "up", "down", "status",
    "settings", "keys new", "keys list", "keys revoke", "log status", "log export", "log prune",
)  # fmt: skip
HEAVY = (
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
    for name, below in command.commands.items():
        if hasattr(below, "commands"):
            yield from verbs(below, f"{path}{name} ")
        elif not below.hidden:
            yield f"{path}{name}"


def one_line_of(capture: Capture) -> str:
    text = capture.readouterr().err
    assert text.startswith("error: ")
    assert text.count("\n") == 1, text
    return text


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Settings that name an empty data folder and ports on which nothing listens."""
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


def test_the_verbs_are_these() -> None:
    assert set(verbs(typer.main.get_command(app))) == set(VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_with_an_example(verb: str, capsys: Capture) -> None:
    assert main([*verb.split(), "--help"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "Example: " in said
    assert f"rossmann {verb}" in said.partition("Example: ")[2]


def test_help_imports_nothing_heavy() -> None:
    script = (
        "import sys; from rossmann.cli import main; code = main(['--help'])\n"
        f"sys.exit(code or [name for name in {HEAVY!r} if name in sys.modules] or None)"
    )
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr


def test_the_command_is_installed() -> None:
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
    shown = capsys.readouterr().out
    assert json.loads(shown)["mlflow_tracking_uri"] == "http://***@registry:5000"
    assert "secret" not in shown


@pytest.mark.parametrize(
    "command",
    [["nonsense"], ["train", "--nonsense"], ["predict"], ["up", "--stop", "--status"]],
)
def test_a_command_that_makes_no_sense_is_one_line(command: list[str], capsys: Capture) -> None:
    assert main(command) == 2
    assert "--help" in one_line_of(capsys)


def test_a_bad_setting_is_one_line(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROSSMANN_API_PORT", "seventy")
    assert main(["settings"]) == 1
    assert "ROSSMANN_API_PORT" in one_line_of(capsys)


@pytest.mark.usefixtures("nowhere")
@pytest.mark.parametrize(
    "command", [["models", "list"], ["train"], ["rollback"], ["promote", "1"], ["validate", "1"]]
)
def test_without_mlflow_a_verb_says_how_to_start_it(command: list[str], capsys: Capture) -> None:
    assert main(command) == 1
    assert "start_mlflow.sh" in one_line_of(capsys)


@pytest.mark.usefixtures("nowhere")
@pytest.mark.parametrize("command", [["data", "status"], ["data", "check"], ["features"]])
def test_without_tables_a_verb_says_how_to_get_them(command: list[str], capsys: Capture) -> None:
    assert main(command) == 1
    assert "rossmann data demo" in one_line_of(capsys)


@pytest.mark.usefixtures("nowhere")
def test_an_unknown_profile_names_those_there_are(capsys: Capture) -> None:
    assert main(["train", "--profile", "slow"]) == 1
    assert "full, quick" in one_line_of(capsys)


def test_a_file_that_is_not_there_is_one_line(nowhere: Path, capsys: Capture) -> None:
    assert main(["predict", str(nowhere / "none.csv"), "-o", "out.csv"]) == 1
    assert "none.csv" in one_line_of(capsys)


def test_an_output_of_no_known_form_is_refused_first(nowhere: Path, capsys: Capture) -> None:
    assert main(["predict", str(nowhere / "none.csv"), "-o", "out.doc"]) == 2
    assert ".parquet" in one_line_of(capsys)


@pytest.mark.usefixtures("nowhere")
def test_status_and_down_of_nothing(capsys: Capture) -> None:
    assert main(["down"]) == 0
    assert main(["status"]) == 1
    assert capsys.readouterr().out.count("not running") == 3


def test_tables_are_checked_and_told(
    chain_settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setenv("ROSSMANN_DATA_DIR", str(chain_settings.data_dir))
    assert main(["data", "check"]) == 0
    assert "good: " in capsys.readouterr().out
    assert main(["data", "status"]) == 0
    told = capsys.readouterr().out
    assert "demo, version" in told
    assert "of 40 stores" in told
    assert main(["features"]) == 0
    assert "is ready" in capsys.readouterr().out


@pytest.mark.usefixtures("nowhere")
def test_a_demo_chain_of_any_size(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.setenv("ROSSMANN_DEMO", "1")
    assert main(["data", "demo", "--stores", "4", "--days", "70"]) == 0
    assert main(["data", "check"]) == 0
    told = capsys.readouterr().out
    assert ", 4 stores, " in told
    assert main(["data", "demo", "--stores", "0"]) == 2


def test_ingested_days_are_told_with_what_to_do_next(
    nowhere: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setenv("ROSSMANN_DEMO", "1")
    write_demo(nowhere / "demo" / "raw", seed=1, stores=3, days=40, schedule_days=5)
    new = nowhere / "new.csv"
    row = "1,6,2015-08-01,500,50,1,0,0,0"
    names = "Store,DayOfWeek,Date,Sales,Customers,Open,Promo,StateHoliday,SchoolHoliday"
    new.write_text(f"{names}\n{row}\n2{row[1:]}\n")
    assert main(["data", "ingest", str(new)]) == 0
    told = capsys.readouterr().out
    assert "2 added, 0 corrected, 0 unchanged" in told
    assert "2 of them were planned" in told
    assert "last day of sales: 2015-08-01 (before: 2015-07-31)" in told
    assert "next: rossmann features" in told
    assert main(["features"]) == 0
    capsys.readouterr()
    assert main(["data", "status"]) == 0
    told = capsys.readouterr().out
    assert "0001-sales-" in told
    assert "from new.csv" in told
    assert "2015-07-31" not in told
    assert "2015-08-02 to 2015-08-05: all stores" in told
    assert "2015-08-06 to 2015-09-18: none" in told
    assert main(["data", "ingest", str(new)]) == 0
    assert "nothing is new" in capsys.readouterr().out
    new.write_text(f"{names}\n{row}\n9{row[1:]}\n")
    assert main(["data", "ingest", str(new)]) == 1
    refused = capsys.readouterr().err
    assert refused.startswith("error: 1 rule is broken: Store_known in new.csv (1)")
    assert "line 3: Store=9" in refused


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (RossmannError("no flour"), 1, "error: no flour\n"),
        (PermissionError(13, "Permission denied", "/data"), 1, "Permission denied"),
        (KeyError("oven"), 1, "fault of the program: KeyError: 'oven'"),
        (KeyboardInterrupt(), 130, "stopped"),
    ],
)
def test_any_error_is_one_line(
    error: BaseException,
    code: int,
    words: str,
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fails() -> Settings:
        raise error

    monkeypatch.setattr(rossmann.settings, "load_settings", fails)
    assert main(["settings"]) == code
    said = capsys.readouterr().err
    assert words in said
    assert said.count("\n") == 1


def test_the_trace_of_a_fault_can_be_had(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails() -> Settings:
        raise KeyError("oven")

    monkeypatch.setattr(rossmann.settings, "load_settings", fails)
    monkeypatch.setenv("ROSSMANN_TRACE", "1")
    assert main(["settings"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_a_reader_that_goes_away_is_no_fault() -> None:
    command = f"{sys.executable} -m rossmann.cli settings | true"
    result = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, check=False, env={**os.environ}
    )
    assert "Traceback" not in result.stderr
    assert "BrokenPipe" not in result.stderr
