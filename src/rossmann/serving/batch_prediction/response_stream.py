"""The stream of a result file to the client: blocks from a thread to the event loop."""

import asyncio
import threading
from collections.abc import AsyncIterator
from typing import Final

from rossmann.errors import ServiceError

MAX_BUFFERED_BLOCKS: Final = 2
_SEND_TIMEOUT: Final = 60.0
"""Seconds that a client may read nothing: a job holds one of few slots."""


class ClientGoneError(ServiceError):
    """The client disconnected or stopped reading."""


class BlockStream:
    """Blocks from a thread to the event loop, with back-pressure.

    Created on the event loop; ``send`` runs in a thread, the rest on the loop.
    """

    def __init__(self, timeout: float = _SEND_TIMEOUT) -> None:
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._free_slots = threading.Semaphore(MAX_BUFFERED_BLOCKS)
        self._timeout = timeout
        self._closed = False

    def send(self, block: bytes) -> None:
        """Pass a block on; blocks while the buffer is full. Raises ``ClientGoneError``."""
        if not self._free_slots.acquire(timeout=self._timeout):
            raise ClientGoneError(f"the client took nothing for {self._timeout:.0f} seconds")
        if self._closed:
            raise ClientGoneError("the client went away")
        self._loop.call_soon_threadsafe(self._queue.put_nowait, block)

    def end(self) -> None:
        """Mark the end of the stream; may be called from any thread."""
        self._loop.call_soon_threadsafe(self._queue.put_nowait, None)

    async def blocks(self) -> AsyncIterator[bytes]:
        """The blocks in their order, up to the end."""
        while (block := await self._queue.get()) is not None:
            yield block
            self._free_slots.release()

    def close(self) -> None:
        """Stop reading: further ``send`` raise."""
        self._closed = True
        self._free_slots.release()
