"""Streaming of files: early output, disconnects, staging files, memory."""

import asyncio
import io
import itertools
import socket
import tempfile
import threading
import tracemalloc
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import polars as pl
import psutil
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from hypothesis import given, settings
from hypothesis import strategies as st

from rossmann.data.panel.panel import Panel
from rossmann.data.uploads.parquet_chunks import CHUNK_ROWS
from rossmann.models.inference.forecaster import Forecaster
from rossmann.schema import FeatureMatrix, FloatArray
from rossmann.serving.batch_prediction.job import ClientGoneError, ResultSpool
from rossmann.settings import Settings
from tests.fixtures.bombs import sheet

Live = Callable[[FastAPI], AbstractContextManager[str]]
MakeApp = Callable[..., FastAPI]


class BlockingModel:
    """A model whose call number ``block_at_call`` waits for ``release``, and then may fail."""

    def __init__(self, panel: Panel, block_at_call: int, fails: bool = False) -> None:
        self.card: dict[str, Any] = {
            "intervals": {"levels": [0.5, 0.99]}, "data": {"dataset": "demo"}, "weights": {},
        }  # fmt: skip
        self.panel, self.block_at_call, self.fails = panel, block_at_call, fails
        self.blocked, self.release = threading.Event(), threading.Event()
        self.calls = itertools.count(1)

    def predict(self, matrix: FeatureMatrix, threads: int = 1) -> FloatArray:
        if next(self.calls) >= self.block_at_call:
            self.blocked.set()
            assert self.release.wait(60)
            if self.fails:
                return np.full(len(matrix), np.nan)
        return np.ones(len(matrix))


def table(panel: Panel, count: int, file_format: str = "parquet") -> bytes:
    day = np.arange(count) % 48 + panel.last_day + 1
    frame = pl.DataFrame(
        {
            "Store": panel.store_numbers[np.arange(count) % len(panel.store_numbers)],
            "Date": pl.Series(day.astype(np.int32)).cast(pl.Date),
            "Open": 1, "Promo": 0, "StateHoliday": "0", "SchoolHoliday": 0,
            "Id": np.arange(count),
        }
    )  # fmt: skip
    buffer = io.BytesIO()
    frame.write_csv(buffer) if file_format == "csv" else frame.write_parquet(buffer)
    return buffer.getvalue()


def staging_files(settings: Settings) -> list[Path]:
    return list((settings.run_dir / "files").glob("*"))


@pytest.fixture
def model(panel: Panel) -> BlockingModel:
    # Call 8 of 9: with two threads, the last chunk may start before the one before it.
    return BlockingModel(panel, block_at_call=8)


@pytest.fixture
def make_forecaster(panel: Panel, model: BlockingModel) -> Callable[[Path], Forecaster]:
    return lambda _: Forecaster(panel, model)  # type: ignore[arg-type]


@pytest.mark.parametrize("file_format", ["csv", "parquet"])
def test_first_bytes_are_sent_before_the_last_chunk_is_forecast(
    make_app: MakeApp, live: Live, panel: Panel, model: BlockingModel, file_format: str
) -> None:
    body = table(panel, 9 * CHUNK_ROWS, file_format)
    with (
        live(make_app(threads=1)) as url,
        httpx.stream("POST", f"{url}/predict/file", content=body, timeout=60) as response,
    ):
        blocks = response.iter_bytes()
        first = next(blocks)
        assert first and not model.release.is_set()
        model.release.set()
        content = first + b"".join(blocks)
    read = pl.read_csv if file_format == "csv" else pl.read_parquet
    assert read(content)["Id"].to_list() == list(range(9 * CHUNK_ROWS))


def test_disconnect_during_the_response_removes_the_staging_file(
    make_app: MakeApp, live: Live, panel: Panel, model: BlockingModel, serving_settings: Settings
) -> None:
    body = table(panel, 9 * CHUNK_ROWS)
    with live(make_app(threads=1)) as url:
        with httpx.stream("POST", f"{url}/predict/file", content=body, timeout=60) as response:
            next(response.iter_bytes())
            assert model.blocked.wait(60)
            assert len(staging_files(serving_settings)) == 1
        model.release.set()
        wait_until(lambda: not staging_files(serving_settings))
        # The thread and the upload slot are free again.
        for _ in range(3):
            assert httpx.post(f"{url}/predict/file", content=table(panel, 10)).is_success


def test_disconnect_during_the_upload_removes_the_staging_file(
    make_app: MakeApp, live: Live, serving_settings: Settings
) -> None:
    with live(make_app()) as url:
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as client:
            client.sendall(
                b"POST /predict/file HTTP/1.1\r\nHost: localhost\r\nContent-Length: 90000\r\n\r\n"
                + b"x" * 80_000
            )
            wait_until(lambda: len(staging_files(serving_settings)) == 1)
        wait_until(lambda: not staging_files(serving_settings))


def test_disconnect_while_the_file_is_read_ends_the_reading(
    make_app: MakeApp, live: Live, serving_settings: Settings
) -> None:
    """A workbook of 900,000 rows takes seconds to read."""
    body = sheet(b"".join(b'<row r="%d"><c><v>1</v></c></row>' % n for n in range(2, 900_000)))
    start = "POST /predict/file HTTP/1.1\r\nHost: localhost\r\n"
    head = f"{start}Content-Length: {len(body)}\r\n\r\n"
    before = reading_processes()
    with live(make_app()) as url:
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as client:
            client.sendall(head.encode() + body)
            wait_until(lambda: any(path.stat().st_size for path in staging_files(serving_settings)))
            wait_until(lambda: reading_processes() - before)
        wait_until(lambda: not reading_processes() - before)
        wait_until(lambda: not staging_files(serving_settings))


def reading_processes() -> set[int]:
    """Ids of this process's children that read files."""
    found = set()
    for child in psutil.Process().children():
        with suppress(psutil.Error):  # it has just ended
            if "sandbox_process" in " ".join(child.cmdline()):
                found.add(child.pid)
    return found


def test_error_after_the_first_bytes_closes_the_connection(
    make_app: MakeApp, live: Live, panel: Panel, model: BlockingModel, serving_settings: Settings
) -> None:
    model.fails = True
    model.release.set()
    with (
        live(make_app(threads=1)) as url,
        httpx.stream(
            "POST", f"{url}/predict/file", content=table(panel, 9 * CHUNK_ROWS), timeout=60
        ) as response,
    ):
        assert response.status_code == 200
        with pytest.raises(httpx.RemoteProtocolError):
            response.read()
        wait_until(lambda: not staging_files(serving_settings))


def test_staging_files_of_killed_processes_are_removed_at_start(
    make_app: MakeApp, serving_settings: Settings
) -> None:
    folder = serving_settings.run_dir / "files"
    orphaned, active = folder / "rossmann-file-999999999-x", folder / "rossmann-file-1-y"
    for path in (orphaned, active):
        path.mkdir(parents=True)
    make_app()
    assert staging_files(serving_settings) == [active]


@pytest.mark.parametrize("file_format", [pytest.param("csv", marks=pytest.mark.nightly), "parquet"])
def test_memory_does_not_grow_with_the_file(
    make_app: MakeApp, panel: Panel, model: BlockingModel, file_format: str
) -> None:
    import pyarrow as pa

    model.block_at_call = 10**9
    peaks = []
    tracemalloc.start()
    with TestClient(make_app()) as api:
        api.post("/predict/file", content=table(panel, 100, file_format))
        for count in (50_000, 200_000):
            body = table(panel, count, file_format)
            pool = pa.default_memory_pool()
            before = pool.bytes_allocated()
            tracemalloc.reset_peak()
            bytes_before = tracemalloc.get_traced_memory()[0]
            with api.stream("POST", "/predict/file", content=body) as response:
                size = sum(len(block) for block in response.iter_bytes())
            # The test client holds the request and the response body.
            peaks.append(tracemalloc.get_traced_memory()[1] - bytes_before - 2 * size)
            assert pool.bytes_allocated() - before < 2**20
    # Stopping while the threads run can crash Python 3.11 (cpython issue 128679).
    tracemalloc.stop()
    assert peaks[1] < peaks[0] + 24 * 2**20


@given(st.lists(st.binary(min_size=1, max_size=3_000_000), max_size=6), st.booleans())
@settings(max_examples=25, deadline=None)
def test_spool_gives_the_bytes_that_were_written(blocks: list[bytes], early: bool) -> None:
    async def check(folder: Path) -> None:
        spool = ResultSpool(folder / "result")
        loop = asyncio.get_running_loop()

        def write() -> None:
            for block in blocks:
                spool.send(block)
            spool.end()

        writing = loop.run_in_executor(None, write)
        if not early:
            await writing
        read = [block async for block in spool.blocks()]
        await writing
        assert b"".join(read) == b"".join(blocks)
        assert max(map(len, read), default=0) <= 2**20
        spool.stop()
        with pytest.raises(ClientGoneError, match="went away"):
            await loop.run_in_executor(None, spool.send, b"x")
        spool.close()

    with tempfile.TemporaryDirectory() as name:
        asyncio.run(check(Path(name)))


def wait_until(condition: Callable[[], object]) -> None:
    tick = threading.Event()
    for _ in range(1200):
        if condition():
            return
        tick.wait(0.05)
    raise AssertionError("timeout")
