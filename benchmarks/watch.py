"""What it costs to watch a request: its id, its counts, its line. Microseconds a request.

python benchmarks/watch.py
"""

import asyncio
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from rossmann.serving.middleware.request_context import RequestContextMiddleware
from rossmann.serving.observability.access_log import RequestRecord, open_access_log
from rossmann.serving.observability.metrics import Metrics

REQUESTS = 5_000
TIMES = 9
FOLDER = "PROMETHEUS_MULTIPROC_DIR"


class Route:
    """What the framework leaves in a scope."""

    path = "/predict"


async def answer(scope, receive, send):
    """An application that does nothing."""
    scope["route"] = Route
    headers = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"x" * 300})


async def nowhere(message):
    """The socket."""


def request():
    """A request as the server hands it over."""
    headers = [(b"host", b"localhost"), (b"content-type", b"application/json")]
    return {"type": "http", "method": "POST", "path": "/predict", "headers": headers}


async def measure(app) -> float:
    """The best of some rounds, in microseconds of CPU a request: others may use the machine."""
    best = float("inf")
    for _ in range(TIMES):
        begun = time.process_time()
        for _ in range(REQUESTS):
            await app(request(), None, nowhere)
        best = min(best, (time.process_time() - begun) / REQUESTS)
    return best * 1e6


def cost(tell: Callable[[RequestRecord], None] | None) -> float:
    """What the middleware adds to an application that does nothing."""
    bare = asyncio.run(measure(answer))
    return asyncio.run(measure(RequestContextMiddleware(answer, Metrics(), tell))) - bare


def main() -> None:
    """Measure with one worker's numbers in this process, then with several workers' in another."""
    workers = "several" if FOLDER in os.environ else "one"
    quiet = cost(None)
    with Path(os.devnull).open("w", buffering=1) as sink:
        lines = open_access_log("info", "json", stream=sink)
        assert lines is not None
        spoken = cost(lines.write)
    print(f"{workers} worker(s): {quiet:.1f} us, with a line of JSON {spoken:.1f} us")
    if workers == "one":
        with tempfile.TemporaryDirectory() as folder:
            subprocess.run(
                [sys.executable, __file__], env={**os.environ, FOLDER: folder}, check=True
            )


if __name__ == "__main__":
    main()
