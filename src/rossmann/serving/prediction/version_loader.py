"""Loads requested versions in daemon threads: a slow registry blocks no other request."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Final

from rossmann.serving.observability.tracing import with_current_context
from rossmann.serving.runtime.version_manager import SelectedVersion, VersionManager

_MAX_LOADS: Final = 4


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
