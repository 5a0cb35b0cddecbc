"""A client that costs little: raw HTTP/1.1 over kept connections, many of them at once."""

import asyncio
import re
import time
from dataclasses import dataclass
from typing import Final, cast

import numpy as np
import uvloop

_END: Final = b"\r\n\r\n"
_LENGTH: Final = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


@dataclass(frozen=True)
class Load:
    """What came of a load: seconds of each request in the order of their ends, and of the whole."""

    seconds: np.ndarray
    whole: float

    @property
    def per_second(self) -> float:
        """Requests in a second."""
        return len(self.seconds) / self.whole

    def percentile_ms(self, share: float) -> float:
        """The time within which that share of the requests was answered, in milliseconds."""
        return float(1000 * np.quantile(self.seconds, share))


class _Connection(asyncio.Protocol):
    def __init__(self) -> None:
        self._got = bytearray()
        self._done: asyncio.Future[bytes] | None = None
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._got += data
        head = self._got.find(_END)
        if head < 0:
            return
        length = _content_length(bytes(self._got[:head]))
        if len(self._got) >= head + 4 + length and self._done is not None:
            whole = bytes(self._got)
            self._got.clear()
            done, self._done = self._done, None
            done.set_result(whole)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._done is not None and not self._done.done():
            self._done.set_exception(ConnectionError(f"the server hung up: {exc}"))

    async def ask(self, request: bytes) -> bytes:
        """The whole answer to a request."""
        assert self._transport is not None
        self._done = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._done


def _content_length(head: bytes) -> int:
    found = _LENGTH.search(head)
    if found is None:
        raise ConnectionError(f"an answer without a length: {head[:200]!r}")
    return int(found[1])


def post(path: str, body: bytes) -> bytes:
    """A POST of JSON as it goes over the wire."""
    head = (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def play(port: int, requests: list[bytes], at_once: int, seconds: float) -> Load:
    """Play ``requests`` over and over on ``at_once`` connections for ``seconds``.

    Raises ``ConnectionError`` for any answer but 200.
    """
    return uvloop.run(_play(port, requests, at_once, seconds))


class _Player(asyncio.Protocol):
    """One connection that asks again as soon as it is answered, without a task of its own: on a
    machine of few cores, what the client takes the service lacks."""

    def __init__(self, requests: list[bytes], place: int, step: int, until: float) -> None:
        self._requests, self._place, self._step, self._until = requests, place, step, until
        self._got = bytearray()
        self._lacking = 0
        self.took: list[float] = []
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self._ask()

    def _ask(self) -> None:
        request = self._requests[self._place % len(self._requests)]
        self._place += self._step
        self._asked = time.perf_counter()
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        if self._lacking > 0:
            self._lacking -= len(data)
        else:
            self._got += data
            head = self._got.find(_END)
            if head < 0:
                return
            text = bytes(self._got[:head])
            if not text.startswith(b"HTTP/1.1 200"):
                self._fail(f"not answered: {bytes(self._got[:400])!r}")
                return
            self._lacking = head + len(_END) + _content_length(text) - len(self._got)
            self._got.clear()
        if self._lacking > 0:
            return
        now = time.perf_counter()
        self.took.append(now - self._asked)
        if now < self._until:
            self._ask()
        elif not self.done.done():
            self.done.set_result(None)

    def _fail(self, words: str) -> None:
        if not self.done.done():
            self.done.set_exception(ConnectionError(words))

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(f"the server hung up: {exc}")


async def _play(port: int, requests: list[bytes], at_once: int, seconds: float) -> Load:
    loop = asyncio.get_running_loop()
    begun = time.perf_counter()
    players = []
    for place in range(at_once):
        player = _Player(requests, place, at_once, begun + seconds)
        await loop.create_connection(lambda player=player: player, "127.0.0.1", port)
        players.append(player)
    await asyncio.gather(*(player.done for player in players))
    whole = time.perf_counter() - begun
    for player in players:
        player.transport.close()
    return Load(np.array([took for player in players for took in player.took]), whole)


@dataclass(frozen=True)
class Answered:
    """One request of a constant load: when it was due (of ``perf_counter``), how long its answer
    took from then on, and the answer; none where the connection broke."""

    due: float
    seconds: float
    answer: bytes


async def play_at(
    port: int, requests: list[bytes], per_second: float, stop: asyncio.Event, at_once: int = 16
) -> list[Answered]:
    """Play ``requests`` at a constant rate on kept connections until ``stop`` is set.

    Times count from when a request was due, so that a pause is seen by all that fall in it.
    """
    loop = asyncio.get_running_loop()
    due: asyncio.Queue[float] = asyncio.Queue()
    found: list[Answered] = []

    async def one(place: int) -> None:
        connection = await _connected(port)
        while (when := await due.get()) >= 0:
            try:
                answer = await connection.ask(requests[place % len(requests)])
            except ConnectionError:
                answer, connection = b"", await _connected(port)
            found.append(Answered(when, time.perf_counter() - when, answer))
            place += at_once

    workers = [loop.create_task(one(place)) for place in range(at_once)]
    begun, count = time.perf_counter(), 0
    while not stop.is_set():
        count += 1
        await asyncio.sleep(begun + count / per_second - time.perf_counter())
        due.put_nowait(begun + count / per_second)
    for _ in workers:
        due.put_nowait(-1.0)
    await asyncio.gather(*workers)
    return found


async def _connected(port: int) -> _Connection:
    loop = asyncio.get_running_loop()
    while True:
        try:
            return (await loop.create_connection(_Connection, "127.0.0.1", port))[1]
        except ConnectionRefusedError:
            await asyncio.sleep(0.01)
