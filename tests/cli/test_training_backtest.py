"""``rossmann backtest``: origins by date or by count, report files, and the MLflow run."""

import json
from datetime import timedelta
from pathlib import Path

import pytest
from mlflow import MlflowClient
from typer.testing import CliRunner, Result

from rossmann.cli import app
from rossmann.data.panel.panel import Panel
from rossmann.settings import Settings


@pytest.fixture
def chain_environment(chain_settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment of the command line: the small demo chain and its quick profile."""
    monkeypatch.setenv("ROSSMANN_DATA_DIR", str(chain_settings.data_dir))
    monkeypatch.setenv("ROSSMANN_DEMO", "true")
    monkeypatch.setenv("ROSSMANN_THREADS", "1")
    monkeypatch.setenv("ROSSMANN_MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    profiles = {name: profile.model_dump() for name, profile in chain_settings.profiles.items()}
    monkeypatch.setenv("ROSSMANN_PROFILES", json.dumps(profiles))


def run(*options: str) -> Result:
    return CliRunner().invoke(app, ["backtest", "--profile", "quick", *options])


@pytest.mark.usefixtures("chain_environment")
def test_windows_end_at_the_last_day_of_history(panel: Panel, tmp_path: Path) -> None:
    result = run("--windows", "3", "--horizon", "14", "-o", str(tmp_path))
    assert result.exit_code == 0, result.output
    report = json.loads((tmp_path / "report.json").read_text())
    last = panel.info.last_day
    origins = [(last - timedelta(days=14 * k)).isoformat() for k in (3, 2, 1)]
    assert [w["origin"] for w in report["windows"]] == origins
    assert {w["days"] for w in report["windows"]} == {14}
    assert "Seasonal naive" in result.output
    assert "80%" in result.output
    assert str(tmp_path / "report.html") in result.output
    assert (tmp_path / "report.html").is_file()
    assert "not logged: MLflow at http://127.0.0.1:9 does not answer" in result.output


@pytest.mark.usefixtures("chain_environment")
def test_the_report_is_logged_to_mlflow(
    mlflow_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROSSMANN_MLFLOW_TRACKING_URI", mlflow_server)
    result = run("--windows", "2", "--horizon", "7", "-o", str(tmp_path))
    assert result.exit_code == 0, result.output
    (line,) = [line for line in result.output.splitlines() if line.startswith("logged: ")]
    assert line.startswith(f"logged: {mlflow_server}/#/experiments/")
    client = MlflowClient(mlflow_server, mlflow_server)
    logged = client.get_run(line.rpartition("/")[2])
    assert {file.path for file in client.list_artifacts(logged.info.run_id)} == {
        "report.html",
        "report.json",
    }
    report = json.loads((tmp_path / "report.json").read_text())
    assert logged.info.status == "FINISHED"
    assert logged.data.tags["data.version"] == report["data"]["version"]
    for window in report["windows"]:
        value = logged.data.metrics[f"rmspe/{window['origin']}/ensemble"]
        assert value == pytest.approx(window["rmspe"]["ensemble"])


@pytest.mark.usefixtures("chain_environment")
def test_origins_option_sets_the_windows(panel: Panel, tmp_path: Path) -> None:
    origin = panel.info.last_day - timedelta(days=100)
    result = run("--origins", origin.isoformat(), "--horizon", "1", "-o", str(tmp_path))
    assert result.exit_code == 0, result.output
    (window,) = json.loads((tmp_path / "report.json").read_text())["windows"]
    assert window["origin"] == origin.isoformat()
    assert window["days"] == 1
    assert "one window alone" in result.output


@pytest.mark.usefixtures("chain_environment")
@pytest.mark.parametrize(
    "options",
    [
        ("--origins", "tomorrow"),
        ("--origins", "2014-06-01", "--windows", "2"),
        ("--horizon", "49"),
        ("--windows", "-1"),
    ],
)
def test_invalid_options_are_rejected(options: tuple[str, ...], tmp_path: Path) -> None:
    result = run(*options, "-o", str(tmp_path / "out"))
    assert result.exit_code == 2
    assert not (tmp_path / "out").exists()
