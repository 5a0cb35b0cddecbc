"""Runs of fev-bench tasks on the small chain: the path that serves, cached fits, no look ahead."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from rossmann.cli import app, main
from rossmann.data.make_dataset import make_dataset
from rossmann.data.panel.panel import open_panel
from rossmann.errors import DataError
from rossmann.models.benchmark import fev_run
from rossmann.models.benchmark.fev_report import (
    OURS,
    board_figure,
    board_table,
    caveats,
    published_results,
    quantile_table,
    window_table,
    write_report,
)
from rossmann.models.benchmark.fev_run import Setup, fit_windows, run_benchmark
from rossmann.models.benchmark.fev_task import DAILY, METRICS, QUANTILES, WEEKLY
from rossmann.settings import Settings

SHORT_WEEKS = replace(WEEKLY, horizon=4)
"""The weekly task with windows that a chain of 620 days has enough of."""


@pytest.fixture(scope="module")
def setup(chain_settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Setup:
    """The small chain, with a cache of its own."""
    lines: list[str] = []
    panel = open_panel(make_dataset(chain_settings))
    settings = chain_settings.model_copy(update={"data_dir": tmp_path_factory.mktemp("fev")})
    return Setup(settings, panel, "quick", lines.append)


@pytest.fixture(scope="module")
def report(setup: Setup) -> dict[str, Any]:
    return run_benchmark(setup, [DAILY, SHORT_WEEKS])


def test_every_window_has_the_four_metrics_and_their_mean(report: dict[str, Any]) -> None:
    for result in report["tasks"]:
        assert len(result["windows"]) >= 3
        for window in result["windows"]:
            assert set(window["scores"]) == set(METRICS)
            assert all(np.isfinite(value) for value in window["scores"].values())
            assert window["scores"]["WAPE"] < window["seasonal_naive"]["WAPE"]
        for name in METRICS:
            values = [window["scores"][name] for window in result["windows"]]
            assert result["mean"]["scores"][name] == pytest.approx(np.mean(values))


def test_quantiles_cost_less_than_point_forecasts(report: dict[str, Any]) -> None:
    """WQL of useful quantiles lies below WAPE, which it is for quantiles without any width."""
    for result in report["tasks"]:
        mean = result["mean"]["scores"]
        assert mean["WQL"] < 0.9 * mean["WAPE"]
        assert mean["SQL"] < 0.9 * mean["MASE"]


def test_sales_below_quantiles_grow_with_the_quantile(report: dict[str, Any]) -> None:
    for result in report["tasks"]:
        header, *rows = quantile_table(result)
        assert header[1:] == [f"{level:g}" for level in QUANTILES]
        assert len(rows) == len(result["windows"]) + 1
        for row in rows:
            shares = [float(cell) for cell in row[1:]]
            assert shares == sorted(shares)
        assert 0.0 < shares[0] < 0.3  # the mean of the windows
        assert 0.7 < shares[-1] < 1.0


def test_a_second_run_fits_nothing_and_scores_the_same(
    setup: Setup, report: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_fit(*arguments: Any) -> None:
        raise AssertionError("a fit that is in the cache")

    monkeypatch.setattr(fev_run, "fit_members", no_fit)
    again = run_benchmark(setup, [DAILY, SHORT_WEEKS])
    assert json.dumps(again) == json.dumps(report)


def test_a_damaged_fit_is_made_again(setup: Setup, report: dict[str, Any]) -> None:
    lines: list[str] = []
    origins = DAILY.origins(setup.panel)
    (folder,) = (setup.settings.data_dir / fev_run.CACHE_FOLDER).iterdir()
    damaged = min(folder.iterdir())
    (damaged / "catboost.npz").write_bytes(b"")
    fit_windows(replace(setup, report=lines.append), origins)
    assert [line for line in lines if line.startswith("fit as of")] == [f"fit as of {damaged.name}"]
    assert json.dumps(run_benchmark(setup, [DAILY, SHORT_WEEKS])) == json.dumps(report)


def test_a_windows_version_does_not_depend_on_its_own_sales(setup: Setup) -> None:
    """With other sales in the last window its filter weights and intervals stay."""
    fitted = fit_windows(setup, DAILY.origins(setup.panel))
    last, others = fitted[-1], fitted[:-1]
    card = fev_run._calibrated_card(setup, last, others)
    window = last.outcome.window
    changed = replace(
        last, outcome=replace(last.outcome, window=replace(window, sold=window.sold * 3))
    )
    assert fev_run._calibrated_card(setup, changed, others) == card


def test_too_few_windows_are_an_error_that_says_how_many(setup: Setup) -> None:
    long = replace(DAILY, horizon=250)
    with pytest.raises(DataError, match="needs sales of 3 of its windows"):
        run_benchmark(setup, [long])


def test_tables_and_files_of_the_report(report: dict[str, Any], tmp_path: Path) -> None:
    result = report["tasks"][0]
    header, *rows = window_table(result)
    assert [row[0] for row in rows] == [*(w["origin"] for w in result["windows"]), "mean"]
    assert all(len(row) == len(header) for row in rows)
    header, *rows = board_table(result)
    values = [float(row[1 + METRICS.index("WAPE")]) for row in rows]
    assert values == sorted(values)
    assert sum(row[0].startswith(OURS) for row in rows) == 1
    assert "Seasonal Naive" in [row[0] for row in rows]
    write_report(tmp_path, report)
    written = json.loads((tmp_path / "fev.json").read_text())
    assert written["tasks"] == json.loads(json.dumps(report["tasks"]))
    assert written["caveats"][WEEKLY.name] == list(caveats(WEEKLY.name))
    for task in (DAILY, WEEKLY):
        assert (tmp_path / f"{task.name}.svg").read_text().startswith("<svg")
    assert board_figure(result) == board_figure(result)


def test_published_results_have_their_source_and_all_metrics() -> None:
    published = published_results()
    assert published["source"].startswith("https://github.com/autogluon/fev")
    assert published["read"]
    for entry in published["results"]:
        assert entry["file"].startswith("results/")
        assert entry["commit"]
        for task in (DAILY, WEEKLY):
            assert set(entry[task.name]) == set(METRICS)
    for task in (DAILY, WEEKLY):
        told = published["tasks"][task.name]
        assert (told["horizon"], told["num_windows"]) == (task.horizon, task.windows)
        assert told["seasonality"] == task.seasonality


def test_command_line_prints_tables_and_caveats(
    chain_settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(chain_settings.data_dir, tmp_path / "data")
    monkeypatch.setenv("ROSSMANN_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("ROSSMANN_DEMO", "true")
    monkeypatch.setenv("ROSSMANN_THREADS", "1")
    profiles = {name: profile.model_dump() for name, profile in chain_settings.profiles.items()}
    monkeypatch.setenv("ROSSMANN_PROFILES", json.dumps(profiles))
    arguments = ["benchmark", "fev", "--profile", "quick", "--task", "rossmann_1D"]
    result = CliRunner().invoke(app, [*arguments, "-o", str(tmp_path)])
    assert result.exit_code == 0, result.output
    assert "TabPFN-TS" in result.output
    assert "not comparable with the board" in result.output
    assert (tmp_path / "fev.json").is_file()


def test_unknown_tasks_are_an_error_that_names_the_tasks(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["benchmark", "fev", "--task", "rossmann_1M"]) == 2
    assert "must be one of rossmann_1D, rossmann_1W, both" in capsys.readouterr().err
