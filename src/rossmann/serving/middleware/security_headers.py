"""What every answer tells browsers: show it nowhere else, keep it nowhere, run nothing in it.

Plain ASGI, with headers that are made once: it costs a microsecond or two.
"""

import base64
import hashlib
import re
from typing import Final

from starlette.applications import Starlette
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rossmann.serving.access.access_control import RATE_STATE_KEY, AccessControl
from rossmann.settings import Settings

HeaderPair = tuple[bytes, bytes]

_FOR_ALL: Final[tuple[HeaderPair, ...]] = (
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
)
_NOTHING: Final[HeaderPair] = (
    b"content-security-policy",
    b"default-src 'none'; frame-ancestors 'none'",
)
_NOT_KEPT: Final[HeaderPair] = (b"cache-control", b"no-store")
_TLS_ONLY: Final[HeaderPair] = (b"strict-transport-security", b"max-age=31536000")
DEFAULT_HEADERS: Final = {k.decode(): v.decode() for k, v in (*_FOR_ALL, _NOTHING, _NOT_KEPT)}
"""For an answer that is made outside of the middleware."""
_DOCS: Final = "/docs"
_SCRIPT: Final = re.compile(rb"<script>(.*?)</script>", re.DOTALL)
_EXPOSED: Final = (
    *("X-Request-Id", "Retry-After"),
    *("RateLimit-Limit", "RateLimit-Remaining", "RateLimit-Reset"),
    *("X-Rows", "X-Model-Version", "X-Model-Stage", "X-As-Of", "X-Objective", "X-Warnings"),
)


class SecurityHeadersMiddleware:
    """Adds them to what the application answers, and ends with what the door does after it."""

    def __init__(self, app: ASGIApp, guard: AccessControl, tls_in_front: bool) -> None:
        self._app = app
        self._settle = guard.count_rows if guard.counts_rows else None
        always = (*_FOR_ALL, *((_TLS_ONLY,) if tls_in_front else ()))
        self._usual = (*always, _NOTHING, _NOT_KEPT)
        self._assets = (*always, _NOTHING)
        self._pages = (*always, _NOT_KEPT)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, and dress its answer."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = scope["path"]
        if path.startswith(_DOCS) and not path.startswith(f"{_DOCS}/assets/"):
            await self._app(scope, receive, _Page(send, self._pages).send)
            return
        fixed = self._assets if path.startswith(_DOCS) else self._usual

        async def dressed(message: Message) -> None:
            if message["type"] == "http.response.start":
                standing = scope.get("state", {}).get(RATE_STATE_KEY)
                rate = () if standing is None else standing.headers()
                message["headers"] = [*message.get("headers", ()), *fixed, *rate]
            await send(message)

        if self._settle is None:
            await self._app(scope, receive, dressed)
            return
        try:
            await self._app(scope, receive, dressed)
        finally:
            await self._settle(scope)


class _Page:
    """A page with a script in it: its text is awaited, for the digest that lets it run."""

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
        policy = (b"content-security-policy", _policy(self._body))
        headers = [*self._start.get("headers", ()), *self._headers, policy]
        await self._send({**self._start, "headers": headers})
        await self._send({"type": "http.response.body", "body": self._body})


def _policy(page: bytes) -> bytes:
    """Lets run what the page itself holds and what comes from here, and nothing else."""
    digests = [
        f"'sha256-{base64.b64encode(hashlib.sha256(script).digest()).decode()}'"
        for script in _SCRIPT.findall(page)
    ]
    return "; ".join(
        (
            "default-src 'none'",
            " ".join(("script-src 'self'", *digests)),
            # The page's library writes styles and small pictures into it.
            "style-src 'self' 'unsafe-inline'",
            "img-src 'self' data:",
            "connect-src 'self'",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        )
    ).encode()


def add_security_headers(app: Starlette, settings: Settings, guard: AccessControl) -> None:
    """Put headers on all answers of ``app``, and let pages of the origins that are named read."""
    app.add_middleware(SecurityHeadersMiddleware, guard=guard, tls_in_front=settings.tls_in_front)
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
