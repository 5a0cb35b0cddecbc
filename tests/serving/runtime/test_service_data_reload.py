"""A running service takes over new days between two requests, whole, and only when ready."""

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

NEXT = LAST_DAY + timedelta(days=1)
SOLD = 4321


@dataclass
class Running:
    """A service over a chain of its own."""

    settings: Settings
    service: Service
    api: TestClient

    def data(self) -> dict[str, Any]:
        found: dict[str, Any] = self.api.get("/health").json()["data"]
        assert self.api.get("/model/info").json()["data"]["panel"] == found
        return found

    def predict(self, day: date, stage: str | int = "Production") -> dict[str, Any]:
        row = {"Store": 1, "DayOfWeek": day.isoweekday(), "Date": day.isoformat(), "Open": 1,
               "Promo": 1, "StateHoliday": "0", "SchoolHoliday": 0}  # fmt: skip
        answer = self.api.post("/predict", json={"inputs": [row], "model_stage": stage})
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found


@pytest.fixture
def running(
    tmp_path: Path, registry: Any, make_forecaster: Callable[[Path], Forecaster]
) -> Running:
    settings = load_settings(data_dir=tmp_path, demo=True, threads=1, reload_seconds=3600)
    write_demo(settings.demo_raw_dir, seed=5, stores=3, days=60, schedule_days=20)
    panel = prepared(settings)

    def make(folder: Path, panel: Panel = panel) -> Forecaster:
        return make_forecaster(folder).with_panel(panel)

    versions = VersionManager(registry, settings.model_cache_dir, make)
    versions.start()
    watch = DataReloader(settings, versions, panel, make, warm_up)  # type: ignore[arg-type]
    service = Service(panel, versions, registry, lambda _: None, watch.reload_if_changed)
    return Running(settings, service, TestClient(create_app(settings, service)))


def prepared(settings: Settings) -> Panel:
    info = make_dataset(settings)
    build_panel(info, threads=1)
    return open_panel(info)


def take_in(settings: Settings, days: int = 1) -> None:
    row = {"Sales": SOLD, "Customers": 400, "Open": 1, "Promo": 0, "StateHoliday": "0",
           "SchoolHoliday": 0}  # fmt: skip
    when = [NEXT + timedelta(days=offset) for offset in range(days)]
    rows = [
        {"Store": store, "DayOfWeek": day.isoweekday(), "Date": day.isoformat(), **row}
        for day in when
        for store in (1, 2, 3)
    ]
    path = settings.data_dir / "new.csv"
    pl.DataFrame(rows).write_csv(path)
    ingest(settings, path)


def test_new_days_are_taken_over_when_they_are_ready(running: Running) -> None:
    old = running.data()
    running.service.versions.load(Stage.STAGING)
    assert running.predict(NEXT + timedelta(days=1))["as_of"] == LAST_DAY.isoformat()
    take_in(running.settings)
    running.service.reload_data()
    assert running.data() == old, "tables that are not prepared"
    info = make_dataset(running.settings)
    running.service.reload_data()
    assert running.data() == old, "arrays that are not built"
    build_panel(info, threads=1)
    assert running.data() == old
    running.service.reload_data()
    new = running.data()
    assert (new["version"], new["last_day"]) == (info.version, NEXT.isoformat())
    for stage in ("Production", "Staging", 3):
        answer = running.predict(NEXT + timedelta(days=1), stage)
        assert answer["as_of"] == NEXT.isoformat()
    past = running.api.get("/stores/1/history", params={"days": 1}).json()["days"]
    assert [(day["Date"], day["Sales"]) for day in past] == [(NEXT.isoformat(), SOLD)]
    assert running.api.get("/stores/1").json()["last_sales"] == SOLD
    plan = running.api.get("/stores/1/plan", params={"days": 1}).json()
    assert plan["start"] == (NEXT + timedelta(days=1)).isoformat()


def test_a_version_promoted_later_answers_from_the_new_data(running: Running) -> None:
    take_in(running.settings)
    prepared(running.settings)
    running.service.reload_data()
    running.service.registry.promote(3, "", "test")
    running.service.versions.poll()
    answer = running.predict(NEXT + timedelta(days=1))
    assert (answer["model_version"], answer["as_of"]) == (3, NEXT.isoformat())


def test_the_same_data_is_not_taken_again(running: Running) -> None:
    before = running.service.versions.production
    running.service.reload_data()
    assert running.service.versions.production is before


def test_another_chain_is_not_taken_over(running: Running) -> None:
    old = running.data()
    settings = running.settings.model_copy(update={"demo": False})
    write_demo(settings.raw_dir, seed=6, stores=3, days=60, schedule_days=20)
    assert prepared(settings).info.dataset is Dataset.REAL
    watch = DataReloader(
        settings, running.service.versions, running.service.panel, fail, lambda *_: None
    )
    watch.reload_if_changed()
    assert running.data() == old


def test_data_that_a_version_cannot_answer_from_is_refused_once(running: Running) -> None:
    before, tried = running.service.versions.production, []

    def refuse(new: Forecaster, panel: object) -> None:
        tried.append(new)
        raise CorruptModelError("no")

    watch = DataReloader(
        running.settings, running.service.versions, running.service.panel, fail, refuse
    )
    take_in(running.settings)
    prepared(running.settings)
    watch.reload_if_changed()
    watch.reload_if_changed()
    assert len(tried) == 1
    assert running.service.versions.production is before
    assert running.predict(NEXT)["as_of"] == LAST_DAY.isoformat()


def fail(folder: Path, panel: object) -> Forecaster:
    raise AssertionError("nothing is to be loaded")


def test_no_request_mixes_two_data_versions(running: Running) -> None:
    """While the data go to and fro, each answer is wholly of one of the two."""
    versions, old = running.service.versions, running.service.panel
    take_in(running.settings, days=2)
    panels = (old, prepared(running.settings))
    day = np.array([panels[1].last_day + 1], np.int32)
    flag = np.ones(1, np.uint8)
    rows = StoreDays(np.ones(1, np.int32), day, flag, flag, flag * 0, flag * 0)
    assert versions.production is not None
    expected = {}
    for panel in panels:
        answer = versions.production.forecaster.with_panel(panel).forecast(ForecastRequest(rows))
        expected[answer.as_of] = answer.sales.tolist()
    assert len({str(sales) for sales in expected.values()}) == 2
    stop = threading.Event()

    def ask() -> int:
        count = 0
        while not stop.is_set() or not count:
            answer = running.predict(NEXT + timedelta(days=2))
            as_of = (date.fromisoformat(answer["as_of"]) - date(1970, 1, 1)).days
            assert answer["predictions"] == expected[as_of]
            count += 1
        return count

    with ThreadPoolExecutor(3) as pool:
        asked = [pool.submit(ask) for _ in range(3)]
        for turn in range(60):
            panel = panels[turn % 2]
            versions.replace_panel(lambda _: fail(_, None), lambda f, to=panel: f.with_panel(to))  # type: ignore[misc]
        stop.set()
        assert all(answers.result() > 0 for answers in asked)


def test_what_fails_midway_leaves_all_as_it_was(running: Running) -> None:
    versions = running.service.versions
    versions.load(Stage.STAGING)
    before = {n: versions.load(n).served for n in versions.loaded}

    def change(old: Forecaster) -> Forecaster:
        if old is before[2].forecaster:
            raise CorruptModelError("no")
        return old.with_panel(old.panel)

    with pytest.raises(CorruptModelError):
        versions.replace_panel(lambda _: fail(_, None), change)
    assert {n: versions.load(n).served for n in versions.loaded} == before
    assert versions.load(3).served.version == 3
    assert replace(before[1]) == versions.production


def test_the_background_look_is_started_with_the_service(running: Running) -> None:
    looked = threading.Event()
    settings = running.settings.model_copy(update={"reload_seconds": 0.01})
    service = replace(running.service, reload_data=looked.set)
    with TestClient(create_app(settings, service)):
        assert looked.wait(30)
