"""Blocks from a thread to the event loop, never more than two ahead of the client."""

import asyncio
import threading
from collections.abc import AsyncIterator
from typing import Final

from rossmann.errors import ServiceError

AHEAD: Final = 2
_PATIENCE: Final = 60.0
"""Seconds that a client may take nothing: who reads no answer must not keep others from theirs."""


class Gone(ServiceError):
    """Nobody waits for the answer any more."""


class Channel:
    """Made on the event loop; ``send`` runs in a thread, the rest on the loop."""

    def __init__(self, patience: float = _PATIENCE) -> None:
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._room = threading.Semaphore(AHEAD)
        self._patience = patience
        self._closed = False

    def send(self, block: bytes) -> None:
        """Pass a block on; waits while there is no room. Raises ``Gone``."""
        if not self._room.acquire(timeout=self._patience):
            raise Gone(f"the client took nothing for {self._patience:.0f} seconds")
        if self._closed:
            raise Gone("the client went away")
        self._loop.call_soon_threadsafe(self._queue.put_nowait, block)

    def end(self) -> None:
        """No block follows; may be called from any thread."""
        self._loop.call_soon_threadsafe(self._queue.put_nowait, None)

    async def blocks(self) -> AsyncIterator[bytes]:
        """The blocks in their order, up to the end."""
        while (block := await self._queue.get()) is not None:
            yield block
            self._room.release()

    def close(self) -> None:
        """Nobody takes blocks any more."""
        self._closed = True
        self._room.release()
