"""Around every request: its id, its headers, and what Prometheus counts."""

import os
import re
import time
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_SANE_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,64}\Z")
_NO_SNIFF: Final = (b"x-content-type-options", b"nosniff")
_BUCKETS: Final = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)


class Metrics:
    """What is counted; one of these for each application, so that none is shared by accident."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "rossmann_requests",
            "Requests answered",
            ("route", "method", "code"),
            registry=self.registry,
        )
        self.seconds = Histogram(
            "rossmann_request_seconds",
            "Time to answer",
            ("route",),
            buckets=_BUCKETS,
            registry=self.registry,
        )
        self.rows = Counter("rossmann_rows", "Rows forecast", registry=self.registry)
        self.warnings = Counter(
            "rossmann_warnings", "Rows with a warning", ("kind",), registry=self.registry
        )
        self.version = Gauge("rossmann_model_version", "Version in service", registry=self.registry)
        self.degraded = Gauge(
            "rossmann_degraded", "1 while something is amiss", registry=self.registry
        )


class Watch:
    """Middleware in plain ASGI: the framework's own kind costs more than the whole request."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics
        # A look-up by labels costs more than the count itself.
        self._children: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Give the request an id, pass it on, and count what came of it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = _request_id(scope)
        scope.setdefault("state", {})["request_id"] = request_id
        begun = time.perf_counter()
        code = 500

        async def note(message: Message) -> None:
            nonlocal code
            if message["type"] == "http.response.start":
                code = message["status"]
                headers = [(b"x-request-id", request_id.encode()), _NO_SNIFF]
                message["headers"] = [*message.get("headers", ()), *headers]
            await send(message)

        try:
            await self._app(scope, receive, note)
        finally:
            self._count(scope, code, time.perf_counter() - begun)

    def _count(self, scope: Scope, code: int, seconds: float) -> None:
        route = scope.get("route")
        # A path that no route knows is the caller's text: it must not become a label.
        name = getattr(route, "path", "unknown")
        method = scope["method"] if route is not None else "any"
        key = (name, method, code)
        child = self._children.get(key)
        if child is None:
            counts = self._metrics.requests.labels(name, method, str(code))
            child = self._children[key] = (counts, self._metrics.seconds.labels(name))
        child[0].inc()
        child[1].observe(seconds)


def _request_id(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == b"x-request-id":
            text: str = value.decode("latin-1")
            if _SANE_ID.match(text):
                return text
    return os.urandom(16).hex()
