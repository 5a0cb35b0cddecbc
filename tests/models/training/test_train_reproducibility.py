"""The same data, parameters and seed give the same forecasts, to the bit, in another process."""

import json
import os
import subprocess
import sys

import numpy as np
import polars as pl
import pytest

from rossmann.data.make_dataset import make_dataset
from rossmann.data.panel.panel import Panel, in_memory_panel
from rossmann.models.publishing.trained_model import TrainedModel
from rossmann.schema import StoreDays
from rossmann.settings import Settings

FIT = """
import hashlib, json, sys
from rossmann.data.make_dataset import make_dataset
from rossmann.data.panel.panel import open_panel
from rossmann.models.members.fit import draw_examples
from rossmann.models.evaluation.backtest import backtest
from rossmann.settings import load_settings

settings = load_settings()
panel = open_panel(make_dataset(settings))
examples = draw_examples(panel, settings.history_days, settings.seed)
profile = settings.profile("quick")
(outcome,) = backtest(settings, panel, examples, profile, lambda line: None, [48])
told = {name: hashlib.sha256(f.tobytes()).hexdigest() for name, f in outcome.forecasts.items()}
json.dump(told, sys.stdout)
"""


@pytest.fixture(scope="module")
def digests(chain_settings: Settings) -> dict[tuple[int, str], dict[str, str]]:
    """Of every forecast, by threads and run: four trainings, each in a process of its own."""
    profiles = {name: one.model_dump() for name, one in chain_settings.profiles.items()}
    found = {}
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
            found[threads, run] = json.loads(process.stdout)
    return found


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", ["lightgbm", "xgboost", "catboost", "ensemble"])
def test_two_trainings_forecast_the_same(
    digests: dict[tuple[int, str], dict[str, str]], name: str, threads: int
) -> None:
    assert digests[threads, "first"][name] == digests[threads, "second"][name]
    assert len(set(digests[threads, "first"].values())) == len(digests[threads, "first"])


@pytest.mark.parametrize("name", ["lightgbm", "xgboost", "catboost", "ensemble"])
def test_the_threads_do_not_matter_on_a_small_chain(
    digests: dict[tuple[int, str], dict[str, str]], name: str
) -> None:
    assert digests[1, "first"][name] == digests[2, "first"][name]


def test_the_filter_alone_does_not_depend_on_threads(
    digests: dict[tuple[int, str], dict[str, str]],
) -> None:
    for name in ("kalman", "median", "seasonal_naive"):
        assert len({told[name] for told in digests.values()}) == 1


def rows_of(panel: Panel) -> StoreDays:
    days = np.arange(panel.last_day + 1, panel.last_day + 49)
    stores = np.repeat(panel.store_numbers, len(days))
    return panel.schedule(stores, np.tile(days, len(panel.store_numbers)))


@pytest.mark.parametrize("threads", [2, 3])
def test_the_features_do_not_depend_on_threads(chain_settings: Settings, threads: int) -> None:
    info = make_dataset(chain_settings)
    names = ("history", "schedule", "stores")
    tables = {name: pl.read_parquet(info.folder / f"{name}.parquet") for name in names}
    one, more = (in_memory_panel(info, tables, count) for count in (1, threads))
    for name, array, other in zip(one.arrays._fields, one.arrays, more.arrays, strict=True):
        assert array.tobytes() == other.tobytes(), name
    rows = rows_of(one)
    assert one.matrix(rows, one.last_day).tobytes() == more.matrix(rows, more.last_day).tobytes()


def test_the_card_says_how_many_threads_fitted_it(
    chain_settings: Settings, trained: TrainedModel
) -> None:
    assert trained.card["params"]["threads"] == chain_settings.thread_count == 1
    assert trained.card["params"]["seed"] == chain_settings.seed
