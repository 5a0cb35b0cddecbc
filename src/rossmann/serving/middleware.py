"""ASGI middleware around every request: base path, id, log, metrics, security headers, and CORS.

Plain ASGI with headers that are built once: it costs a microsecond or two.

A base path is where a proxy offers the service. Some proxies remove it before they pass a request
on, others do not, and health checks on this machine need not know it: the same routes answer with
it and without it. ASGI wants ``path`` to hold ``root_path``: here it always does.
"""

import asyncio
import re
import time
from collections.abc import Callable, Iterable
from random import Random
from typing import Final, TypeVarTuple

from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rossmann.errors import PermissionDeniedError, SettingsError
from rossmann.serving.access.access_control import RATE_STATE_KEY, AccessControl
from rossmann.serving.observability.access_log import REQUEST_RECORD_KEY, RequestRecord
from rossmann.serving.observability.metrics import Metrics
from rossmann.settings import Settings
from rossmann.web import PATH as DOCUMENTATION
from rossmann.web import content_policy

Arguments = TypeVarTuple("Arguments")

_VALID_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,64}\Z")
_NO_SNIFF: Final = (b"x-content-type-options", b"nosniff")
HeaderPair = tuple[bytes, bytes]
ErrorHandler = Callable[[Request, Exception], Response]

_COMMON: Final[tuple[HeaderPair, ...]] = (
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
)
_NO_CONTENT_POLICY: Final[HeaderPair] = (
    b"content-security-policy",
    b"default-src 'none'; frame-ancestors 'none'",
)
_NO_STORE: Final[HeaderPair] = (b"cache-control", b"no-store")
_TLS_ONLY: Final[HeaderPair] = (b"strict-transport-security", b"max-age=31536000")
DEFAULT_HEADERS: Final = {
    k.decode(): v.decode() for k, v in (*_COMMON, _NO_CONTENT_POLICY, _NO_STORE)
}
"""For a response that is made outside of the middleware."""
_DOCS: Final = "/docs"
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_SITE: Final = re.compile(rb"https?://[^/]*/*")
_EXPOSED: Final = (
    *("X-Request-Id", "Retry-After"),
    *("RateLimit-Limit", "RateLimit-Remaining", "RateLimit-Reset"),
    *("X-Rows", "X-Model-Version", "X-Model-Stage", "X-As-Of", "X-Objective", "X-Warnings"),
)


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


class SecurityHeadersMiddleware:
    """Adds security and rate-limit headers, and counts rows against the limits afterwards.

    Calls of an open service that may come from a page of another site are answered by ``refuse``.
    """

    def __init__(
        self,
        app: ASGIApp,
        access_control: AccessControl,
        refuse: ErrorHandler,
        tls_in_front: bool = False,
    ) -> None:
        self._app = app
        self._check_browser = access_control.check_browser
        self._refuse = refuse
        self._count_rows = access_control.count_rows if access_control.counts_rows else None
        common = (*_COMMON, *((_TLS_ONLY,) if tls_in_front else ()))
        self._default = (*common, _NO_CONTENT_POLICY, _NO_STORE)
        self._assets = (*common, _NO_CONTENT_POLICY)
        self._pages = (*common, _NO_STORE)
        self._documentation = common  # its pages have policies of their own

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, and add headers to its response."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        app = self._app
        try:
            self._check_browser(scope)
        except PermissionDeniedError as error:
            app = self._refuse(Request(scope), error)
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        if path.startswith(_DOCS) and not path.startswith(f"{_DOCS}/assets/"):
            await app(scope, receive, _DocsPage(send, self._pages).send)
            return
        headers = self._assets if path.startswith(_DOCS) else self._default
        if path.startswith(f"{DOCUMENTATION}/"):
            headers = self._documentation

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                if message["status"] in _REDIRECTS:
                    message["headers"] = _on_this_site(message["headers"])
                usage = scope.get("state", {}).get(RATE_STATE_KEY)
                rate = () if usage is None else usage.headers()
                message["headers"] = [*message.get("headers", ()), *headers, *rate]
            await send(message)

        if self._count_rows is None:
            await app(scope, receive, send_with_headers)
            return
        try:
            await app(scope, receive, send_with_headers)
        finally:
            await self._count_rows(scope)


class _DocsPage:
    """An HTML page with inline scripts: buffered, because the CSP names their digests."""

    def __init__(self, send: Send, headers: tuple[HeaderPair, ...]) -> None:
        self._send = send
        self._headers = headers
        self._start: Message = {}
        self._body = b""

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._start = message
            return
        self._body += message.get("body", b"")
        if message.get("more_body"):
            return
        policy = (b"content-security-policy", content_policy(self._body).encode())
        headers = [*_on_this_site(self._start.get("headers", ())), *self._headers, policy]
        await self._send({**self._start, "headers": headers})
        await self._send({"type": "http.response.body", "body": self._body})


def _on_this_site(headers: Iterable[HeaderPair]) -> list[HeaderPair]:
    """Headers whose redirect names a path only: the framework's would name the caller's Host."""
    return [
        (name, _SITE.sub(b"/", value, count=1) if name == b"location" else value)
        for name, value in headers
    ]


def add_security_headers(
    app: Starlette, settings: Settings, access_control: AccessControl, refuse: ErrorHandler
) -> None:
    """Add the middleware to ``app``, and CORS for the configured origins."""
    app.add_middleware(
        SecurityHeadersMiddleware,
        access_control=access_control,
        refuse=refuse,
        tls_in_front=settings.tls_in_front,
    )
    if not settings.cors_origins:
        return
    app.add_middleware(
        CORSMiddleware,
        allow_origins=settings.cors_origins,
        allow_methods=("GET", "POST"),
        allow_headers=("X-API-Key", "Authorization", "Content-Type", "X-Request-Id"),
        expose_headers=_EXPOSED,
        max_age=600,
    )
