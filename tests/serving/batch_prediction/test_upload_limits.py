"""Slow and many files: places for each caller, and the time of a transfer."""

import asyncio
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress

import httpx
import pytest
from fastapi import FastAPI

from rossmann.data.panel.panel import Panel
from rossmann.errors import ServiceBusyError
from rossmann.serving import http_protocol
from rossmann.serving.access.api_keys import Permission, generate_key
from rossmann.serving.batch_prediction import upload_limits
from rossmann.serving.batch_prediction.upload_limits import (
    MAX_ACCEPTED_FILES,
    MAX_FILES_OF_CALLER,
    FilePlaces,
)
from rossmann.settings import Settings
from tests.serving.batch_prediction.test_job_response_stream import staging_files, table, wait_until

App = Callable[..., FastAPI]
Live = Callable[[FastAPI], AbstractContextManager[str]]
LARGE = 200_000
"""Bytes that a client announces."""


@contextmanager
def clients(url: str, count: int, key: str = "", sent: int = 0) -> Iterator[list[socket.socket]]:
    """Connections that have begun to send a file, and go on with it slowly or not at all."""
    head = f"POST /predict/file HTTP/1.1\r\nHost: localhost\r\nContent-Length: {LARGE}\r\n"
    head += f"X-API-Key: {key}\r\n\r\n" if key else "\r\n"
    with ExitStack() as stack:
        found = []
        for _ in range(count):
            address = ("127.0.0.1", int(url.rpartition(":")[2]))
            client = stack.enter_context(socket.create_connection(address, timeout=30))
            client.sendall(head.encode() + b"x" * sent)
            found.append(client)
        yield found


def test_clients_that_send_little_hold_no_place(
    make_app: App, live: Live, panel: Panel, serving_settings: Settings
) -> None:
    """Nor a file on disk; they are disconnected when their time is over."""
    with (
        live(make_app(max_transfer_seconds=1.5)) as url,
        clients(url, 2 * MAX_ACCEPTED_FILES, sent=1) as slow,
    ):
        started = time.monotonic()
        assert httpx.post(f"{url}/predict/file", content=table(panel, 10, "csv")).is_success
        assert time.monotonic() - started < 1.5
        wait_until(lambda: not staging_files(serving_settings))  # of the good file
        while time.monotonic() - started < 1.2:
            for client in slow:
                client.sendall(b"x")
            time.sleep(0.1)
        for client in slow:
            response = client.recv(65_536)
            assert response.startswith(b"HTTP/1.1 408 ") and b"came too slowly" in response


def test_a_caller_gets_no_more_than_its_places(
    make_app: App, live: Live, panel: Panel, serving_settings: Settings
) -> None:
    (key, record), (other, second) = (generate_key(Permission.PREDICT, name) for name in "ab")
    app = make_app(api_keys=f"{record.file_line},{second.file_line}")
    body = table(panel, 10, "csv")

    def post(used: str) -> httpx.Response:
        return httpx.post(f"{url}/predict/file", content=body, headers={"X-API-Key": used})

    with live(app) as url:
        with clients(url, MAX_FILES_OF_CALLER, key, sent=100_000):
            wait_until(lambda: len(staging_files(serving_settings)) == MAX_FILES_OF_CALLER)
            refused = post(key)
            assert (refused.status_code, refused.headers["Retry-After"]) == (503, "5")
            assert "files of yours" in refused.json()["detail"][0]["msg"]
            assert post(other).is_success
        wait_until(lambda: not staging_files(serving_settings))
        assert post(key).is_success


def test_slow_readers_hold_no_thread(
    make_app: App,
    live: Live,
    panel: Panel,
    serving_settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Results of a megabyte and more wait on disk; further files are answered at once."""
    monkeypatch.setattr(upload_limits, "GRACE_SECONDS", 1.5)
    monkeypatch.setattr(http_protocol, "GRACE_SECONDS", 1.5)
    monkeypatch.setattr(http_protocol, "MIN_BYTES_PER_SECOND", 2**30)
    body = table(panel, 100_000, "csv")
    head = f"POST /predict/file HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
    with live(make_app()) as url, ExitStack() as stack:
        address = ("127.0.0.1", int(url.rpartition(":")[2]))
        slow = []
        for _ in range(upload_limits.MAX_RUNNING_JOBS + 1):
            client = socket.socket()
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
            stack.enter_context(client)
            client.settimeout(30)
            client.connect(address)
            client.sendall(head.encode() + body)
            slow.append(client)
        for client in slow:
            assert client.recv(100).startswith(b"HTTP/1.1 200 ")
        started = time.monotonic()
        assert httpx.post(f"{url}/predict/file", content=table(panel, 10, "csv")).is_success
        assert time.monotonic() - started < 3
        while staging_files(serving_settings):  # the answers end before they are whole
            assert time.monotonic() - started < 30
            for client in slow:
                with suppress(ConnectionResetError):
                    client.recv(1)
            time.sleep(0.2)
        for client in slow:
            rest = b""
            with suppress(ConnectionResetError):
                while part := client.recv(65_536):
                    rest += part
            assert not rest.endswith(b"0\r\n\r\n")


def test_files_of_others_go_between_those_of_a_caller() -> None:
    async def check() -> None:
        places, order = FilePlaces(), []
        release = asyncio.Event()

        async def work(caller: str) -> None:
            async with places.job(caller):
                order.append(caller)
                await release.wait()

        tasks = [asyncio.create_task(work(caller)) for caller in "aaaaab"]
        while "b" not in order:
            await asyncio.sleep(0)
        assert order == ["a", "a", "b"]
        release.set()
        await asyncio.gather(*tasks)
        assert sorted(order) == list("aaaaab")

    asyncio.run(asyncio.wait_for(check(), 30))


def test_places_are_given_back() -> None:
    places = FilePlaces()
    for caller in ("a", "b"):
        for _ in range(MAX_FILES_OF_CALLER):
            places.take(caller)
        with pytest.raises(ServiceBusyError, match="files of yours"):
            places.take(caller)
    with pytest.raises(ServiceBusyError, match=f"{MAX_ACCEPTED_FILES} files are"):
        places.take("c")
    places.release("a")
    places.take("c")
