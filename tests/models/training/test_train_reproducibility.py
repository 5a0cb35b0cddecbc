"""The same data, parameters and seed give bit-identical forecasts in another process."""

import json
import os
import subprocess
import sys

import numpy as np
import polars as pl
import pytest

from rossmann.data.make_dataset import make_dataset
from rossmann.data.panel.panel import Panel
from rossmann.models.publishing.trained_model import TrainedModel
from rossmann.schema import StoreDays
from rossmann.settings import Settings
from tests.fixtures.panels import in_memory_panel

FIT = """
import hashlib, json, sys
from rossmann.data.make_dataset import make_dataset
from rossmann.data.panel.panel import open_panel
from rossmann.models.members.fit import sample_training_rows
from rossmann.models.evaluation.backtest import BacktestPlan, backtest
from rossmann.settings import load_settings

settings = load_settings()
panel = open_panel(make_dataset(settings))
examples = sample_training_rows(panel, settings.history_days, settings.seed)
profile = settings.profile("quick")
(outcome,) = backtest(settings, panel, examples, profile, lambda line: None, BacktestPlan((48,)))
digests = {name: hashlib.sha256(f.tobytes()).hexdigest() for name, f in outcome.forecasts.items()}
json.dump(digests, sys.stdout)
"""


@pytest.fixture(scope="module")
def digests(chain_settings: Settings) -> dict[tuple[int, str], dict[str, str]]:
    """SHA-256 of every forecast by (threads, run): four trainings, each in its own process."""
    profiles = {name: p.model_dump() for name, p in chain_settings.profiles.items()}
    digests = {}
    for threads in (1, 2):
        for run in ("first", "second"):
            environment = {
                **os.environ,
                "ROSSMANN_DATA_DIR": str(chain_settings.data_dir),
                "ROSSMANN_DEMO": "true",
                "ROSSMANN_PROFILES": json.dumps(profiles),
                "ROSSMANN_THREADS": str(threads),
                "PYTHONHASHSEED": "1" if run == "first" else "2",
            }
            process = subprocess.run(
                [sys.executable, "-c", FIT],
                env=environment,
                capture_output=True,
                text=True,
                check=False,
            )
            assert process.returncode == 0, process.stderr
            digests[threads, run] = json.loads(process.stdout)
    return digests


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", ["lightgbm", "xgboost", "catboost", "ensemble"])
def test_repeated_trainings_forecast_the_same(
    digests: dict[tuple[int, str], dict[str, str]], name: str, threads: int
) -> None:
    assert digests[threads, "first"][name] == digests[threads, "second"][name]
    assert len(set(digests[threads, "first"].values())) == len(digests[threads, "first"])


@pytest.mark.parametrize("name", ["lightgbm", "xgboost", "catboost", "ensemble"])
def test_forecasts_of_a_small_chain_do_not_depend_on_threads(
    digests: dict[tuple[int, str], dict[str, str]], name: str
) -> None:
    assert digests[1, "first"][name] == digests[2, "first"][name]


def test_baselines_do_not_depend_on_threads(digests: dict[tuple[int, str], dict[str, str]]) -> None:
    for name in ("kalman", "median", "seasonal_naive"):
        assert len({by_name[name] for by_name in digests.values()}) == 1


def all_rows(panel: Panel) -> StoreDays:
    days = np.arange(panel.last_day + 1, panel.last_day + 49)
    stores = np.repeat(panel.store_numbers, len(days))
    return panel.schedule(stores, np.tile(days, len(panel.store_numbers)))


@pytest.mark.parametrize("threads", [2, 3])
def test_features_do_not_depend_on_threads(chain_settings: Settings, threads: int) -> None:
    info = make_dataset(chain_settings)
    names = ("history", "schedule", "stores")
    tables = {name: pl.read_parquet(info.folder / f"{name}.parquet") for name in names}
    single, multi = (in_memory_panel(info, tables, count) for count in (1, threads))
    for name, array, other in zip(single.arrays._fields, single.arrays, multi.arrays, strict=True):
        assert array.tobytes() == other.tobytes(), name
    rows = all_rows(single)
    matrices = [panel.matrix(rows, panel.last_day).tobytes() for panel in (single, multi)]
    assert matrices[0] == matrices[1]


def test_card_records_threads_and_seed(chain_settings: Settings, trained: TrainedModel) -> None:
    assert trained.card["params"]["threads"] == chain_settings.thread_count == 1
    assert trained.card["params"]["seed"] == chain_settings.seed
