"""The challenger behind every answer: never in its way, and in the log once."""

import asyncio
import json
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from fastapi import FastAPI
from fastapi.testclient import TestClient

from rossmann.data.panel.panel import Panel
from rossmann.models.inference.forecaster import Forecaster, ForecastRequest
from rossmann.schema import FeatureMatrix, FloatArray, StoreDays
from rossmann.serving.experiments.experiment import Experiment, hash_fraction
from rossmann.serving.experiments.shadow import ShadowJob, ShadowRunner
from rossmann.serving.observability.access_log import RequestRecord
from rossmann.serving.observability.metrics import Metrics
from rossmann.serving.observability.prediction_recorder import PredictCall, PredictionRecorder
from rossmann.serving.runtime.service import Service
from rossmann.settings import Settings

MakeRow = Callable[..., dict[str, Any]]
MakeForecaster = Callable[[Path], Forecaster]
Run = Callable[..., AbstractContextManager[TestClient]]


@pytest.fixture
def make_forecaster(make_rivals: MakeForecaster) -> MakeForecaster:
    return make_rivals


@pytest.fixture
def rows(row: MakeRow, panel: Panel) -> list[dict[str, Any]]:
    """A day of every store, one of them closed."""
    return [row(5, Store=int(s), Open=int(s != 3)) for s in panel.store_numbers[::-1]]


def ask(client: TestClient, rows: list[dict[str, Any]], **options: Any) -> dict[str, Any]:
    answer = client.post("/predict", json={"inputs": rows, **options})
    assert answer.status_code == 200, answer.text
    told: dict[str, Any] = answer.json()
    return told


def logged(settings: Settings) -> list[dict[str, Any]]:
    """The rows of the log once the service has ended, by request, version and place."""
    engine = sa.create_engine(settings.log_url)
    with engine.connect() as connection:
        order = 'ORDER BY request_id, model_version, "row"'
        found = connection.exec_driver_sql(f"SELECT * FROM predictions {order}").mappings().all()
    engine.dispose()
    return [dict(line) for line in found]


def wait_for(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def queue(client: TestClient) -> dict[str, Any]:
    told: dict[str, Any] = client.get("/experiments/current").json()["queue"]
    return told


def test_every_answer_is_logged_once_and_once_in_the_shadow(
    experiment: Run, rows: list[dict[str, Any]], serving_settings: Settings
) -> None:
    early = {"as_of": "2015-06-30", "intervals": [0.8]}
    with experiment(experiment="shadow") as client:
        first = ask(client, rows[:3])
        many = ask(client, rows, **early)
        named = ask(client, rows, model_stage=2, **early)
        totals = ask(client, rows[:4], totals=["chain"])
        drivers = client.post("/explain", json={"inputs": rows[:2]}).json()
        wait_for(lambda: queue(client)["done"] == 3 + len(rows) + 4 + 2)
        assert many["challenger"] is None and many["model_version"] == 1
    found = logged(serving_settings)
    counts = Counter((r["request_id"], r["role"], r["model_version"]) for r in found)
    expected = {(named["request_id"], "answer", 2): len(rows)}
    for told in (first, many, totals, drivers):
        expected[told["request_id"], "answer", 1] = told["count"]
        expected[told["request_id"], "shadow", 2] = told["count"]
    assert counts == expected
    shadows = [r for r in found if r["request_id"] == many["request_id"] and r["role"] == "shadow"]
    assert [r["row"] for r in shadows] == list(range(len(rows)))
    assert [r["store"] for r in shadows] == [one["Store"] for one in rows]
    assert [r["forecast"] for r in shadows] == named["predictions"]
    assert [r["upper_80"] for r in shadows] == named["intervals"][0]["upper"]
    assert {(r["as_of"], r["model_stage"], r["door"]) for r in shadows} == {
        ("2015-06-30", "Staging", "predict")
    }


def test_a_share_is_logged_by_who_answered_each_row(
    experiment: Run, rows: list[dict[str, Any]], serving_settings: Settings
) -> None:
    with experiment(experiment="ab") as client:
        told = ask(client, rows, intervals=[0.95])
        page = client.get("/metrics").text
    theirs = [n for n, row in enumerate(rows) if hash_fraction("1", row["Store"]) < 0.4]
    found = {r["row"]: r for r in logged(serving_settings)}
    assert sorted(found) == list(range(len(rows))) and len(logged(serving_settings)) == len(rows)
    for place, line in found.items():
        who = ("challenger", 2, "Staging") if place in theirs else ("answer", 1, "Production")
        assert (line["role"], line["model_version"], line["model_stage"]) == who
        assert line["forecast"] == told["predictions"][place]
        assert line["lower_95"] == told["intervals"][0]["lower"][place]
        assert line["store"] == rows[place]["Store"]
    assert f'rossmann_experiment_rows_total{{role="challenger"}} {len(theirs)}.0' in page
    assert f'rossmann_experiment_rows_total{{role="answer"}} {len(rows) - len(theirs)}.0' in page


def test_a_challenger_that_hangs_delays_no_answer(
    experiment: Run,
    service: Service,
    rows: list[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    free, reached = threading.Event(), threading.Event()

    def hang(matrix: FeatureMatrix, threads: int = 1) -> FloatArray:
        reached.set()
        assert free.wait(60)
        return np.ones(len(matrix))

    with experiment(experiment="shadow") as client:
        ensemble = service.versions.load(2).served.forecaster.ensemble
        monkeypatch.setattr(ensemble, "predict", hang)
        for _ in range(5):
            ask(client, rows[:2])
            ask(client, rows)
        assert reached.wait(30)
        assert queue(client)["waiting"] == 5 * (2 + len(rows))
        free.set()
        wait_for(lambda: queue(client)["waiting"] == 0)
        assert queue(client)["done"] == 5 * (2 + len(rows))


@pytest.mark.parametrize("surprise", [ValueError("odd"), MemoryError()], ids=repr)
def test_a_challenger_that_raises_fails_no_answer(
    experiment: Run,
    service: Service,
    rows: list[dict[str, Any]],
    serving_settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    surprise: Exception,
) -> None:
    def fail(matrix: FeatureMatrix, threads: int = 1) -> FloatArray:
        raise surprise

    with experiment(experiment="shadow") as client:
        before = ask(client, rows)
        wait_for(lambda: queue(client)["done"] == len(rows))
        ensemble = service.versions.load(2).served.forecaster.ensemble
        with monkeypatch.context() as patch:
            patch.setattr(ensemble, "predict", fail)
            assert ask(client, rows)["predictions"] == before["predictions"]
            wait_for(lambda: queue(client)["failed"] == len(rows))
            assert queue(client)["last_error"] == repr(surprise)
        ask(client, rows[:2])
        wait_for(lambda: queue(client)["done"] == len(rows) + 2)
    assert Counter(r["role"] for r in logged(serving_settings)) == {
        "answer": 2 * len(rows) + 2,
        "shadow": len(rows) + 2,
    }


def test_the_challenger_begins_when_the_answer_is_sent(
    make_app: Callable[..., FastAPI],
    rows: list[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    steps: list[str] = []
    monkeypatch.setattr(ShadowRunner, "submit", lambda *_: steps.append("shadow"))
    app = make_app(experiment="shadow")
    body = json.dumps({"inputs": rows[:2]}).encode()
    scope = {"type": "http", "method": "POST", "path": "/predict", "raw_path": b"/predict",
             "query_string": b"", "headers": [], "client": ("127.0.0.1", 1), "root_path": "",
             "server": ("127.0.0.1", 80), "scheme": "http", "http_version": "1.1"}  # fmt: skip

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        steps.append(message["type"])

    with TestClient(app):
        asyncio.run(app(scope, receive, send))  # type: ignore[arg-type]
    assert steps == ["http.response.start", "http.response.body", "shadow"]


@pytest.fixture
def idle(service: Service, serving_settings: Settings) -> ShadowRunner:
    """A shadow with room for ten rows, not yet started."""
    trial = Experiment(serving_settings, service.versions)
    trial.refresh_challenger()
    return ShadowRunner(trial, PredictionRecorder(None), Metrics(), max_rows=10)


def job(panel: Panel, count: int, levels: tuple[float, ...] = ()) -> ShadowJob:
    days = np.arange(panel.last_day + 1, panel.last_day + 1 + count, dtype=np.int32)
    rows: StoreDays = panel.store_schedule(int(panel.store_numbers[0]), days)
    record = RequestRecord("one", "POST", "/predict")
    call = PredictCall("predict", record, None, 0.0)  # type: ignore[arg-type]
    return ShadowJob(call, panel, ForecastRequest(rows, levels=levels), panel.last_day)


def test_what_finds_the_queue_full_is_dropped_and_counted(idle: ShadowRunner, panel: Panel) -> None:
    for count in (4, 6, 1, 3):
        idle.submit(job(panel, count))
    assert (idle.waiting, idle.dropped) == (10, 4)
    idle.start()
    wait_for(lambda: idle.waiting == 0)
    assert (idle.done, idle.dropped) == (10, 4)
    idle.submit(job(panel, 40))  # larger than all the room, and nothing else is there
    wait_for(lambda: idle.done == 50)
    idle.close()
    idle.submit(job(panel, 1))
    assert idle.dropped == 5


def test_at_the_end_what_waits_is_worked_on_for_a_while(idle: ShadowRunner, panel: Panel) -> None:
    idle.submit(job(panel, 4))
    idle.start()
    idle.close()
    assert (idle.done, idle.waiting) == (4, 0)


def test_at_the_end_no_challenger_is_waited_for_long(
    idle: ShadowRunner, panel: Panel, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    free, reached = threading.Event(), threading.Event()

    def hang(matrix: FeatureMatrix, threads: int = 1) -> FloatArray:
        reached.set()
        assert free.wait(60)
        return np.ones(len(matrix))

    monkeypatch.setattr(service.versions.load(2).served.forecaster.ensemble, "predict", hang)
    idle.submit(job(panel, 2))
    idle.submit(job(panel, 3))
    idle.start()
    assert reached.wait(30)
    idle.close(seconds=0)
    assert not free.is_set()  # it came back while the challenger hangs
    free.set()
    wait_for(lambda: idle.dropped == 3)


def test_levels_that_the_challenger_does_not_know_cost_no_row(
    idle: ShadowRunner, panel: Panel, service: Service
) -> None:
    card = service.versions.load(2).served.forecaster.ensemble.card
    card["intervals"] = {**card["intervals"], "levels": [0.8]}
    idle.submit(job(panel, 2, levels=(0.95,)))
    idle.start()
    wait_for(lambda: idle.waiting == 0)
    assert (idle.done, idle.failed) == (2, 0)
    idle.close()
