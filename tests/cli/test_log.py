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
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Settings of an empty data folder, as verbs see them."""
    monkeypatch.setenv("ROSSMANN_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("ROSSMANN_LOG_FLUSH_SECONDS", "0.05")
    monkeypatch.delenv("ROSSMANN_DATABASE_URL", raising=False)
    return load_settings()


def put(settings: Settings, *entries: LoggedPrediction) -> PredictionLog:
    log = open_log(settings)
    assert log is not None
    log.start()
    for entry in entries:
        log.log(entry)
    assert wait_until_written(log)
    return log


def test_status_and_export_and_prune(
    home: Settings, make_entry: MakeEntry, tmp_path: Path, capsys: Capture
) -> None:
    now = datetime.now(UTC)
    old = make_entry(1, 3, answered_at=now - timedelta(days=100), model_version=1)
    put(home, old, make_entry(2, 2, answered_at=now)).close()
    assert main(["log", "status"]) == 0
    said = capsys.readouterr().out
    for line in ("5 of 2 requests", "1: 3 rows", "3: 2 rows", "0 rows in 0 files", "400 days"):
        assert line in said
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


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("ending", FORMATS)
def test_an_export_that_is_ended_leaves_nothing(
    home: Settings,
    make_entry: MakeEntry,
    tmp_path: Path,
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
    ending: str,
    number: int,
) -> None:
    put(home, make_entry(1, 3)).close()
    all_of_it = export.pages

    def ended_after_a_page(*asked: Any) -> Iterator[pl.DataFrame]:
        yield from all_of_it(*asked)
        os.kill(os.getpid(), number)

    monkeypatch.setattr(export, "pages", ended_after_a_page)
    (tmp_path / "out").mkdir()
    assert main(["log", "export", "-o", str(tmp_path / "out" / f"x{ending}")]) == 128 + number
    assert list((tmp_path / "out").iterdir()) == []
    assert capsys.readouterr().err == "stopped\n"


def test_prune_while_a_service_logs(home: Settings, make_entry: MakeEntry) -> None:
    log = put(home, *(make_entry(number, 3) for number in range(10)))
    assert main(["log", "prune", "--days", "0"]) == 0
    log.log(make_entry(11))
    assert wait_until_written(log)
    log.close()


def test_what_still_waits_is_said(
    home: Settings, make_entry: MakeEntry, tmp_path: Path, capsys: Capture
) -> None:
    log = put(home, make_entry(1))
    log.close()
    later = PredictionLog(home.log_url, home.log_spool_dir)
    later.log(make_entry(2, 7))
    later.spool_writer.step()
    assert main(["log", "status"]) == 0
    assert "7 rows in 1 files" in capsys.readouterr().out
    assert main(["log", "export", "-o", str(tmp_path / "x.csv")]) == 0
    assert "7 rows in 1 files" in capsys.readouterr().err
    later.close()


@pytest.mark.parametrize(
    ("arguments", "told"),
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
def test_errors_are_one_line(
    home: Settings, capsys: Capture, arguments: list[str], told: str
) -> None:
    assert main(["log", *arguments]) != 0
    said = capsys.readouterr().err
    assert told in said
    assert said.count("\n") == 1, said


def test_keeping_all_is_not_pruned_by_default(
    home: Settings, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROSSMANN_LOG_KEEP_DAYS", "0")
    assert main(["log", "prune"]) == 1
    assert "--days N" in capsys.readouterr().err


def test_a_password_is_in_no_output(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    for url in (
        "postgresql://u:secret@127.0.0.1:1/d",
        "postgresql://127.0.0.1:1/d?user=u&password=secret",
    ):
        monkeypatch.setenv("ROSSMANN_DATABASE_URL", url)
        assert main(["settings"]) == 0
        assert main(["log", "status"]) == 1
        said = capsys.readouterr()
        assert "secret" not in said.out + said.err
        assert "127.0.0.1" in said.out
    monkeypatch.setenv("ROSSMANN_DATABASE_URL", "oracle://u:secret@h/d")
    assert main(["settings"]) == 1
    assert "secret" not in capsys.readouterr().err
