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
from fastapi import FastAPI
from fastapi.testclient import TestClient

from rossmann.serving.access.api_keys import Permission, generate_key

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
    """Of 20 bodies of a caller that never end 2 find room, until their time is over."""
    (key, record), (other, second) = (generate_key(Permission.PREDICT, name) for name in "ab")
    keys = f"{record.file_line},{second.file_line}"
    app = make_app(max_body_mb=1, max_bodies_mb=4, max_body_seconds=1.5, api_keys=keys)
    head = f"POST /predict HTTP/1.1\r\nHost: localhost\r\nX-API-Key: {key}\r\n"
    head += "Content-Length: 1048576\r\n\r\n"
    with live(app) as url, ExitStack() as stack:
        address = ("127.0.0.1", int(url.rpartition(":")[2]))
        sockets = [
            stack.enter_context(socket.create_connection(address, timeout=20)) for _ in range(20)
        ]
        started = time.monotonic()
        for connection in sockets:
            connection.sendall(head.encode() + b" " * 1_000_000)
        content = json.dumps({"inputs": [row()] * 100}).encode()
        with httpx.Client(base_url=url, trust_env=False) as client:
            for one, body, code in ((key, content, 200), (other, b" " * 1_000_000, 422)):
                before = time.monotonic()
                response = client.post("/predict", content=body, headers={"X-API-Key": one})
                assert response.status_code == code
                assert time.monotonic() - before < 1
            codes = Counter(int(connection.recv(4_096).split()[1]) for connection in sockets)
            assert codes == {503: 18, 408: 2}
            assert time.monotonic() - started < 10
            # All room is free again, also after bodies that are refused when parsed.
            for _ in range(5):
                large = client.post(
                    "/predict", content=b" " * 1_000_000, headers={"X-API-Key": key}
                )
                assert large.status_code == 422


def test_body_that_comes_slowly_is_408_on_every_route(
    make_app: App, live: Callable[..., AbstractContextManager[str]]
) -> None:
    with live(make_app(max_body_seconds=0.3)) as url:
        for path in ("/predict", "/explain", "/models/2/promote", "/model/load"):
            with socket.create_connection(
                ("127.0.0.1", int(url.rpartition(":")[2])), timeout=20
            ) as connection:
                head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n"
                connection.sendall(head.encode() + b"{")
                response = connection.recv(65_536)
                assert response.startswith(b"HTTP/1.1 408 ") and b"0.3 seconds" in response, path


def test_body_that_ends_in_time_is_read_in_parts(
    make_app: App, live: Callable[..., AbstractContextManager[str]], row: Any
) -> None:
    """The time of a request ends with it: the next one on the connection has its own."""
    content = json.dumps({"inputs": [row()]}).encode()
    head = f"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(content)}\r\n\r\n"
    with live(make_app(max_body_seconds=0.8)) as url:
        address = ("127.0.0.1", int(url.rpartition(":")[2]))
        with socket.create_connection(address, timeout=20) as connection:
            for _ in range(4):
                for part in (head.encode()[:30], head.encode()[30:], content[:20], content[20:]):
                    connection.sendall(part)
                    time.sleep(0.1)
                assert connection.recv(65_536).startswith(b"HTTP/1.1 200 ")


def test_head_that_comes_slowly_ends_the_connection(
    make_app: App, live: Callable[..., AbstractContextManager[str]]
) -> None:
    complete = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with live(make_app(max_body_seconds=0.4)) as url:
        address = ("127.0.0.1", int(url.rpartition(":")[2]))
        for before, start in ((b"", b""), (b"", complete[:30]), (complete, complete[:30])):
            with socket.create_connection(address, timeout=20) as connection:
                connection.sendall(before + start)
                began, answers = time.monotonic(), b""
                while part := connection.recv(65_536):
                    answers += part
                assert time.monotonic() - began < 5
                assert (b" 200 OK" in answers) == bool(before)
                assert (b" 408 " in answers) == bool(start)
