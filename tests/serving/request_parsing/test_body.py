"""Bodies that cost more than they seem to: packed ones, and ones that never end."""

import gzip
import json
import socket
import time
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from rossmann.serving.request_parsing import body

App = Callable[..., FastAPI]
GZIP = {"Content-Encoding": "gzip"}


def test_gzip_that_unpacks_to_much_more_is_413(make_app: App, api: TestClient, row: Any) -> None:
    dense = gzip.compress(b" " * 2**23)
    response = api.post("/predict", content=dense, headers=GZIP)
    assert response.status_code == 413
    detail = response.json()["detail"][0]
    assert detail["type"] == "gzip_ratio" and "send it plain" in detail["msg"]
    # Many members, each of them short.
    members = gzip.compress(b"[" * 2**16) * 200
    assert api.post("/predict", content=members, headers=GZIP).status_code in {413, 422}
    # Rows of a chain, indented, and a short body of any ratio.
    rows = [row(n % 40 + 1, Store=n % 40 + 1) for n in range(4_000)]
    for content in (json.dumps({"inputs": rows}, indent=4), json.dumps({"inputs": [row()] * 900})):
        packed = gzip.compress(content.encode())
        assert api.post("/predict", content=packed, headers=GZIP).status_code == 200
    with TestClient(make_app(max_body_mb=1)) as client:
        long = client.post("/predict", content=gzip.compress(b" " * 2**21), headers=GZIP)
        assert "at most 1 MB" in long.json()["detail"][0]["msg"]


def test_unfinished_bodies_are_bounded_in_bytes_and_time(
    make_app: App, live: Callable[..., AbstractContextManager[str]], row: Any
) -> None:
    """Of 20 bodies that never end 4 find room, until their time is over; small ones go on."""
    app = make_app(max_body_mb=2, max_bodies_mb=4, max_body_seconds=1.0)
    head = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2000000\r\n\r\n"
    with live(app) as url, ExitStack() as stack:
        address = ("127.0.0.1", int(url.rpartition(":")[2]))
        sockets = [
            stack.enter_context(socket.create_connection(address, timeout=20)) for _ in range(20)
        ]
        started = time.monotonic()
        for connection in sockets:
            connection.sendall(head + b" " * 1_000_000)
        content = json.dumps({"inputs": [row()] * 100}).encode()
        with httpx.Client(base_url=url, trust_env=False) as client:
            before = time.monotonic()
            assert client.post("/predict", content=content).status_code == 200
            assert time.monotonic() - before < 1
            codes = Counter(int(connection.recv(4_096).split()[1]) for connection in sockets)
            assert codes == {503: 16, 408: 4}
            assert time.monotonic() - started < 10
            # All room is free again, also after bodies that are refused when parsed.
            for _ in range(5):
                large = client.post("/predict", content=b" " * 2_000_000)
                assert large.status_code == 422


def test_body_that_comes_slowly_is_408_on_every_route(
    make_app: App, live: Callable[..., AbstractContextManager[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(body, "BODY_SECONDS", 0.3)
    with live(make_app(max_body_seconds=0.3)) as url:
        for path in ("/predict", "/explain", "/models/2/promote", "/model/load"):
            with socket.create_connection(
                ("127.0.0.1", int(url.rpartition(":")[2])), timeout=20
            ) as connection:
                head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n"
                connection.sendall(head.encode() + b"{")
                response = connection.recv(65_536)
                assert response.startswith(b"HTTP/1.1 408 ") and b"0.3 seconds" in response, path
