"""Loads versions that requests ask for, in threads that nothing else needs or waits for."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Final

from rossmann.serving.observability.tracing import with_current_context
from rossmann.serving.runtime.version_manager import SelectedVersion, VersionManager

_AT_ONCE: Final = 4


class VersionLoader:
    """A registry or a store that hangs holds up those who ask for what is not in memory, only.

    No pool: its threads would be waited for when the process ends, and a download may hang for a
    minute.
    """

    def __init__(self, versions: VersionManager) -> None:
        self._versions = versions
        self._room = asyncio.Semaphore(_AT_ONCE)

    async def get(self, wanted: str | int) -> SelectedVersion:
        """The version for a request, loaded where it must be; raises what ``load`` raises."""
        picked = self._versions.get_loaded(wanted)
        if picked is not None:
            return picked
        async with self._room:
            return await _beside(with_current_context(lambda: self._versions.load(wanted)))


async def _beside(work: Callable[[], SelectedVersion]) -> SelectedVersion:
    """What ``work`` gives or raises, in a thread that does not keep the process from ending."""
    done: Future[SelectedVersion] = Future()
    done.set_running_or_notify_cancel()

    def run() -> None:
        try:
            done.set_result(work())
        except Exception as error:  # noqa: BLE001 -- it belongs to the one who asked
            done.set_exception(error)

    threading.Thread(target=run, name="load", daemon=True).start()
    return await asyncio.wrap_future(done)
