"""Files as streams: what is done is sent while the rest is made, and nothing is left behind."""

import asyncio
import io
import itertools
import socket
import threading
import tracemalloc
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import polars as pl
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from rossmann.data.panel.panel import Panel
from rossmann.data.uploads.table_chunks import CHUNK_ROWS
from rossmann.models.inference.forecaster import Forecaster
from rossmann.schema import FeatureMatrix, FloatArray
from rossmann.serving.batch_prediction.handler import MAX_ACCEPTED_FILES
from rossmann.serving.batch_prediction.writers import BlockStream, ClientGoneError
from rossmann.settings import Settings

Live = Callable[[FastAPI], AbstractContextManager[str]]
MakeApp = Callable[..., FastAPI]


class Valve:
    """A model that stops before its n-th part until it is let go on, or fails there."""

    def __init__(self, panel: Panel, at: int, fails: bool = False) -> None:
        self.card: dict[str, Any] = {
            "intervals": {"levels": [0.5, 0.99]}, "data": {"dataset": "demo"}, "weights": {},
        }  # fmt: skip
        self.panel, self.at, self.fails = panel, at, fails
        self.reached, self.go_on = threading.Event(), threading.Event()
        self.calls = itertools.count(1)

    def predict(self, matrix: FeatureMatrix, threads: int = 1) -> FloatArray:
        if next(self.calls) >= self.at:
            self.reached.set()
            assert self.go_on.wait(60)
            if self.fails:
                return np.full(len(matrix), np.nan)
        return np.ones(len(matrix))


def table(panel: Panel, count: int, kind: str = "parquet") -> bytes:
    day = np.arange(count) % 48 + panel.last_day + 1
    frame = pl.DataFrame(
        {
            "Store": panel.store_numbers[np.arange(count) % len(panel.store_numbers)],
            "Date": pl.Series(day.astype(np.int32)).cast(pl.Date),
            "Open": 1, "Promo": 0, "StateHoliday": "0", "SchoolHoliday": 0,
            "Id": np.arange(count),
        }
    )  # fmt: skip
    out = io.BytesIO()
    frame.write_csv(out) if kind == "csv" else frame.write_parquet(out)
    return out.getvalue()


def drafts(settings: Settings) -> list[Path]:
    return list((settings.run_dir / "files").glob("*"))


@pytest.fixture
def valve(panel: Panel) -> Valve:
    # One call is the last part's; with two threads the one before it may pass it.
    return Valve(panel, at=8)


@pytest.fixture
def make_forecaster(panel: Panel, valve: Valve) -> Callable[[Path], Forecaster]:
    return lambda _: Forecaster(panel, valve)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_the_first_bytes_come_before_the_last_part_is_made(
    make_app: MakeApp, live: Live, panel: Panel, valve: Valve, kind: str
) -> None:
    body = table(panel, 9 * CHUNK_ROWS, kind)
    with (
        live(make_app(threads=1)) as url,
        httpx.stream("POST", f"{url}/predict/file", content=body, timeout=60) as answer,
    ):
        blocks = answer.iter_bytes()
        first = next(blocks)
        assert first and not valve.go_on.is_set()
        valve.go_on.set()
        content = first + b"".join(blocks)
    read = pl.read_csv if kind == "csv" else pl.read_parquet
    assert read(content)["Id"].to_list() == list(range(9 * CHUNK_ROWS))


def test_a_client_that_goes_away_leaves_nothing(
    make_app: MakeApp, live: Live, panel: Panel, valve: Valve, serving_settings: Settings
) -> None:
    body = table(panel, 9 * CHUNK_ROWS)
    with live(make_app(threads=1)) as url:
        with httpx.stream("POST", f"{url}/predict/file", content=body, timeout=60) as answer:
            next(answer.iter_bytes())
            assert valve.reached.wait(60)
            assert len(drafts(serving_settings)) == 1
        valve.go_on.set()
        wait_until(lambda: not drafts(serving_settings))
        # The thread is free again, and so is the place.
        for _ in range(3):
            assert httpx.post(f"{url}/predict/file", content=table(panel, 10)).is_success


def test_a_client_that_goes_away_while_it_sends_leaves_nothing(
    make_app: MakeApp, live: Live, serving_settings: Settings
) -> None:
    with live(make_app()) as url:
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as client:
            client.sendall(
                b"POST /predict/file HTTP/1.1\r\nHost: x\r\nContent-Length: 90\r\n\r\nSt"
            )
            wait_until(lambda: len(drafts(serving_settings)) == 1)
        wait_until(lambda: not drafts(serving_settings))


def test_a_late_fault_breaks_the_connection(
    make_app: MakeApp, live: Live, panel: Panel, valve: Valve, serving_settings: Settings
) -> None:
    valve.fails = True
    valve.go_on.set()
    with (
        live(make_app(threads=1)) as url,
        httpx.stream(
            "POST", f"{url}/predict/file", content=table(panel, 9 * CHUNK_ROWS), timeout=60
        ) as answer,
    ):
        assert answer.status_code == 200
        with pytest.raises(httpx.RemoteProtocolError):
            answer.read()
        wait_until(lambda: not drafts(serving_settings))


def test_more_files_than_are_taken_in_are_told_to_come_again(
    make_app: MakeApp, live: Live, serving_settings: Settings
) -> None:
    with live(make_app()) as url:
        host, port = url.removeprefix("http://").split(":")
        head = b"POST /predict/file HTTP/1.1\r\nHost: x\r\nContent-Length: 90\r\n\r\nStore"
        slow = [socket.create_connection((host, int(port))) for _ in range(MAX_ACCEPTED_FILES)]
        for client in slow:
            client.sendall(head)
        wait_until(lambda: len(drafts(serving_settings)) == MAX_ACCEPTED_FILES)
        answer = httpx.post(f"{url}/predict/file", content=b"Store")
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")
        for client in slow:
            client.close()
        wait_until(lambda: not drafts(serving_settings))
        assert httpx.post(f"{url}/predict/file", content=b"Store").status_code == 422


def test_what_killed_processes_left_goes_at_the_next_start(
    make_app: MakeApp, serving_settings: Settings
) -> None:
    folder = serving_settings.run_dir / "files"
    left, others = folder / "rossmann-file-999999999-x", folder / "rossmann-file-1-y"
    for one in (left, others):
        one.mkdir(parents=True)
    make_app()
    assert drafts(serving_settings) == [others]


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_memory_does_not_grow_with_the_file(
    make_app: MakeApp, panel: Panel, valve: Valve, kind: str
) -> None:
    import pyarrow as pa

    valve.at = 10**9
    peaks = []
    tracemalloc.start()
    with TestClient(make_app()) as api:
        api.post("/predict/file", content=table(panel, 100, kind))
        for count in (50_000, 200_000):
            body = table(panel, count, kind)
            pool = pa.default_memory_pool()
            before = pool.bytes_allocated()
            tracemalloc.reset_peak()
            held = tracemalloc.get_traced_memory()[0]
            with api.stream("POST", "/predict/file", content=body) as answer:
                size = sum(len(block) for block in answer.iter_bytes())
            # The body and the answer are held by the test's client, not by the service.
            peaks.append(tracemalloc.get_traced_memory()[1] - held - 2 * size)
            assert pool.bytes_allocated() - before < 2**20
    # Not while the service's threads run: Python 3.11 crashes over it (cpython issue 128679).
    tracemalloc.stop()
    assert peaks[1] < peaks[0] + 24 * 2**20


def test_a_channel_lets_nobody_get_far_ahead() -> None:
    async def check() -> None:
        channel = BlockStream(patience=0.01)
        loop = asyncio.get_running_loop()
        for _ in range(2):
            await loop.run_in_executor(None, channel.send, b"x")
        with pytest.raises(ClientGoneError, match="took nothing"):
            await loop.run_in_executor(None, channel.send, b"x")
        channel.close()
        with pytest.raises(ClientGoneError, match="went away"):
            await loop.run_in_executor(None, channel.send, b"x")

    asyncio.run(check())


def wait_until(true: Callable[[], bool]) -> None:
    tick = threading.Event()
    for _ in range(1200):
        if true():
            return
        tick.wait(0.05)
    raise AssertionError("it never came true")
