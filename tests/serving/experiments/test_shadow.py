"""Shadow experiment: the challenger runs after each response and is logged once."""

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
def make_forecaster(make_trained_pair: MakeForecaster) -> MakeForecaster:
    return make_trained_pair


@pytest.fixture
def rows(row: MakeRow, panel: Panel) -> list[dict[str, Any]]:
    """A day of every store, one of them closed."""
    return [row(5, Store=int(s), Open=int(s != 3)) for s in panel.store_numbers[::-1]]


def predict(client: TestClient, rows: list[dict[str, Any]], **options: Any) -> dict[str, Any]:
    response = client.post("/predict", json={"inputs": rows, **options})
    assert response.status_code == 200, response.text
    result: dict[str, Any] = response.json()
    return result


def read_log_rows(settings: Settings) -> list[dict[str, Any]]:
    """All rows of the prediction log, ordered by request, version and row."""
    engine = sa.create_engine(settings.log_url)
    with engine.connect() as connection:
        order = 'ORDER BY request_id, model_version, "row"'
        result = connection.exec_driver_sql(f"SELECT * FROM predictions {order}").mappings().all()
    engine.dispose()
    return [dict(r) for r in result]


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def queue_state(client: TestClient) -> dict[str, Any]:
    state: dict[str, Any] = client.get("/experiments/current").json()["queue"]
    return state


def test_every_row_is_logged_once_as_answer_and_once_as_shadow(
    experiment: Run, rows: list[dict[str, Any]], serving_settings: Settings
) -> None:
    early = {"as_of": "2015-06-30", "intervals": [0.8], "quantiles": [0.1]}
    with experiment(experiment="shadow") as client:
        first = predict(client, rows[:3])
        batch = predict(client, rows, **early)
        explicit = predict(client, rows, model_stage=2, **early)
        totals = predict(client, rows[:4], totals=["chain"])
        explained = client.post("/explain", json={"inputs": rows[:2]}).json()
        wait_for(lambda: queue_state(client)["done"] == 3 + len(rows) + 4 + 2)
        assert batch["challenger"] is None and batch["model_version"] == 1
    logged = read_log_rows(serving_settings)
    counts = Counter((r["request_id"], r["role"], r["model_version"]) for r in logged)
    expected = {(explicit["request_id"], "answer", 2): len(rows)}
    for result in (first, batch, totals, explained):
        expected[result["request_id"], "answer", 1] = result["count"]
        expected[result["request_id"], "shadow", 2] = result["count"]
    assert counts == expected
    shadows = [
        r for r in logged if r["request_id"] == batch["request_id"] and r["role"] == "shadow"
    ]
    assert [r["row"] for r in shadows] == list(range(len(rows)))
    assert [r["store"] for r in shadows] == [sent["Store"] for sent in rows]
    assert [r["forecast"] for r in shadows] == explicit["predictions"]
    assert [r["upper_80"] for r in shadows] == explicit["intervals"][0]["upper"]
    assert {(r["as_of"], r["model_stage"], r["door"]) for r in shadows} == {
        ("2015-06-30", "Staging", "predict")
    }


def test_ab_rows_are_logged_with_the_version_of_each_row(
    experiment: Run, rows: list[dict[str, Any]], serving_settings: Settings
) -> None:
    with experiment(experiment="ab") as client:
        result = predict(client, rows, intervals=[0.95])
        page = client.get("/metrics").text
    challenger_indices = [n for n, row in enumerate(rows) if hash_fraction("1", row["Store"]) < 0.4]
    log_rows = read_log_rows(serving_settings)
    logged = {r["row"]: r for r in log_rows}
    assert sorted(logged) == list(range(len(rows))) and len(log_rows) == len(rows)
    by_production, by_challenger = ("answer", 1, "Production"), ("challenger", 2, "Staging")
    for index, logged_row in logged.items():
        source = tuple(logged_row[name] for name in ("role", "model_version", "model_stage"))
        assert source == (by_challenger if index in challenger_indices else by_production)
        assert logged_row["forecast"] == result["predictions"][index]
        assert logged_row["lower_95"] == result["intervals"][0]["lower"][index]
        assert logged_row["store"] == rows[index]["Store"]
    count, metric = len(challenger_indices), "rossmann_experiment_rows_total"
    assert f'{metric}{{role="challenger"}} {count}.0' in page
    assert f'{metric}{{role="answer"}} {len(rows) - count}.0' in page


def test_hanging_challenger_delays_no_response(
    experiment: Run, service: Service, rows: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    release, blocked = threading.Event(), threading.Event()

    def block(matrix: FeatureMatrix, threads: int = 1) -> FloatArray:
        blocked.set()
        assert release.wait(60)
        return np.ones(len(matrix))

    with experiment(experiment="shadow") as client:
        ensemble = service.versions.load(2).served.forecaster.ensemble
        monkeypatch.setattr(ensemble, "predict", block)
        for _ in range(5):
            predict(client, rows[:2])
            predict(client, rows)
        assert blocked.wait(30)
        assert queue_state(client)["waiting"] == 5 * (2 + len(rows))
        release.set()
        wait_for(lambda: queue_state(client)["waiting"] == 0)
        assert queue_state(client)["done"] == 5 * (2 + len(rows))


@pytest.mark.parametrize("error", [ValueError("odd"), MemoryError()], ids=repr)
def test_failing_challenger_fails_no_response(
    experiment: Run,
    service: Service,
    rows: list[dict[str, Any]],
    serving_settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
) -> None:
    def fail(matrix: FeatureMatrix, threads: int = 1) -> FloatArray:
        raise error

    with experiment(experiment="shadow") as client:
        before = predict(client, rows)
        wait_for(lambda: queue_state(client)["done"] == len(rows))
        ensemble = service.versions.load(2).served.forecaster.ensemble
        with monkeypatch.context() as patch:
            patch.setattr(ensemble, "predict", fail)
            assert predict(client, rows)["predictions"] == before["predictions"]
            wait_for(lambda: queue_state(client)["failed"] == len(rows))
            assert queue_state(client)["last_error"] == repr(error)
        predict(client, rows[:2])
        wait_for(lambda: queue_state(client)["done"] == len(rows) + 2)
    assert Counter(r["role"] for r in read_log_rows(serving_settings)) == {
        "answer": 2 * len(rows) + 2,
        "shadow": len(rows) + 2,
    }


def test_shadow_is_submitted_after_the_response(
    make_app: Callable[..., FastAPI], rows: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    monkeypatch.setattr(ShadowRunner, "submit", lambda *_: events.append("shadow"))
    app = make_app(experiment="shadow")
    body = json.dumps({"inputs": rows[:2]}).encode()
    scope = {"type": "http", "method": "POST", "path": "/predict", "raw_path": b"/predict",
             "query_string": b"", "headers": [], "client": ("127.0.0.1", 1), "root_path": "",
             "server": ("127.0.0.1", 80), "scheme": "http", "http_version": "1.1"}  # fmt: skip

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        events.append(message["type"])

    with TestClient(app):
        asyncio.run(app(scope, receive, send))  # type: ignore[arg-type]
    assert events == ["http.response.start", "http.response.body", "shadow"]


@pytest.fixture
def runner(service: Service, serving_settings: Settings) -> ShadowRunner:
    """A shadow runner with a queue of ten rows, not yet started."""
    running_experiment = Experiment(serving_settings, service.versions)
    running_experiment.refresh_challenger()
    return ShadowRunner(running_experiment, PredictionRecorder(None), Metrics(), max_rows=10)


def job(panel: Panel, count: int, levels: tuple[float, ...] = ()) -> ShadowJob:
    days = np.arange(panel.last_day + 1, panel.last_day + 1 + count, dtype=np.int32)
    rows: StoreDays = panel.store_schedule(int(panel.store_numbers[0]), days)
    record = RequestRecord("one", "POST", "/predict")
    call = PredictCall("predict", record, None, 0.0)  # type: ignore[arg-type]
    return ShadowJob(call, panel, ForecastRequest(rows, levels=levels), panel.last_day)


def test_rows_beyond_the_queue_limit_are_dropped_and_counted(
    runner: ShadowRunner, panel: Panel
) -> None:
    for count in (4, 6, 1, 3):
        runner.submit(job(panel, count))
    assert (runner.waiting, runner.dropped) == (10, 4)
    runner.start()
    wait_for(lambda: runner.waiting == 0)
    assert (runner.done, runner.dropped) == (10, 4)
    runner.submit(job(panel, 40))  # larger than the limit, but the queue is empty
    wait_for(lambda: runner.done == 50)
    runner.close()
    runner.submit(job(panel, 1))
    assert runner.dropped == 5


def test_close_processes_waiting_rows(runner: ShadowRunner, panel: Panel) -> None:
    runner.submit(job(panel, 4))
    runner.start()
    runner.close()
    assert (runner.done, runner.waiting) == (4, 0)


def test_close_does_not_wait_for_a_hanging_challenger(
    runner: ShadowRunner, panel: Panel, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    release, blocked = threading.Event(), threading.Event()

    def block(matrix: FeatureMatrix, threads: int = 1) -> FloatArray:
        blocked.set()
        assert release.wait(60)
        return np.ones(len(matrix))

    monkeypatch.setattr(service.versions.load(2).served.forecaster.ensemble, "predict", block)
    runner.submit(job(panel, 2))
    runner.submit(job(panel, 3))
    runner.start()
    assert blocked.wait(30)
    runner.close(seconds=0)
    assert not release.is_set()  # close returned while the challenger hangs
    release.set()
    wait_for(lambda: runner.dropped == 3)


def test_unknown_levels_of_the_challenger_lose_no_row(
    runner: ShadowRunner, panel: Panel, service: Service
) -> None:
    card = service.versions.load(2).served.forecaster.ensemble.card
    card["intervals"] = {**card["intervals"], "levels": [0.8]}
    runner.submit(job(panel, 2, levels=(0.95,)))
    runner.start()
    wait_for(lambda: runner.waiting == 0)
    assert (runner.done, runner.failed) == (2, 0)
    runner.close()
