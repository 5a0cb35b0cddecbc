"""ASGI middleware around every request: request id, response headers, access log and metrics."""

import asyncio
import re
import time
from collections.abc import Callable
from random import Random
from typing import Final, TypeVarTuple

from starlette.background import BackgroundTask
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rossmann.serving.observability.access_log import REQUEST_RECORD_KEY, RequestRecord
from rossmann.serving.observability.metrics import Metrics

Arguments = TypeVarTuple("Arguments")

_VALID_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,64}\Z")
_NO_SNIFF: Final = (b"x-content-type-options", b"nosniff")


class RequestContextMiddleware:
    """Outermost middleware, so that what others refuse is counted and logged too.

    Plain ASGI: Starlette's base class costs more than the whole request. ``write_record`` writes
    to the access log.
    """

    def __init__(
        self,
        app: ASGIApp,
        metrics: Metrics,
        write_record: Callable[[RequestRecord], None] | None = None,
    ) -> None:
        self._app = app
        self._metrics = metrics
        self._write_record = write_record
        # Ids are no secret, and the system's random source is slow.
        self._random_bits = Random().getrandbits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Give the request an id, pass it on, then count and log it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = _request_id(scope, self._random_bits)
        record = RequestRecord(request_id, scope["method"], scope["path"])
        state = scope.setdefault("state", {})
        state["request_id"], state[REQUEST_RECORD_KEY] = request_id, record

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                record.code = message["status"]
                headers = [(b"x-request-id", request_id.encode()), _NO_SNIFF]
                message["headers"] = [*message.get("headers", ()), *headers]
            else:
                record.bytes += len(message.get("body", b""))
            await send(message)

        self._metrics.in_flight += 1
        started = time.perf_counter()
        try:
            await self._app(scope, receive, send_with_id)
        finally:
            record.seconds = time.perf_counter() - started
            self._metrics.in_flight -= 1
            run_next_tick(self._finish, scope, record)

    def _finish(self, scope: Scope, record: RequestRecord) -> None:
        # The route's pattern, not the path: a label must not hold the caller's text.
        record.route = getattr(scope.get("route"), "path", None)
        self._metrics.request_finished(record.route, record.method, record.code, record.seconds)
        if self._write_record is not None:
            self._write_record(record)


def _request_id(scope: Scope, random_bits: Callable[[int], int]) -> str:
    for name, value in scope["headers"]:
        if name == b"x-request-id":
            text: str = value.decode("latin-1")
            if _VALID_ID.match(text):
                return text
    # Time first, as in RFC 9562's UUID version 7: a database index then grows at its end.
    return f"{time.time_ns() // 1_000_000:012x}{random_bits(80):020x}"


def run_next_tick(work: Callable[[*Arguments], object], *arguments: *Arguments) -> None:
    """Call ``work``, which must be short and must not block, in the event loop's next turn.

    Responses that are ready in the same turn are all sent before it.
    """
    asyncio.get_running_loop().call_soon(work, *arguments)


class NextTickTask(BackgroundTask):
    """A response's ``background`` by ``run_next_tick``: the framework would take a thread."""

    def __init__(self, work: Callable[[*Arguments], object], *arguments: *Arguments) -> None:
        self._work, self._arguments = work, arguments

    async def __call__(self) -> None:
        """Schedule it."""
        run_next_tick(self._work, *self._arguments)
