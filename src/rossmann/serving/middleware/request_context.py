"""Around every request: its id, its headers, its line in the log, and what Prometheus counts."""

import re
import time
from collections.abc import Callable
from random import Random
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rossmann.serving.observability.access_log import REQUEST_RECORD_KEY, RequestRecord
from rossmann.serving.observability.metrics import Metrics
from rossmann.serving.observability.prediction_recorder import run_next_tick

_SANE_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,64}\Z")
_NO_SNIFF: Final = (b"x-content-type-options", b"nosniff")


class RequestContextMiddleware:
    """Middleware in plain ASGI: the framework's own kind costs more than the whole request.

    It belongs outside all others, so that what they refuse is counted and told too. ``tell``
    writes a request's line.
    """

    def __init__(
        self, app: ASGIApp, metrics: Metrics, tell: Callable[[RequestRecord], None] | None = None
    ) -> None:
        self._app = app
        self._metrics = metrics
        self._tell = tell
        # Ids are no secret: the system's own randomness would take longer than all the rest.
        self._bits = Random().getrandbits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Give the request an id, pass it on, and count what came of it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = _request_id(scope, self._bits)
        line = RequestRecord(request_id, scope["method"], scope["path"])
        state = scope.setdefault("state", {})
        state["request_id"], state[REQUEST_RECORD_KEY] = request_id, line

        async def note(message: Message) -> None:
            if message["type"] == "http.response.start":
                line.code = message["status"]
                headers = [(b"x-request-id", request_id.encode()), _NO_SNIFF]
                message["headers"] = [*message.get("headers", ()), *headers]
            else:
                line.bytes += len(message.get("body", b""))
            await send(message)

        self._metrics.in_flight += 1
        begun = time.perf_counter()
        try:
            await self._app(scope, receive, note)
        finally:
            line.seconds = time.perf_counter() - begun
            self._metrics.in_flight -= 1
            run_next_tick(self._end, scope, line)

    def _end(self, scope: Scope, line: RequestRecord) -> None:
        # A path that no route knows is the caller's text: it must not become a label.
        line.route = getattr(scope.get("route"), "path", None)
        self._metrics.request_finished(line.route, line.method, line.code, line.seconds)
        if self._tell is not None:
            self._tell(line)


def _request_id(scope: Scope, bits: Callable[[int], int]) -> str:
    for name, value in scope["headers"]:
        if name == b"x-request-id":
            text: str = value.decode("latin-1")
            if _SANE_ID.match(text):
                return text
    # Time first, as in RFC 9562's version 7: an index of ids then grows at its end.
    return f"{time.time_ns() // 1_000_000:012x}{bits(80):020x}"
