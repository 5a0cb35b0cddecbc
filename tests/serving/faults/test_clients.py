"""Clients who ask too much: large bodies, hundreds of connections, a thousand origins."""

import asyncio
import json
import socket
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import httpx
import psutil
import pytest

from rossmann.data.panel.panel import Panel

Call = Callable[..., Any]
CHUNK = b" " * 65_536


def own_mb(pid: int) -> float:
    """Memory of the process without what it has mapped from files."""
    found = psutil.Process(pid).memory_info()
    return float(found.rss - found.shared) / 2**20


def send_large(port: int, chunked: bool) -> tuple[bytes, int]:
    """The answer to a body of 100 MB, and how many bytes of it were taken."""
    head = b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
    length = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: 104857600"
    sent = 0
    with socket.create_connection(("127.0.0.1", port), timeout=60) as link:
        link.sendall(head + length + b"\r\n\r\n")
        part = b"%x\r\n%s\r\n" % (len(CHUNK), CHUNK) if chunked else CHUNK
        try:
            while sent < 100 * 2**20:
                link.sendall(part)
                sent += len(CHUNK)
        except OSError:  # it hangs up on what it does not want
            pass
        try:
            answer = link.recv(65_536)
        except ConnectionResetError:
            answer = b""
    return answer, sent


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_of_100_mb(chunked: bool, run_door: Call, row: Call, ask: Call) -> None:
    """413, or a connection that ends; before all is read, and without memory for it."""
    door = run_door(max_body_mb=8)
    port = int(door.url.rpartition(":")[2])
    assert ask(door.url, {"inputs": [row()]}).status_code == 200
    send_large(port, chunked)
    before = own_mb(door.process.pid)
    for _ in range(5):
        answer, sent = send_large(port, chunked)
        assert not answer or answer.startswith(b"HTTP/1.1 413")
        assert sent < 40 * 2**20  # what was taken in, and what lies in the sockets
    assert own_mb(door.process.pid) < before + 40
    assert ask(door.url, {"inputs": [row()]}).status_code == 200
    assert '"code":413' in door.stop().replace(" ", "")


def test_told_before_it_is_sent(run_door: Call, row: Call, ask: Call) -> None:
    """A client that waits for leave (Expect: 100-continue) is refused without sending a byte."""
    door = run_door(max_body_mb=8)
    port = int(door.url.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), timeout=60) as link:
        link.sendall(
            b"POST /predict HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n"
            b"Content-Length: 104857600\r\n\r\n"
        )
        assert link.recv(65_536).startswith(b"HTTP/1.1 413")
    assert ask(door.url, {"inputs": [row()]}).status_code == 200


def test_five_hundred_connections_at_once(run_door: Call, row: Call, ask: Call) -> None:
    """All are answered; none is refused."""
    door = run_door()
    port = int(door.url.rpartition(":")[2])
    body = {"inputs": [row()]}
    truth = ask(door.url, body).json()["predictions"]
    content = json.dumps(body).encode()
    request = (
        f"POST /predict HTTP/1.1\r\nHost: a\r\nConnection: close\r\n"
        f"Content-Length: {len(content)}\r\n\r\n"
    ).encode() + content

    async def all_at_once() -> list[bytes]:
        links = await asyncio.gather(
            *(asyncio.open_connection("127.0.0.1", port) for _ in range(500))
        )
        for _, writer in links:
            writer.write(request)
        answers = await asyncio.gather(*(reader.read() for reader, _ in links))
        for _, writer in links:
            writer.close()
        return list(answers)

    for answer in asyncio.run(all_at_once()):
        assert answer.startswith(b"HTTP/1.1 200")
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["predictions"] == truth
    assert "Traceback" not in door.stop()


def test_idle_connections_hold_up_nobody(run_door: Call, row: Call, ask: Call) -> None:
    """Without a front door: a hundred clients who send half a request each."""
    door = run_door()
    port = int(door.url.rpartition(":")[2])
    slow = [socket.create_connection(("127.0.0.1", port)) for _ in range(100)]
    try:
        for link in slow:
            link.sendall(b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: 500\r\n\r\n{")
        assert ask(door.url, {"inputs": [row()]}).status_code == 200
    finally:
        for link in slow:
            link.close()
    assert ask(door.url, {"inputs": [row()]}).status_code == 200


def test_a_thousand_origins(run_door: Call, row: Call, panel: Panel) -> None:
    """Each that there is gets its answer from the same arrays: nothing is kept for an origin."""
    door = run_door()
    last, first = panel.info.last_day, panel.info.first_day
    days = [last - timedelta(days=back) for back in range(1_000)]
    known = [day for day in days if day >= first]
    assert len(known) > 500
    made = {**row(1), "Date": str(last + timedelta(days=1))}
    with httpx.Client(base_url=door.url, timeout=120, trust_env=False) as client:

        def play(some: list[Any]) -> None:
            for day in some:
                asked = {"inputs": [made], "as_of": str(day), "intervals": [0.8]}
                answer = client.post("/predict", json=asked)
                if day in known:
                    assert answer.json()["as_of"] == str(day)
                else:
                    assert answer.status_code == 422
                    assert answer.json()["detail"][0]["type"] == "as_of_range"

        play(days[:50])
        before = own_mb(door.process.pid)
        play(days)
        assert own_mb(door.process.pid) < before + 40
    assert "Traceback" not in door.stop()
