"""ASGI middleware: frame, referrer, cache and CSP headers on every response, and CORS.

Plain ASGI with headers that are built once: it costs a microsecond or two.
"""

import re
from collections.abc import Callable, Iterable
from typing import Final

from starlette.applications import Starlette
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rossmann.errors import PermissionDeniedError
from rossmann.serving.access.access_control import RATE_STATE_KEY, AccessControl
from rossmann.settings import Settings
from rossmann.web import PATH as DOCUMENTATION
from rossmann.web import content_policy

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
