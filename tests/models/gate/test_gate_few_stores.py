"""A chain of five stores, or of one, goes through the gate and the report, in words that fit it."""

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
from rossmann.data.panel.panel import in_memory_panel, open_panel
from rossmann.epoch_days import to_date
from rossmann.errors import DataError
from rossmann.models.evaluation.windows import build_windows
from rossmann.models.gate.accuracy_checks import checks_against_baseline, coverage_and_bias_checks
from rossmann.models.gate.backtest_predictions import BacktestPredictions, WindowPredictions
from rossmann.models.gate.gate import validate
from rossmann.models.publishing.register import register
from rossmann.models.publishing.trained_model import TrainedModel
from rossmann.models.registry.registry import Registry
from rossmann.schema import FloatArray
from rossmann.settings import Settings, load_settings

LIMITS = load_settings(data_dir="nowhere")


def window(
    stores: int, sd: float, naive: float, days: int = 42, first: int = 16_000
) -> WindowPredictions:
    """Forecasts that err by about ``sd``, those of seasonal naive by ``naive``."""
    store, day = np.repeat(np.arange(stores), days), np.tile(first + np.arange(days), stores)
    sold = np.full(len(store), 5000.0)

    def noisy(error: float, seed: int) -> FloatArray:
        rng = np.random.default_rng([seed, first])
        return sold * np.exp(rng.normal(0, error, len(sold)))

    return WindowPredictions(f"day {first}", days, store, day, sold, noisy(sd, 1), noisy(naive, 2))


def evidence(*windows: WindowPredictions) -> BacktestPredictions:
    return BacktestPredictions(windows, {w.origin: {"0.80": 0.55, "0.95": 0.95} for w in windows})


@pytest.fixture(scope="module")
def registry(few: Settings, few_trained: TrainedModel, mlflow_server: str) -> Registry:
    """Version 1 of a chain of a few stores."""
    settings = few.model_copy(update={"mlflow_tracking_uri": mlflow_server})
    stores = few_trained.card["data"]["stores"]
    register(few_trained, settings, f"few-{stores}")
    return Registry(mlflow_server, f"few-{stores}")


def test_the_gate_judges_by_what_few_stores_can_tell(
    registry: Registry, few: Settings, few_trained: TrainedModel
) -> None:
    with registry:
        verdict = validate(registry, 1, few)
    assert verdict.passed, verdict.table()
    found = {line.check: line for line in verdict.lines}
    assert sum("not clearly worse than seasonal naive" in check for check in found) == 2
    told = found["all windows: better than seasonal naive"].note
    stores = few_trained.card["data"]["stores"]
    assert re.search(rf"tested on \d+ weeks of {'1 store,' if stores == 1 else '5 stores,'}", told)
    biases = [line for check, line in found.items() if "bias of the total" in check]
    assert all("wider limit for" in line.note for line in biases)
    assert all(line.limit is not None and line.limit > few.gate_bias for line in biases)


def test_limits_are_those_of_a_chain_again_with_twelve_stores() -> None:
    limits = [
        coverage_and_bias_checks(evidence(window(n, 0.1, 0.2)), LIMITS)[-1].limit
        for n in (1, 3, 11, 12)
    ]
    assert limits == sorted(limits, key=lambda limit: -(limit or 0))
    assert limits[-1] == LIMITS.gate_bias
    assert (limits[0] or 0) < 0.2
    one, chain = (
        coverage_and_bias_checks(evidence(window(n, 0.1, 0.2)), LIMITS)[0] for n in (1, 12)
    )
    assert one.passed
    assert "wider limit for 1 store" in one.note
    assert not chain.passed
    assert "wider" not in chain.note


def test_a_forecast_that_is_far_off_does_not_pass_for_one_store() -> None:
    off = window(1, 0.05, 0.2)
    off = replace(off, forecast=off.forecast * 1.3)
    assert not coverage_and_bias_checks(evidence(off), LIMITS)[-1].passed
    *windows, together = checks_against_baseline([off, window(1, 0.3, 0.1, first=15_001)], LIMITS)
    assert [line.passed for line in windows] == [False, False]
    assert not together.passed


def test_bad_luck_in_one_window_is_made_up_by_the_other() -> None:
    lucky = window(1, 0.1, 0.1)
    unlucky = replace(lucky, forecast=lucky.naive, naive=lucky.forecast)
    lines = checks_against_baseline([unlucky, window(1, 0.05, 0.2, first=15_001)], LIMITS)
    assert [line.passed for line in lines] == [True, True, True]
    assert lines[0].value is not None
    assert lines[0].limit is not None
    assert lines[0].value > lines[0].limit
    *_, alone = checks_against_baseline([unlucky], LIMITS)
    assert not alone.passed


def test_too_few_weeks_are_named_as_such() -> None:
    *_, together = checks_against_baseline([window(1, 0.01, 0.3, days=21, first=16_002)], LIMITS)
    assert not together.passed
    assert "too few to tell luck from skill" in together.note
    *_, enough = checks_against_baseline([window(5, 0.01, 0.3, days=21, first=16_002)], LIMITS)
    assert enough.passed
    assert "too few" not in enough.note


def test_what_is_no_number_fails_for_few_stores_too() -> None:
    broken = window(2, 0.1, 0.2)
    broken.forecast[3] = np.nan
    assert not any(line.passed for line in checks_against_baseline([broken], LIMITS))


@pytest.mark.parametrize("words", [("--windows", "3", "--horizon", "1"), ("--horizon", "14")])
def test_the_report_is_sound(
    few: Settings, words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even of a few rows: no gap, no number that is none, and it says that the stores are few."""
    monkeypatch.setenv("ROSSMANN_DATA_DIR", str(few.data_dir))
    monkeypatch.setenv("ROSSMANN_DEMO", "true")
    monkeypatch.setenv("ROSSMANN_THREADS", "1")
    monkeypatch.setenv("ROSSMANN_MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    profiles = {name: one.model_dump() for name, one in few.profiles.items()}
    monkeypatch.setenv("ROSSMANN_PROFILES", json.dumps(profiles))
    asked = ["backtest", "--profile", "quick", *words, "-o", str(tmp_path)]
    given = CliRunner().invoke(app, asked)
    assert given.exit_code == 0, given.output
    page, data = (tmp_path / "report.html").read_text(), (tmp_path / "report.json").read_text()
    for wrong in ("nan", "NaN", "None", "inf "):
        assert wrong not in page
    assert "null" not in data
    stores = json.loads(data)["data"]["stores"]
    assert f"rows of {'1 store' if stores == 1 else '5 stores'}, " in page
    assert "Few stores:" in page
    assert "thousands a day" in page


def test_a_window_without_sales_says_what_to_do(few: Settings) -> None:
    whole = open_panel(make_dataset(few))
    tables = {n: whole.info.folder / f"{n}.parquet" for n in ("history", "schedule", "stores")}
    frames = {name: pl.read_parquet(path) for name, path in tables.items()}
    frames["history"] = frames["history"].with_columns(
        pl.when(pl.col("Date") > to_date(whole.last_day - 48)).then(0).otherwise("Open")
        .cast(pl.UInt8).alias("Open")
    )  # fmt: skip
    with pytest.raises(DataError, match="`windows` in the parameters file"):
        build_windows(in_memory_panel(whole.info, frames, 1), (48,), 48, 31)
