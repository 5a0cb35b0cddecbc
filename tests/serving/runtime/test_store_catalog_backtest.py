"""The Production version's backtest forecasts: when they are loaded, and ``GET .../history``."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from rossmann.data.panel.panel import Panel
from rossmann.epoch_days import format_iso_day, parse_iso_day
from rossmann.errors import CorruptModelError, ServiceError
from rossmann.models.gate.backtest_predictions import (
    PREDICTIONS_FILE,
    BacktestPredictions,
    WindowPredictions,
    read_predictions,
)
from rossmann.models.inference.forecaster import Forecaster
from rossmann.models.publishing.register import register
from rossmann.models.publishing.trained_model import TrainedModel
from rossmann.models.registry.registry import Registry
from rossmann.serving.app import create_app
from rossmann.serving.client.client import Client
from rossmann.serving.runtime import store_catalog
from rossmann.serving.runtime.registry_view import LoadedVersion
from rossmann.serving.runtime.service import Service, build_service
from rossmann.serving.runtime.store_catalog import BacktestForecasts
from rossmann.settings import Settings

Live = Callable[[FastAPI], AbstractContextManager[str]]


class Loader:
    """Loads the same predictions for every version; ``error`` makes it fail."""

    def __init__(self, predictions: BacktestPredictions) -> None:
        self.predictions = predictions
        self.error: Exception | None = None
        self.versions: list[int] = []

    def __call__(self, version: LoadedVersion) -> BacktestPredictions:
        self.versions.append(version.version)
        if self.error is not None:
            raise self.error
        return self.predictions


@pytest.fixture
def predictions(panel: Panel) -> BacktestPredictions:
    """Store 1 on the last five days but the second, from an origin six days back."""
    days = panel.last_day - np.array([4, 2, 1, 0], np.int32)
    values = np.array([10.5, 20.5, 30.5, 40.5])
    store = np.full(4, int(panel.store_numbers[0]), np.int32)
    origin = format_iso_day(panel.last_day - 6)
    window = WindowPredictions(origin, 7, store, days, values, values, values)
    return BacktestPredictions((window,), {})


@pytest.fixture
def loader(predictions: BacktestPredictions) -> Loader:
    return Loader(predictions)


@pytest.fixture
def backtests(service: Service, loader: Loader) -> BacktestForecasts:
    return BacktestForecasts(service.versions, loader)


def current_version(backtests: BacktestForecasts) -> int | None:
    backtest = backtests.current()
    return None if backtest is None else backtest.version


def test_each_production_version_is_loaded_once(
    backtests: BacktestForecasts, loader: Loader, service: Service, registry: Any
) -> None:
    assert current_version(backtests) is None
    for _ in range(3):
        backtests.refresh()
        assert current_version(backtests) == 1
    registry.promote(2, "", "")
    service.versions.poll()
    assert current_version(backtests) is None  # never another version's
    backtests.refresh()
    assert current_version(backtests) == 2
    assert loader.versions == [1, 2]


def test_without_an_answer_of_the_registry_it_is_tried_again_later(
    backtests: BacktestForecasts, loader: Loader, monkeypatch: pytest.MonkeyPatch
) -> None:
    loader.error = ServiceError("the registry is away")
    for _ in range(3):
        backtests.refresh()
    assert loader.versions == [1] and current_version(backtests) is None
    monkeypatch.setattr(store_catalog, "_RETRY_SECONDS", 0.0)
    backtests._retry_at = 0.0
    loader.error = OSError("the disk is full")
    backtests.refresh()
    loader.error = None
    backtests.refresh()
    assert loader.versions == [1, 1, 1] and current_version(backtests) == 1


def test_an_unreachable_registry_is_not_asked(
    backtests: BacktestForecasts, loader: Loader, service: Service, registry: Any
) -> None:
    registry.unavailable = True
    service.versions.poll()
    backtests.refresh()
    assert loader.versions == []


def test_a_version_without_a_record_has_no_backtest(
    backtests: BacktestForecasts, loader: Loader
) -> None:
    loader.error = CorruptModelError("version 1 has no record of its backtest's rows")
    for _ in range(3):
        backtests.refresh()
    assert loader.versions == [1] and current_version(backtests) is None


def test_the_backtest_of_another_chain_is_not_used(
    backtests: BacktestForecasts, loader: Loader, service: Service
) -> None:
    production = service.versions.production
    assert production is not None
    card = production.forecaster.ensemble.card
    card["data"] |= {"dataset": "rossmann"}
    foreign = replace(
        production, forecaster=Forecaster(service.panel, production.forecaster.ensemble)
    )
    service.versions._production = foreign
    backtests.refresh()
    assert loader.versions == [] and current_version(backtests) is None


def test_history_has_the_backtest_forecasts(
    service: Service,
    backtests: BacktestForecasts,
    serving_settings: Settings,
    panel: Panel,
    live: Live,
) -> None:
    app = create_app(serving_settings, replace(service, backtest=backtests.current))
    with live(app) as url, Client(url) as client:
        store, other = (int(number) for number in panel.store_numbers[:2])
        before = client.history(store, 5)
        assert before.backtest_version is None
        assert [day.backtest for day in before.days] == [None] * 5
        backtests.refresh()
        history = client.history(store, 5)
        assert history.backtest_version == 1
        forecasts = [
            None if day.backtest is None else day.backtest.forecast for day in history.days
        ]
        assert forecasts == [10.5, None, 20.5, 30.5, 40.5]
        origins = {day.backtest.as_of for day in history.days if day.backtest is not None}
        assert [parse_iso_day(day.isoformat()) for day in origins] == [panel.last_day - 6]
        until = format_iso_day(panel.last_day - 1)
        (day,) = client.history(store, 1, until).days
        assert day.backtest is not None and day.backtest.forecast == 30.5
        assert all(day.backtest is None for day in client.history(other, 5).days)
        # All other fields are as without it.
        fields = {"backtest", "backtest_version"}
        plain = history.model_dump(exclude={"backtest_version": True, "days": {"__all__": fields}})
        assert plain == before.model_dump(
            exclude={"backtest_version": True, "days": {"__all__": fields}}
        )


def test_service_reads_the_backtest_of_production_from_the_registry(
    trained: TrainedModel,
    chain_settings: Settings,
    tmp_path: Path,
    panel: Panel,
    running_mlflow: Callable[[Path, dict[str, str]], AbstractContextManager[str]],
) -> None:
    for name in ("demo", "processed"):
        (tmp_path / name).symlink_to(chain_settings.data_dir / name)
    (tmp_path / "registry").mkdir()
    with running_mlflow(tmp_path / "registry", {}) as uri:
        changes = {"data_dir": tmp_path, "mlflow_tracking_uri": uri}
        settings = chain_settings.model_copy(update=changes)
        version = register(trained, settings).version
        with Registry(uri) as registry:
            registry.promote(version, "first", "test")
        service = build_service(settings)
        assert service.backtest() is None
        service.reload_data()
        api = TestClient(create_app(settings, service), "http://localhost")
        window = read_predictions(trained.folder / PREDICTIONS_FILE).windows[-1]
        store = int(panel.store_numbers[2])
        body = api.get(f"/stores/{store}/history", params={"days": window.days}).json()
    assert body["backtest_version"] == version
    expected = {
        format_iso_day(int(window.day[n])): window.forecast[n]
        for n in np.flatnonzero(window.store == store)
    }
    served = {day["Date"]: day["backtest"] for day in body["days"] if day["backtest"]}
    assert {day: one["forecast"] for day, one in served.items()} == expected
    assert {date.fromisoformat(one["as_of"]).isoformat() for one in served.values()} == {
        window.origin
    }
    assert len(expected) > window.days / 2
