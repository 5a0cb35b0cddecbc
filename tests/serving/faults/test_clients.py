"""Clients that overload the service: large bodies, many connections, many origins."""

import asyncio
import json
import socket
from collections.abc import Callable
from datetime import date, timedelta
from typing import Any

import httpx
import psutil
import pytest

from rossmann.data.panel.panel import Panel

Call = Callable[..., Any]
CHUNK = b" " * 65_536


def private_memory_mb(pid: int) -> float:
    """Resident memory of the process without mapped files."""
    memory = psutil.Process(pid).memory_info()
    return float(memory.rss - memory.shared) / 2**20


def send_large_body(port: int, chunked: bool) -> tuple[bytes, int]:
    """Send up to 100 MB; returns the response, and how many bytes the service accepted."""
    head = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    length = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: 104857600"
    sent = 0
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.sendall(head + length + b"\r\n\r\n")
        part = b"%x\r\n%s\r\n" % (len(CHUNK), CHUNK) if chunked else CHUNK
        try:
            while sent < 100 * 2**20:
                connection.sendall(part)
                sent += len(CHUNK)
        except OSError:  # the service closed the connection
            pass
        try:
            response = connection.recv(65_536)
        except ConnectionResetError:
            response = b""
    return response, sent


@pytest.mark.parametrize("chunked", [False, True])
def test_body_of_100_mb_is_rejected(
    chunked: bool, run_service: Call, row: Call, post_predict: Call
) -> None:
    """413 or a closed connection, before the whole body is read or buffered."""
    service = run_service(max_body_mb=8)
    port = int(service.url.rpartition(":")[2])
    assert post_predict(service.url, {"inputs": [row()]}).status_code == 200
    send_large_body(port, chunked)
    before = private_memory_mb(service.process.pid)
    for _ in range(5):
        response, sent = send_large_body(port, chunked)
        assert not response or response.startswith(b"HTTP/1.1 413")
        assert sent < 40 * 2**20  # including socket buffers
    assert private_memory_mb(service.process.pid) < before + 40
    assert post_predict(service.url, {"inputs": [row()]}).status_code == 200
    assert '"code":413' in service.stop().replace(" ", "")


def test_expect_100_continue_is_rejected_before_the_body(
    run_service: Call, row: Call, post_predict: Call
) -> None:
    service = run_service(max_body_mb=8)
    port = int(service.url.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.sendall(
            b"POST /predict HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\n"
            b"Content-Length: 104857600\r\n\r\n"
        )
        assert connection.recv(65_536).startswith(b"HTTP/1.1 413")
    assert post_predict(service.url, {"inputs": [row()]}).status_code == 200


def test_500_concurrent_connections_are_answered(
    run_service: Call, row: Call, post_predict: Call
) -> None:
    service = run_service()
    port = int(service.url.rpartition(":")[2])
    body = {"inputs": [row()]}
    expected = post_predict(service.url, body).json()["predictions"]
    content = json.dumps(body).encode()
    request = (
        f"POST /predict HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        f"Content-Length: {len(content)}\r\n\r\n"
    ).encode() + content

    async def send_all() -> list[bytes]:
        connections = await asyncio.gather(
            *(asyncio.open_connection("127.0.0.1", port) for _ in range(500))
        )
        for _, writer in connections:
            writer.write(request)
        responses = await asyncio.gather(*(reader.read() for reader, _ in connections))
        for _, writer in connections:
            writer.close()
        return list(responses)

    for response in asyncio.run(send_all()):
        assert response.startswith(b"HTTP/1.1 200")
        assert json.loads(response.partition(b"\r\n\r\n")[2])["predictions"] == expected
    assert "Traceback" not in service.stop()


def test_idle_connections_do_not_block_others(
    run_service: Call, row: Call, post_predict: Call
) -> None:
    """Without nginx: 100 clients send half a request each."""
    service = run_service()
    port = int(service.url.rpartition(":")[2])
    idle = [socket.create_connection(("127.0.0.1", port)) for _ in range(100)]
    try:
        for connection in idle:
            connection.sendall(
                b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 500\r\n\r\n{"
            )
        assert post_predict(service.url, {"inputs": [row()]}).status_code == 200
    finally:
        for connection in idle:
            connection.close()
    assert post_predict(service.url, {"inputs": [row()]}).status_code == 200


def test_1000_origins_use_no_additional_memory(run_service: Call, row: Call, panel: Panel) -> None:
    """Origins in history get a forecast, others 422."""
    service = run_service()
    last, first = panel.info.last_day, panel.info.first_day
    origins = [last - timedelta(days=back) for back in range(1_000)]
    assert sum(origin >= first for origin in origins) > 500
    request_row = {**row(1), "Date": str(last + timedelta(days=1))}
    with httpx.Client(base_url=service.url, timeout=120, trust_env=False) as client:

        def request_forecasts(some_origins: list[date]) -> None:
            for origin in some_origins:
                body = {"inputs": [request_row], "as_of": str(origin), "intervals": [0.8]}
                response = client.post("/predict", json=body)
                if origin >= first:
                    assert response.json()["as_of"] == str(origin)
                else:
                    assert response.status_code == 422
                    assert response.json()["detail"][0]["type"] == "as_of_range"

        request_forecasts(origins[:50])
        before = private_memory_mb(service.process.pid)
        request_forecasts(origins)
        assert private_memory_mb(service.process.pid) < before + 40
    assert "Traceback" not in service.stop()
