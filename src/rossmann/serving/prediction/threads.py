"""Threads of requests: work that ends early when its client goes away, and loads of versions.

Versions are loaded in daemon threads, so that a slow registry blocks no other request.
"""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Final, TypeVar

from starlette.requests import Request

from rossmann.errors import ServiceError
from rossmann.serving.observability.tracing import with_current_context
from rossmann.serving.runtime.version_manager import SelectedVersion, VersionManager

T = TypeVar("T")
_MAX_LOADS: Final = 4


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


class VersionLoader:
    """Returns loaded versions at once, and loads others in a thread.

    No pool: its threads would be joined when the process ends, and a download may take a minute.
    """

    def __init__(self, versions: VersionManager) -> None:
        self._versions = versions
        self._slots = asyncio.Semaphore(_MAX_LOADS)

    async def get(self, stage: str | int) -> SelectedVersion:
        """The version in ``stage`` or of that number; raises like ``VersionManager.load``."""
        loaded = self._versions.get_loaded(stage)
        if loaded is not None:
            return loaded
        async with self._slots:
            return await _run_in_daemon_thread(
                with_current_context(lambda: self._versions.load(stage))
            )


async def _run_in_daemon_thread(work: Callable[[], SelectedVersion]) -> SelectedVersion:
    """What ``work`` returns or raises."""
    future: Future[SelectedVersion] = Future()
    future.set_running_or_notify_cancel()

    def run() -> None:
        try:
            future.set_result(work())
        except Exception as error:  # noqa: BLE001 -- raised in the request that waits for it
            future.set_exception(error)

    threading.Thread(target=run, name="load", daemon=True).start()
    return await asyncio.wrap_future(future)
