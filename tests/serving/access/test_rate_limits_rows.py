"""Limits of forecast rows: reserved before the work, counted in parts, given back."""

import asyncio
import json
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st

from rossmann.serving.access.rate_limiter import RowLimiter, limits_from_settings
from rossmann.serving.access.rate_limits import RateLimit
from rossmann.serving.batch_prediction import handler as batch_handler
from rossmann.serving.prediction import handler
from rossmann.settings import load_settings
from tests.serving.access.test_rate_limits import assert_rate_limited

App = Callable[..., FastAPI]
Live = Callable[[FastAPI], AbstractContextManager[str]]


def test_rows_in_parallel_are_reserved_before_the_work(
    make_app: App, live: Live, row: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed = threading.Barrier(6)
    parse_inputs = handler.parse_inputs

    def parse_together(*arguments: Any) -> Any:
        inputs = parse_inputs(*arguments)
        parsed.wait(30)  # all have passed the check of the call by now
        return inputs

    body = json.dumps({"inputs": [row()] * 500}).encode()
    app = make_app(rate_limit_rows="100/hour", threads=6)
    with live(app) as url, ThreadPoolExecutor(6) as pool:
        monkeypatch.setattr(handler, "parse_inputs", parse_together)
        calls = [pool.submit(httpx.post, f"{url}/predict", content=body) for _ in range(6)]
        codes = sorted(call.result().status_code for call in calls)
        assert codes == [200] + [429] * 5


def test_rows_of_parallel_files_are_reserved_before_the_forecast(
    make_app: App, live: Live, row: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    validated = threading.Barrier(2)
    prepare_job = batch_handler.prepare_job

    def prepare_together(*arguments: Any) -> Any:
        job = prepare_job(*arguments)
        validated.wait(30)
        return job

    names = list(row())
    line = ",".join(str(value) for value in row().values())
    body = "\n".join([",".join(names), *[line] * 500]).encode()
    with live(make_app(rate_limit_rows="100/hour")) as url, ThreadPoolExecutor(2) as pool:
        monkeypatch.setattr(batch_handler, "prepare_job", prepare_together)
        calls = [pool.submit(httpx.post, f"{url}/predict/file", content=body) for _ in range(2)]
        assert sorted(call.result().status_code for call in calls) == [200, 429]


def test_rows_of_a_refused_request_are_given_back(make_app: App, row: Any) -> None:
    body = {"inputs": [row()] * 60, "model_stage": 77}
    with TestClient(make_app(rate_limit_rows="100/day")) as client:
        for path in ("/predict", "/explain"):
            for _ in range(3):
                assert client.post(path, json=body).status_code == 404
        assert client.post("/predict", json={"inputs": [row()] * 60}).status_code == 200
        assert client.post("/predict", json={"inputs": [row()] * 60}).status_code == 200
        assert_rate_limited(client.post("/predict", json={"inputs": [row()]}))


def test_rows_are_limited_by_default() -> None:
    default = load_settings()
    assert limits_from_settings(default, "rows") == (RateLimit(20_000_000, 3600),)
    none = default.model_copy(update={"rate_limit_rows": "none"})
    assert limits_from_settings(none, "rows") == ()


@given(
    st.lists(st.tuples(st.sampled_from("ab"), st.integers(1, 9_000), st.booleans()), max_size=60),
    st.sampled_from([50, 5_000, 40_000]),
)
def test_counted_rows_are_those_of_the_calls_and_at_most_a_part_more(
    calls: list[tuple[str, int, bool]], limit: int
) -> None:
    """Whatever the calls, and whether their rows are given back, as those of a refused request."""
    limiter = RowLimiter(load_settings(rate_limit_rows=f"{limit}/day"))
    part, used = limit // 1_000, {"a": 0, "b": 0}

    async def run() -> None:
        for caller, rows, fails in calls:
            refused = await limiter.check(caller) or await limiter.reserve(caller, rows)
            if refused is not None:
                assert limit - part <= used[caller]
                continue
            assert used[caller] < limit
            used[caller] += rows
            if fails:
                await limiter.adjust(caller, -rows)
                used[caller] -= rows

    asyncio.run(run())


def test_rows_of_a_call_limit_the_next_ones(make_app: App, row: Any) -> None:
    with TestClient(make_app(rate_limit_rows="10/day")) as client:
        for rows, code in ((1, 200), (8, 200), (0, 422), (30, 200), (1, 429), (1, 429)):
            response = client.post("/predict", json={"inputs": [row()] * rows})
            assert response.status_code == code, response.text
        assert "(rows)" in response.json()["detail"][0]["msg"]
        # Of the 39 counted rows 9 may remain in the window; the others must leave it first.
        passed = time.monotonic() / 86_400 % 1
        assert assert_rate_limited(response) == pytest.approx(
            (2 - passed - 9 / 39) * 86_400, abs=10
        )
        assert_rate_limited(client.get("/stores"))
        assert client.get("/health").status_code == 200
