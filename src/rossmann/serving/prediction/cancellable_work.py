"""Work in threads that ends early when its client goes away or the service stops."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Executor
from typing import TypeVar

from starlette.requests import Request

from rossmann.errors import ServiceError
from rossmann.serving.observability.tracing import with_current_context

T = TypeVar("T")


class WorkCancelledError(ServiceError):
    """Work that nobody waits for any more."""


class Cancellation:
    """Whether work should end; set on the event loop, asked in a thread."""

    def __init__(self, is_closing: threading.Event) -> None:
        self._is_closing = is_closing
        self._is_set = False

    def cancel(self) -> None:
        """Ask the work to end."""
        self._is_set = True

    def is_set(self) -> bool:
        """Whether the client has gone, or the service stops."""
        return self._is_set or self._is_closing.is_set()

    def check(self) -> None:
        """Raise ``WorkCancelledError`` if the work should end."""
        if self.is_set():
            raise WorkCancelledError("the service stops: send the request again")


class WorkThreads:
    """Threads for work of requests whose bodies are received; ``close`` ends both."""

    def __init__(self, pool: Executor) -> None:
        self._pool = pool
        self._is_closing = threading.Event()

    async def run(self, request: Request, work: Callable[[Cancellation], T]) -> T | None:
        """The result of ``work``; None where the client disconnected meanwhile.

        It has ended when this returns or raises, so its files can be removed.
        """
        cancellation = Cancellation(self._is_closing)

        def checked() -> T:
            cancellation.check()  # it may have waited for a thread
            return work(cancellation)

        running = asyncio.get_running_loop().run_in_executor(
            self._pool, with_current_context(checked)
        )
        watch = asyncio.ensure_future(_disconnected(request))
        try:
            await asyncio.wait((running, watch), return_when=asyncio.FIRST_COMPLETED)
        finally:
            if not running.done():
                cancellation.cancel()
            is_gone = watch.done()
            watch.cancel()
            await asyncio.wait((running,))
        return None if is_gone and running.exception() is not None else running.result()

    def close(self) -> None:
        """End the threads; work that has not ended gives up."""
        self._is_closing.set()
        self._pool.shutdown()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
