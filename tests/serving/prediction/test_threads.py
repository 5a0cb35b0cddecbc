"""Work in threads that ends when its client goes or the service stops."""

import asyncio
import json
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from starlette.requests import Request
from starlette.types import Message

from rossmann.data.panel.panel import Panel
from rossmann.models.inference import forecaster
from rossmann.models.inference.forecaster import CHECKED_ROWS, Forecaster, ForecastRequest
from rossmann.models.inference.totals import forecast_totals
from rossmann.schema import StoreDays
from rossmann.serving.prediction.threads import Cancellation, WorkCancelledError, WorkThreads

ended = "ended"


def request(disconnects_after: float = 3_600.0) -> Request:
    async def receive() -> Message:
        await asyncio.sleep(disconnects_after)
        return {"type": "http.disconnect"}

    return Request({"type": "http", "headers": [], "state": {}}, receive)


def run(check: Callable[[WorkThreads], object]) -> float:
    """Run a test that must not take long; returns its seconds."""

    async def within() -> None:
        threads = WorkThreads(ThreadPoolExecutor(2))
        await asyncio.wait_for(check(threads), 30)  # type: ignore[arg-type]
        await asyncio.to_thread(threads.close)

    start = time.monotonic()
    asyncio.run(within())
    return time.monotonic() - start


def endless(log: list[str]) -> Callable[[Cancellation], None]:
    def work(cancellation: Cancellation) -> None:
        try:
            while True:
                cancellation.check()
                time.sleep(0.01)
        finally:
            log.append(ended)

    return work


def test_the_result_of_a_client_that_waits() -> None:
    async def check(threads: WorkThreads) -> None:
        assert await threads.run(request(), lambda _: 7) == 7
        with pytest.raises(ValueError, match="mine"):
            await threads.run(request(), lambda _: int("mine"))

    run(check)


def test_work_has_ended_when_the_client_goes() -> None:
    log: list[str] = []

    async def check(threads: WorkThreads) -> None:
        works = [threads.run(request(0.1), endless(log)) for _ in range(5)]  # two have a thread
        assert await asyncio.gather(*works) == [None] * 5
        assert log == [ended] * 2

    assert run(check) < 2


def test_work_has_ended_when_its_request_is_cancelled() -> None:
    log: list[str] = []

    async def check(threads: WorkThreads) -> None:
        task = asyncio.ensure_future(threads.run(request(), endless(log)))
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert log == [ended]

    assert run(check) < 2


def test_closing_ends_work_that_runs_or_waits() -> None:
    log: list[str] = []

    async def check(threads: WorkThreads) -> None:
        works = [asyncio.ensure_future(threads.run(request(), endless(log))) for _ in range(5)]
        await asyncio.sleep(0.1)
        await asyncio.to_thread(threads.close)
        results = await asyncio.gather(*works, return_exceptions=True)
        assert [type(result) for result in results] == [WorkCancelledError] * 5
        assert "the service stops" in str(results[0])

    assert run(check) < 2


def cancelled_at(times: int, asked: list[int]) -> Callable[[], None]:
    """A check that ends the work when it is called for the ``times``-th time."""
    cancellation = Cancellation(threading.Event())

    def check() -> None:
        asked.append(len(asked))
        if len(asked) == times:
            cancellation.cancel()
        cancellation.check()

    return check


def rows_of(panel: Panel, count: int) -> StoreDays:
    return panel.schedule(np.resize(panel.store_numbers, count), np.full(count, panel.last_day + 3))


def test_an_explanation_asks_between_rows(
    panel: Panel, make_trained: Callable[[Path], Forecaster]
) -> None:
    asked: list[int] = []
    with pytest.raises(WorkCancelledError):
        make_trained(Path()).explain(ForecastRequest(rows_of(panel, 200)), cancelled_at(5, asked))
    assert len(asked) == 5


def test_a_forecast_asks_between_parts_of_its_rows(
    panel: Panel, make_trained: Callable[[Path], Forecaster]
) -> None:
    asked: list[int] = []
    request = ForecastRequest(rows_of(panel, 4 * CHECKED_ROWS))
    with pytest.raises(WorkCancelledError):
        make_trained(Path()).forecast(request, cancelled_at(3, asked))
    assert len(asked) == 3


def test_totals_ask_between_their_levels(
    panel: Panel, make_trained: Callable[[Path], Forecaster]
) -> None:
    asked: list[int] = []
    request = ForecastRequest(rows_of(panel, len(panel.store_numbers)), levels=(0.8,))
    by, check = ("store", "chain"), cancelled_at(3, asked)
    with pytest.raises(WorkCancelledError):
        forecast_totals(make_trained(Path()), request, panel.last_day, by, check)
    assert len(asked) == 3


def test_a_forecast_ends_when_its_client_goes(
    make_app: Callable[..., FastAPI],
    row: Callable[..., dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    body = json.dumps({"inputs": [row()] * 500}).encode()
    parts, sent, predict = [], [], Forecaster._predict_open_rows

    def slow(*arguments: Any) -> Any:
        parts.append(1)
        time.sleep(1)  # the client is noticed meanwhile
        return predict(*arguments)

    messages = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Message:
        if messages:
            return messages.pop()
        while not parts:
            await asyncio.sleep(0.01)
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)

    headers = [(b"host", b"testserver"), (b"content-type", b"application/json")]
    scope = {"type": "http", "method": "POST", "path": "/predict", "raw_path": b"/predict"}
    scope |= {"query_string": b"", "headers": headers, "client": ("127.0.0.1", 1), "state": {}}
    app = make_app()
    with TestClient(app):
        monkeypatch.setattr(Forecaster, "_predict_open_rows", slow)
        monkeypatch.setattr(forecaster, "CHECKED_ROWS", 100)
        asyncio.run(app(scope, receive, send))
    assert 1 <= len(parts) < 5
    assert all(message.get("status", 400) == 400 for message in sent)
