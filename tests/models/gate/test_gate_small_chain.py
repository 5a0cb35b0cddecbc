"""The gate and the backtest report for chains of five stores and of one."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from rossmann.cli import app
from rossmann.data.make_dataset import make_dataset
from rossmann.data.panel.panel import open_panel
from rossmann.epoch_days import to_date
from rossmann.errors import DataError
from rossmann.models.evaluation.backtest import build_windows
from rossmann.models.gate.accuracy_checks import checks_against_baseline, coverage_and_bias_checks
from rossmann.models.gate.backtest_predictions import BacktestPredictions, WindowPredictions
from rossmann.models.gate.gate import validate
from rossmann.models.publishing.register import register
from rossmann.models.publishing.trained_model import TrainedModel
from rossmann.models.registry.registry import Registry
from rossmann.schema import FloatArray
from rossmann.settings import Settings, load_settings
from tests.fixtures.panels import in_memory_panel

LIMITS = load_settings(data_dir="nowhere")


def window(
    stores: int, sd: float, naive: float, days: int = 42, first: int = 16_000
) -> WindowPredictions:
    """Forecasts with an error of about ``sd``, and a seasonal naive with one of ``naive``."""
    store, day = np.repeat(np.arange(stores), days), np.tile(first + np.arange(days), stores)
    sold = np.full(len(store), 5000.0)

    def noisy(error: float, seed: int) -> FloatArray:
        rng = np.random.default_rng([seed, first])
        return sold * np.exp(rng.normal(0, error, len(sold)))

    return WindowPredictions(f"day {first}", days, store, day, sold, noisy(sd, 1), noisy(naive, 2))


def predictions(*windows: WindowPredictions) -> BacktestPredictions:
    return BacktestPredictions(windows, {w.origin: {"0.80": 0.55, "0.95": 0.95} for w in windows})


@pytest.fixture(scope="module")
def registry(
    small_chain: Settings, small_chain_trained: TrainedModel, mlflow_server: str
) -> Registry:
    """Version 1 of a chain of few stores."""
    settings = small_chain.model_copy(update={"mlflow_tracking_uri": mlflow_server})
    stores = small_chain_trained.card["data"]["stores"]
    register(small_chain_trained, settings, f"small_chain-{stores}")
    return Registry(mlflow_server, f"small_chain-{stores}")


def test_small_chain_passes_with_pooled_test_and_wider_limits(
    registry: Registry, small_chain: Settings, small_chain_trained: TrainedModel
) -> None:
    with registry:
        verdict = validate(registry, 1, small_chain)
    assert verdict.passed, verdict.table()
    results = {result.check: result for result in verdict.results}
    assert sum("not clearly worse than seasonal naive" in check for check in results) == 2
    note = results["all windows: better than seasonal naive"].note
    stores = small_chain_trained.card["data"]["stores"]
    assert re.search(rf"on \d+ weeks, better in \d+% of {stores} stores?,", note)
    biases = [result for check, result in results.items() if "bias of the total" in check]
    assert all("wider limit for" in result.note for result in biases)
    assert all(
        result.limit is not None and result.limit > small_chain.gate_bias for result in biases
    )


def test_limits_are_those_of_a_large_chain_from_twelve_stores() -> None:
    limits = [
        coverage_and_bias_checks(predictions(window(n, 0.1, 0.2)), LIMITS)[-1].limit
        for n in (1, 3, 11, 12)
    ]
    assert limits == sorted(limits, key=lambda limit: -(limit or 0))
    assert limits[-1] == LIMITS.gate_bias
    assert (limits[0] or 0) < 0.2
    small, large = (
        coverage_and_bias_checks(predictions(window(n, 0.1, 0.2)), LIMITS)[0] for n in (1, 12)
    )
    assert small.passed
    assert "wider limit for 1 store" in small.note
    assert not large.passed
    assert "wider" not in large.note


def test_a_large_error_does_not_pass_for_one_store() -> None:
    biased = window(1, 0.05, 0.2)
    biased = replace(biased, forecast=biased.forecast * 1.3)
    assert not coverage_and_bias_checks(predictions(biased), LIMITS)[-1].passed
    *windows, pooled = checks_against_baseline([biased, window(1, 0.3, 0.1, first=15_001)], LIMITS)
    assert [line.passed for line in windows] == [False, False]
    assert not pooled.passed


def test_an_insignificant_loss_in_one_window_passes() -> None:
    better = window(1, 0.1, 0.1)
    worse = replace(better, forecast=better.naive, naive=better.forecast)
    results = checks_against_baseline([worse, window(1, 0.05, 0.2, first=15_001)], LIMITS)
    assert [result.passed for result in results] == [True, True, True]
    assert results[0].value is not None
    assert results[0].limit is not None
    assert results[0].value > results[0].limit
    *_, single = checks_against_baseline([worse], LIMITS)
    assert not single.passed


def test_too_few_weeks_fail_with_a_note() -> None:
    *_, pooled = checks_against_baseline([window(1, 0.01, 0.3, days=7, first=16_002)], LIMITS)
    assert not pooled.passed
    assert "too few weeks to compare" in pooled.note
    *_, more_stores = checks_against_baseline([window(5, 0.01, 0.3, days=21, first=16_002)], LIMITS)
    assert more_stores.passed
    assert "too small_chain" not in more_stores.note


def test_nan_fails_for_a_small_chain() -> None:
    broken = window(2, 0.1, 0.2)
    broken.forecast[3] = np.nan
    assert not any(line.passed for line in checks_against_baseline([broken], LIMITS))


@pytest.mark.parametrize("options", [("--windows", "3", "--horizon", "1"), ("--horizon", "14")])
def test_backtest_report_of_a_small_chain_has_no_gaps(
    small_chain: Settings, options: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No NaN and no missing number; a note says that the stores are few."""
    monkeypatch.setenv("ROSSMANN_DATA_DIR", str(small_chain.data_dir))
    monkeypatch.setenv("ROSSMANN_DEMO", "true")
    monkeypatch.setenv("ROSSMANN_THREADS", "1")
    monkeypatch.setenv("ROSSMANN_MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    profiles = {name: profile.model_dump() for name, profile in small_chain.profiles.items()}
    monkeypatch.setenv("ROSSMANN_PROFILES", json.dumps(profiles))
    arguments = ["backtest", "--profile", "quick", *options, "-o", str(tmp_path)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    page, data = (tmp_path / "report.html").read_text(), (tmp_path / "report.json").read_text()
    for text in ("nan", "NaN", "None", "inf "):
        assert text not in page
    assert "null" not in data
    stores = json.loads(data)["data"]["stores"]
    assert f"rows of {'1 store' if stores == 1 else '5 stores'}, " in page
    assert "Few stores:" in page
    assert "thousands a day" in page


def test_window_without_sales_raises_with_the_setting_name(small_chain: Settings) -> None:
    panel = open_panel(make_dataset(small_chain))
    tables = {n: panel.info.folder / f"{n}.parquet" for n in ("history", "schedule", "stores")}
    frames = {name: pl.read_parquet(path) for name, path in tables.items()}
    frames["history"] = frames["history"].with_columns(
        pl.when(pl.col("Date") > to_date(panel.last_day - 48)).then(0).otherwise("Open")
        .cast(pl.UInt8).alias("Open")
    )  # fmt: skip
    with pytest.raises(DataError, match="`windows` in the parameters file"):
        build_windows(in_memory_panel(panel.info, frames, 1), (48,), 48, 31)
