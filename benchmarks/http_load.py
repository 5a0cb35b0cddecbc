"""Light load generator: raw HTTP/1.1 over concurrent keep-alive connections."""

import asyncio
import re
import time
from dataclasses import dataclass
from functools import partial
from typing import Final, cast

import numpy as np
import uvloop

_HEAD_END: Final = b"\r\n\r\n"
_CONTENT_LENGTH: Final = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


@dataclass(frozen=True)
class LoadResult:
    """Result of a load: ``seconds`` of each request, in the order of their ends, and of all."""

    seconds: np.ndarray
    duration: float

    @property
    def per_second(self) -> float:
        """Requests per second."""
        return len(self.seconds) / self.duration

    def percentile_ms(self, share: float) -> float:
        """A quantile of the response times, in milliseconds."""
        return float(1000 * np.quantile(self.seconds, share))


class _Connection(asyncio.Protocol):
    def __init__(self) -> None:
        self._buffer = bytearray()
        self._response: asyncio.Future[bytes] | None = None
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head = self._buffer.find(_HEAD_END)
        if head < 0:
            return
        length = _content_length(bytes(self._buffer[:head]))
        if len(self._buffer) >= head + 4 + length and self._response is not None:
            response = bytes(self._buffer)
            self._buffer.clear()
            future, self._response = self._response, None
            future.set_result(response)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._response is not None and not self._response.done():
            self._response.set_exception(
                ConnectionError(f"the server closed the connection: {exc}")
            )

    async def send(self, request: bytes) -> bytes:
        """The whole response to a request."""
        assert self._transport is not None
        self._response = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._response


def _content_length(head: bytes) -> int:
    match = _CONTENT_LENGTH.search(head)
    if match is None:
        raise ConnectionError(f"a response without Content-Length: {head[:200]!r}")
    return int(match[1])


def post_request(path: str, body: bytes) -> bytes:
    """The bytes of a POST of JSON."""
    head = (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def run_load(port: int, requests: list[bytes], connections: int, seconds: float) -> LoadResult:
    """Send ``requests`` in a loop over concurrent connections for ``seconds``.

    Raises ``ConnectionError`` for any response but 200.
    """
    return uvloop.run(_run_load(port, requests, connections, seconds))


class _LoadConnection(asyncio.Protocol):
    """One connection that sends again after each response, without a task, to save CPU time."""

    def __init__(self, requests: list[bytes], index: int, step: int, until: float) -> None:
        self._requests, self._index, self._step, self._until = requests, index, step, until
        self._buffer = bytearray()
        self._missing_bytes = 0
        self.seconds: list[float] = []
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self._send()

    def _send(self) -> None:
        request = self._requests[self._index % len(self._requests)]
        self._index += self._step
        self._sent_at = time.perf_counter()
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        if self._missing_bytes > 0:
            self._missing_bytes -= len(data)
        else:
            self._buffer += data
            head = self._buffer.find(_HEAD_END)
            if head < 0:
                return
            header = bytes(self._buffer[:head])
            if not header.startswith(b"HTTP/1.1 200"):
                self._fail(f"not 200: {bytes(self._buffer[:400])!r}")
                return
            self._missing_bytes = (
                head + len(_HEAD_END) + _content_length(header) - len(self._buffer)
            )
            self._buffer.clear()
        if self._missing_bytes > 0:
            return
        now = time.perf_counter()
        self.seconds.append(now - self._sent_at)
        if now < self._until:
            self._send()
        elif not self.done.done():
            self.done.set_result(None)

    def _fail(self, message: str) -> None:
        if not self.done.done():
            self.done.set_exception(ConnectionError(message))

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(f"the server closed the connection: {exc}")


def _same(protocol: _LoadConnection) -> _LoadConnection:
    """What asyncio asks a factory for: a protocol that exists already."""
    return protocol


async def _run_load(
    port: int, requests: list[bytes], connections: int, seconds: float
) -> LoadResult:
    loop = asyncio.get_running_loop()
    start = time.perf_counter()
    protocols = []
    for index in range(connections):
        protocol = _LoadConnection(requests, index, connections, start + seconds)
        await loop.create_connection(partial(_same, protocol), "127.0.0.1", port)
        protocols.append(protocol)
    await asyncio.gather(*(protocol.done for protocol in protocols))
    duration = time.perf_counter() - start
    for protocol in protocols:
        protocol.transport.close()
    return LoadResult(np.concatenate([protocol.seconds for protocol in protocols]), duration)


@dataclass(frozen=True)
class TimedResponse:
    """A request of a constant load: when it was due (by ``perf_counter``), seconds from then to its
    response, and the response; empty where the connection broke."""

    due: float
    seconds: float
    content: bytes


async def run_constant_load(
    port: int, requests: list[bytes], per_second: float, stop: asyncio.Event, connections: int = 16
) -> list[TimedResponse]:
    """Send ``requests`` at a constant rate over keep-alive connections until ``stop`` is set.

    Times count from when a request was due, so that a pause delays all requests within it.
    """
    loop = asyncio.get_running_loop()
    due_times: asyncio.Queue[float] = asyncio.Queue()
    responses: list[TimedResponse] = []

    async def send_due(index: int) -> None:
        connection = await _connect(port)
        while (due := await due_times.get()) >= 0:
            try:
                content = await connection.send(requests[index % len(requests)])
            except ConnectionError:
                content, connection = b"", await _connect(port)
            responses.append(TimedResponse(due, time.perf_counter() - due, content))
            index += connections

    workers = [loop.create_task(send_due(index)) for index in range(connections)]
    start, count = time.perf_counter(), 0
    while not stop.is_set():
        count += 1
        await asyncio.sleep(start + count / per_second - time.perf_counter())
        due_times.put_nowait(start + count / per_second)
    for _ in workers:
        due_times.put_nowait(-1.0)
    await asyncio.gather(*workers)
    return responses


async def _connect(port: int) -> _Connection:
    loop = asyncio.get_running_loop()
    while True:
        try:
            return (await loop.create_connection(_Connection, "127.0.0.1", port))[1]
        except ConnectionRefusedError:
            await asyncio.sleep(0.01)
