"""CPU time of the request middleware: request id, metrics, access log. Microseconds per request.

python benchmarks/request_middleware.py
"""

import asyncio
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rossmann.serving.middleware import RequestContextMiddleware
from rossmann.serving.observability.access_log import RequestRecord, open_access_log
from rossmann.serving.observability.metrics import Metrics

REQUESTS = 5_000
ROUNDS = 9
MULTIPROC_DIR_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"


class Route:
    """The route that FastAPI puts into a scope."""

    path = "/predict"


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """An application that does nothing."""
    scope["route"] = Route
    headers = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"x" * 300})


async def discard(message: Message) -> None:
    """Discard a message, in place of the socket."""


def make_scope() -> Scope:
    """The scope of a request."""
    headers = [(b"host", b"localhost"), (b"content-type", b"application/json")]
    return {"type": "http", "method": "POST", "path": "/predict", "headers": headers}


async def receive_nothing() -> Message:
    """What no request of this benchmark asks for."""
    return {"type": "http.request"}


async def measure(app: ASGIApp) -> float:
    """Microseconds of CPU per request, the best of several rounds."""
    best = float("inf")
    for _ in range(ROUNDS):
        start = time.process_time()
        for _ in range(REQUESTS):
            await app(make_scope(), receive_nothing, discard)
        best = min(best, (time.process_time() - start) / REQUESTS)
    return best * 1e6


def middleware_cost(log: Callable[[RequestRecord], None] | None) -> float:
    """Microseconds that the middleware adds to an application that does nothing."""
    baseline = asyncio.run(measure(app))
    return asyncio.run(measure(RequestContextMiddleware(app, Metrics(), log))) - baseline


def main() -> None:
    """Measure with the metrics of one worker, then in a subprocess with those of several."""
    workers = "several" if MULTIPROC_DIR_VARIABLE in os.environ else "one"
    without_log = middleware_cost(None)
    with Path(os.devnull).open("w", buffering=1) as sink:
        access_log = open_access_log("info", "json", stream=sink)
        assert access_log is not None
        with_log = middleware_cost(access_log.write)
    print(f"{workers} worker(s): {without_log:.1f} us, with a line of JSON {with_log:.1f} us")
    if workers == "one":
        with tempfile.TemporaryDirectory() as folder:
            subprocess.run(
                [sys.executable, __file__],
                env={**os.environ, MULTIPROC_DIR_VARIABLE: folder},
                check=True,
            )


if __name__ == "__main__":
    main()
