"""Reload of new data in a running service: atomic, and only after the data is built."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from fastapi.testclient import TestClient

from rossmann.data.demo.write_tables import LAST_DAY, write_demo
from rossmann.data.make_dataset import make_dataset
from rossmann.data.panel.panel import Panel, build_panel, open_panel
from rossmann.data.tables.ingest import ingest
from rossmann.errors import CorruptModelError
from rossmann.models.inference.forecaster import Forecaster, ForecastRequest
from rossmann.schema import Dataset, Stage, StoreDays
from rossmann.serving.app import create_app
from rossmann.serving.runtime.service import DataReloader, Service, warm_up
from rossmann.serving.runtime.version_manager import VersionManager
from rossmann.settings import Settings, load_settings

NEXT_DAY = LAST_DAY + timedelta(days=1)
NEW_SALES = 4321


@dataclass
class Running:
    """A service with its own demo chain."""

    settings: Settings
    service: Service
    api: TestClient

    def data(self) -> dict[str, Any]:
        data: dict[str, Any] = self.api.get("/health").json()["data"]
        assert self.api.get("/model/info").json()["data"]["panel"] == data
        return data

    def predict(self, day: date, stage: str | int = "Production") -> dict[str, Any]:
        row = {"Store": 1, "DayOfWeek": day.isoweekday(), "Date": day.isoformat(), "Open": 1,
               "Promo": 1, "StateHoliday": "0", "SchoolHoliday": 0}  # fmt: skip
        response = self.api.post("/predict", json={"inputs": [row], "model_stage": stage})
        assert response.status_code == 200, response.text
        body: dict[str, Any] = response.json()
        return body


@pytest.fixture
def running(
    tmp_path: Path, registry: Any, make_forecaster: Callable[[Path], Forecaster]
) -> Running:
    settings = load_settings(data_dir=tmp_path, demo=True, threads=1, reload_seconds=3600)
    write_demo(settings.demo_raw_dir, seed=5, stores=3, days=60, schedule_days=20)
    panel = build_data(settings)

    def make(folder: Path, panel: Panel = panel) -> Forecaster:
        return make_forecaster(folder).with_panel(panel)

    versions = VersionManager(registry, settings.model_cache_dir, make)
    versions.start()
    reloader = DataReloader(settings, versions, panel, make, warm_up)  # type: ignore[arg-type]
    service = Service(panel, versions, registry, lambda _: None, reloader.reload_if_changed)
    return Running(settings, service, TestClient(create_app(settings, service), "http://localhost"))


def build_data(settings: Settings) -> Panel:
    info = make_dataset(settings)
    build_panel(info, threads=1)
    return open_panel(info)


def ingest_days(settings: Settings, days: int = 1) -> None:
    row = {"Sales": NEW_SALES, "Customers": 400, "Open": 1, "Promo": 0, "StateHoliday": "0",
           "SchoolHoliday": 0}  # fmt: skip
    dates = [NEXT_DAY + timedelta(days=offset) for offset in range(days)]
    rows = [
        {"Store": store, "DayOfWeek": day.isoweekday(), "Date": day.isoformat(), **row}
        for day in dates
        for store in (1, 2, 3)
    ]
    path = settings.data_dir / "new.csv"
    pl.DataFrame(rows).write_csv(path)
    ingest(settings, path)


def test_new_data_is_used_only_after_it_is_built(running: Running) -> None:
    old = running.data()
    running.service.versions.load(Stage.STAGING)
    assert running.predict(NEXT_DAY + timedelta(days=1))["as_of"] == LAST_DAY.isoformat()
    ingest_days(running.settings)
    running.service.reload_data()
    assert running.data() == old, "the clean tables are not built"
    info = make_dataset(running.settings)
    running.service.reload_data()
    assert running.data() == old, "the arrays are not built"
    build_panel(info, threads=1)
    assert running.data() == old
    running.service.reload_data()
    new = running.data()
    assert (new["version"], new["last_day"]) == (info.version, NEXT_DAY.isoformat())
    for stage in ("Production", "Staging", 3):
        response = running.predict(NEXT_DAY + timedelta(days=1), stage)
        assert response["as_of"] == NEXT_DAY.isoformat()
    history = running.api.get("/stores/1/history", params={"days": 1}).json()["days"]
    assert [(day["Date"], day["Sales"]) for day in history] == [(NEXT_DAY.isoformat(), NEW_SALES)]
    assert running.api.get("/stores/1").json()["last_sales"] == NEW_SALES
    plan = running.api.get("/stores/1/plan", params={"days": 1}).json()
    assert plan["start"] == (NEXT_DAY + timedelta(days=1)).isoformat()


def test_version_promoted_after_a_reload_uses_the_new_data(running: Running) -> None:
    ingest_days(running.settings)
    build_data(running.settings)
    running.service.reload_data()
    running.service.registry.promote(3, "", "test")
    running.service.versions.poll()
    response = running.predict(NEXT_DAY + timedelta(days=1))
    assert (response["model_version"], response["as_of"]) == (3, NEXT_DAY.isoformat())


def test_unchanged_data_is_not_reloaded(running: Running) -> None:
    before = running.service.versions.production
    running.service.reload_data()
    assert running.service.versions.production is before


def test_data_of_another_dataset_is_not_loaded(running: Running) -> None:
    old = running.data()
    settings = running.settings.model_copy(update={"demo": False})
    write_demo(settings.raw_dir, seed=6, stores=3, days=60, schedule_days=20)
    assert build_data(settings).info.dataset is Dataset.REAL
    reloader = DataReloader(
        settings, running.service.versions, running.service.panel, fail_to_load, lambda *_: None
    )
    reloader.reload_if_changed()
    assert running.data() == old


def test_data_that_fails_the_warm_up_is_rejected_and_not_retried(running: Running) -> None:
    before, attempts = running.service.versions.production, []

    def reject(new: Forecaster, panel: object) -> None:
        attempts.append(new)
        raise CorruptModelError("no")

    reloader = DataReloader(
        running.settings, running.service.versions, running.service.panel, fail_to_load, reject
    )
    ingest_days(running.settings)
    build_data(running.settings)
    reloader.reload_if_changed()
    reloader.reload_if_changed()
    assert len(attempts) == 1
    assert running.service.versions.production is before
    assert running.predict(NEXT_DAY)["as_of"] == LAST_DAY.isoformat()


def fail_to_load(folder: Path, panel: object) -> Forecaster:
    raise AssertionError("no version may be loaded")


def test_no_response_mixes_two_data_versions(running: Running) -> None:
    """While two panels alternate, each response is consistent with one of them."""
    versions, old = running.service.versions, running.service.panel
    ingest_days(running.settings, days=2)
    panels = (old, build_data(running.settings))
    day = np.array([panels[1].last_day + 1], np.int32)
    flag = np.ones(1, np.uint8)
    rows = StoreDays(np.ones(1, np.int32), day, flag, flag, flag * 0, flag * 0)
    assert versions.production is not None
    expected = {}
    for panel in panels:
        forecast = versions.production.forecaster.with_panel(panel).forecast(ForecastRequest(rows))
        expected[forecast.as_of] = forecast.sales.tolist()
    assert len({str(sales) for sales in expected.values()}) == 2
    stop = threading.Event()

    def request_repeatedly() -> int:
        count = 0
        while not stop.is_set() or not count:
            response = running.predict(NEXT_DAY + timedelta(days=2))
            as_of = (date.fromisoformat(response["as_of"]) - date(1970, 1, 1)).days
            assert response["predictions"] == expected[as_of]
            count += 1
        return count

    with ThreadPoolExecutor(3) as pool:
        futures = [pool.submit(request_repeatedly) for _ in range(3)]
        for attempt in range(60):
            panel = panels[attempt % 2]
            versions.replace_panel(
                lambda _: fail_to_load(_, None), lambda f, to=panel: f.with_panel(to)
            )  # type: ignore[misc]
        stop.set()
        assert all(future.result() > 0 for future in futures)


def test_failed_panel_replacement_changes_no_version(running: Running) -> None:
    versions = running.service.versions
    versions.load(Stage.STAGING)
    before = {n: versions.load(n).served for n in versions.loaded}

    def replace_forecaster(old: Forecaster) -> Forecaster:
        if old is before[2].forecaster:
            raise CorruptModelError("no")
        return old.with_panel(old.panel)

    with pytest.raises(CorruptModelError):
        versions.replace_panel(lambda _: fail_to_load(_, None), replace_forecaster)
    assert {n: versions.load(n).served for n in versions.loaded} == before
    assert versions.load(3).served.version == 3
    assert replace(before[1]) == versions.production


def test_background_reload_starts_with_the_service(running: Running) -> None:
    polled = threading.Event()
    settings = running.settings.model_copy(update={"reload_seconds": 0.01})
    service = replace(running.service, reload_data=polled.set)
    with TestClient(create_app(settings, service), "http://localhost"):
        assert polled.wait(30)
