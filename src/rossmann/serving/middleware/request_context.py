"""ASGI middleware around every request: base path, request id, access log and metrics.

A base path is where a proxy offers the service. Some proxies remove it before they pass a request
on, others do not, and health checks on this machine need not know it: the same routes answer with
it and without it. ASGI wants ``path`` to hold ``root_path``: here it always does.
"""

import asyncio
import re
import time
from collections.abc import Callable
from random import Random
from typing import Final, TypeVarTuple

from fastapi import FastAPI
from starlette.background import BackgroundTask
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rossmann.errors import SettingsError
from rossmann.serving.observability.access_log import REQUEST_RECORD_KEY, RequestRecord
from rossmann.serving.observability.metrics import Metrics

Arguments = TypeVarTuple("Arguments")

_VALID_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,64}\Z")
_NO_SNIFF: Final = (b"x-content-type-options", b"nosniff")


class RequestContextMiddleware:
    """Around all others but the base path's: what others refuse is counted and logged too.

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


class BasePathMiddleware:
    """Puts the base path before paths that lack it; the outermost middleware."""

    def __init__(self, app: ASGIApp, base_path: str) -> None:
        self._app: Final = app
        self._base: Final = base_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        if scope["type"] == "http":
            path: str = scope["path"]
            if path == self._base:
                scope["path"] = f"{path}/"
            elif not path.startswith(f"{self._base}/"):
                scope["path"] = f"{self._base}{path}"
        await self._app(scope, receive, send)


def add_base_path(app: FastAPI, base_path: str) -> None:
    """Serve all routes of ``app`` below ``base_path`` too; does nothing for an empty one.

    Raises ``SettingsError`` where it begins as a route does: a path could mean either.
    """
    if not base_path:
        return
    first = base_path.split("/")[1]
    # Routes of included routers are in the document only, those of /docs among the routes only.
    paths = [*app.openapi()["paths"], *(str(getattr(route, "path", "/")) for route in app.routes)]
    taken = {path.split("/")[1] for path in paths}
    if first in taken:
        raise SettingsError(
            f"ROSSMANN_API_BASE_PATH: {base_path} begins as a path of the API does (/{first});"
            " choose another first part, such as /forecasts"
        )
    app.root_path = base_path
    app.add_middleware(BasePathMiddleware, base_path=base_path)
