"""A result file on its way to the client: kept on disk, and read while it is written.

So a thread never waits for a client that reads slowly.
"""

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

from rossmann.errors import ServiceError

_BLOCK: Final = 1 << 20


class ClientGoneError(ServiceError):
    """The client disconnected, or its time to read was over."""


class ResultSpool:
    """A file that a thread appends to, while the event loop reads it from its beginning.

    Created on the event loop; ``send`` and ``end`` run in a thread, the rest on the loop.
    """

    def __init__(self, path: Path) -> None:
        """Raises ``OSError``."""
        self._loop = asyncio.get_running_loop()
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._written = 0
        self._has_ended = self._is_closed = False
        self._changed = asyncio.Event()

    def send(self, block: bytes) -> None:
        """Append a block; raises ``ClientGoneError``, and ``OSError`` where the disk is full."""
        if self._is_closed:
            raise ClientGoneError("the client went away")
        rest = memoryview(block)
        while rest:
            rest = rest[os.write(self._file, rest) :]
        self._loop.call_soon_threadsafe(self._advance, len(block))

    def end(self) -> None:
        """Mark the end of the file; may be called from any thread."""
        self._loop.call_soon_threadsafe(self._advance, 0)

    async def blocks(self) -> AsyncIterator[bytes]:
        """The bytes in blocks of at most a megabyte, up to the end."""
        position = 0
        while True:
            if position < self._written:
                size = min(_BLOCK, self._written - position)
                block = await asyncio.to_thread(os.pread, self._file, size, position)
                position += len(block)
                yield block
            elif self._has_ended:
                return
            else:
                self._changed.clear()
                await self._changed.wait()

    def stop(self) -> None:
        """Read no more: further ``send`` raise."""
        self._is_closed = True

    def close(self) -> None:
        """Close the file; nobody writes any more."""
        os.close(self._file)

    def _advance(self, size: int) -> None:
        self._written += size
        self._has_ended = self._has_ended or not size
        self._changed.set()
