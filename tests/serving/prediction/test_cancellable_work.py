"""Work in threads that ends when its client goes or the service stops."""

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from starlette.requests import Request
from starlette.types import Message

from rossmann.data.panel.panel import Panel
from rossmann.models.inference.forecaster import Forecaster, ForecastRequest
from rossmann.serving.prediction.cancellable_work import (
    Cancellation,
    WorkCancelledError,
    WorkThreads,
)

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


def test_an_explanation_asks_between_rows(
    panel: Panel, make_trained: Callable[[Path], Forecaster]
) -> None:
    cancellation, asked = Cancellation(threading.Event()), []

    def check() -> None:
        asked.append(len(asked))
        if len(asked) == 5:
            cancellation.cancel()
        cancellation.check()

    rows = panel.schedule(np.resize(panel.store_numbers, 200), np.full(200, panel.last_day + 3))
    with pytest.raises(WorkCancelledError):
        make_trained(Path()).explain(ForecastRequest(rows), check)
    assert len(asked) == 5
