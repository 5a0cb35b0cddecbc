"""``rossmann log``: status, export, prune."""

import os
import signal
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from rossmann.cli import main
from rossmann.prediction_log.queries import export
from rossmann.prediction_log.queries.export import FORMATS
from rossmann.prediction_log.records import LoggedPrediction
from rossmann.prediction_log.writing.log import PredictionLog, open_log
from rossmann.settings import Settings, load_settings
from tests.fixtures.prediction_log import wait_until_written

MakeEntry = Callable[..., LoggedPrediction]
Capture = pytest.CaptureFixture[str]


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Settings of an empty data folder, also set in the environment."""
    monkeypatch.setenv("ROSSMANN_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("ROSSMANN_LOG_FLUSH_SECONDS", "0.05")
    monkeypatch.delenv("ROSSMANN_DATABASE_URL", raising=False)
    return load_settings()


def write_log(settings: Settings, *entries: LoggedPrediction) -> PredictionLog:
    log = open_log(settings)
    assert log is not None
    log.start()
    for entry in entries:
        log.log(entry)
    assert wait_until_written(log)
    return log


def test_status_and_export_and_prune(
    settings: Settings, make_entry: MakeEntry, tmp_path: Path, capsys: Capture
) -> None:
    now = datetime.now(UTC)
    old = make_entry(1, 3, answered_at=now - timedelta(days=100), model_version=1)
    write_log(settings, old, make_entry(2, 2, answered_at=now)).close()
    assert main(["log", "status"]) == 0
    text = capsys.readouterr().out
    for line in ("5 of 2 requests", "1: 3 rows", "3: 2 rows", "0 rows in 0 files", "400 days"):
        assert line in text
    output = tmp_path / "x.csv"
    assert main(["log", "export", "-o", str(output), "--from", f"{now:%F}"]) == 0
    assert capsys.readouterr().out == f"2 rows written to {output}\n"
    assert pl.read_csv(output)["request_id"].to_list() == ["request-2"] * 2
    assert main(["log", "prune"]) == 0
    assert "0 rows deleted" in capsys.readouterr().out
    assert main(["log", "prune", "--days", "90"]) == 0
    assert "3 rows deleted: they were answered more than 90 days ago" in capsys.readouterr().out
    assert main(["log", "status"]) == 0
    assert "2 of 1 requests" in capsys.readouterr().out


@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("suffix", FORMATS)
def test_interrupted_export_leaves_no_file(
    settings: Settings,
    make_entry: MakeEntry,
    tmp_path: Path,
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
    suffix: str,
    signal_number: int,
) -> None:
    write_log(settings, make_entry(1, 3)).close()
    pages = export.pages

    def pages_then_signal(*arguments: Any) -> Iterator[pl.DataFrame]:
        yield from pages(*arguments)
        os.kill(os.getpid(), signal_number)

    monkeypatch.setattr(export, "pages", pages_then_signal)
    (tmp_path / "out").mkdir()
    assert (
        main(["log", "export", "-o", str(tmp_path / "out" / f"x{suffix}")]) == 128 + signal_number
    )
    assert list((tmp_path / "out").iterdir()) == []
    assert capsys.readouterr().err == "stopped\n"


def test_prune_while_a_service_logs(settings: Settings, make_entry: MakeEntry) -> None:
    log = write_log(settings, *(make_entry(number, 3) for number in range(10)))
    assert main(["log", "prune", "--days", "0"]) == 0
    log.log(make_entry(11))
    assert wait_until_written(log)
    log.close()


def test_rows_in_the_spool_are_reported(
    settings: Settings, make_entry: MakeEntry, tmp_path: Path, capsys: Capture
) -> None:
    log = write_log(settings, make_entry(1))
    log.close()
    second = PredictionLog(settings.log_url, settings.log_spool_dir)
    second.log(make_entry(2, 7))
    second.spool_writer.step()
    assert main(["log", "status"]) == 0
    assert "7 rows in 1 files" in capsys.readouterr().out
    assert main(["log", "export", "-o", str(tmp_path / "x.csv")]) == 0
    assert "7 rows in 1 files" in capsys.readouterr().err
    second.close()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["status"], "nothing was logged yet"),
        (["export", "-o", "x.csv"], "nothing was logged yet"),
        (["export", "-o", "x.txt"], "must end in one of .csv, .parquet, .xlsx"),
        (
            ["export", "-o", "x.csv", "--from", "2026-02-02", "--to", "2026-02-01"],
            "--to 2026-02-01 is before --from 2026-02-02",
        ),
        (["export", "-o", "x.csv", "--from", "1.1.2026"], "1.1.2026"),
        (["prune"], "nothing was logged yet"),
    ],
)
@pytest.mark.usefixtures("settings")
def test_errors_are_one_line(capsys: Capture, arguments: list[str], expected: str) -> None:
    assert main(["log", *arguments]) != 0
    error = capsys.readouterr().err
    assert expected in error
    assert error.count("\n") == 1, error


@pytest.mark.usefixtures("settings")
def test_prune_without_retention_period_requires_days(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROSSMANN_LOG_KEEP_DAYS", "0")
    assert main(["log", "prune"]) == 1
    assert "--days N" in capsys.readouterr().err


def test_password_is_in_no_output(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    for url in (
        "postgresql://u:secret@127.0.0.1:1/d",
        "postgresql://127.0.0.1:1/d?user=u&password=secret",
    ):
        monkeypatch.setenv("ROSSMANN_DATABASE_URL", url)
        assert main(["settings"]) == 0
        assert main(["log", "status"]) == 1
        captured = capsys.readouterr()
        assert "secret" not in captured.out + captured.err
        assert "127.0.0.1" in captured.out
    monkeypatch.setenv("ROSSMANN_DATABASE_URL", "oracle://u:secret@h/d")
    assert main(["settings"]) == 1
    assert "secret" not in capsys.readouterr().err
