"""Limits of files that are received and answered: places for each caller, and time to transfer.

A client that sends or reads slowly holds a place, but no thread: a file is worked on once it is
here, and its result is kept on disk until the client has read it.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import Final, TypeVar

from rossmann.errors import ServiceBusyError

T = TypeVar("T")

MAX_ACCEPTED_FILES: Final = 16
"""Files that are received, wait, or are answered at the same time; further ones get a 503."""
MAX_FILES_OF_CALLER: Final = 8
MAX_RUNNING_JOBS: Final = 3
"""Files that are read and forecast at the same time."""
_MAX_JOBS_OF_CALLER: Final = 2
_RETRY_AFTER: Final = 5
"""Seconds after which a client that got a 503 may try again."""
GRACE_SECONDS: Final = 30.0
"""That a client may take for a transfer beyond ``MIN_BYTES_PER_SECOND``, in either direction."""
MIN_BYTES_PER_SECOND: Final = 8_192


class FilePlaces:
    """Places for callers' files, of which no caller gets all; used on one event loop."""

    def __init__(self) -> None:
        self._accepted: Counter[str] = Counter()
        self._jobs = asyncio.Semaphore(MAX_RUNNING_JOBS)
        self._jobs_of_caller: dict[str, _CallerJobs] = {}

    def take(self, caller: str) -> None:
        """Take a place for a file; raises ``ServiceBusyError``."""
        if self._accepted[caller] >= MAX_FILES_OF_CALLER:
            msg = f"{MAX_FILES_OF_CALLER} files of yours are being answered: come again"
        elif self._accepted.total() >= MAX_ACCEPTED_FILES:
            msg = f"{MAX_ACCEPTED_FILES} files are being answered: come again"
        else:
            self._accepted[caller] += 1
            return
        raise ServiceBusyError(msg, _RETRY_AFTER)

    def release(self, caller: str) -> None:
        """Free a place."""
        self._accepted -= Counter({caller: 1})

    @asynccontextmanager
    async def job(self, caller: str) -> AsyncIterator[None]:
        """Wait until a file of the caller may be worked on: files of others go between."""
        own = self._jobs_of_caller.setdefault(caller, _CallerJobs())
        own.count += 1
        try:
            async with own.places, self._jobs:
                yield
        finally:
            own.count -= 1
            if not own.count:
                del self._jobs_of_caller[caller]


class _CallerJobs:
    """Files of a caller that are worked on, or wait for that: their number."""

    def __init__(self) -> None:
        self.places = asyncio.Semaphore(_MAX_JOBS_OF_CALLER)
        self.count = 0


class TransferDeadline:
    """The time that a client may take for a file: it grows with the bytes, up to ``seconds``.

    Only the time is counted in which the service waits for the client.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds: Final = seconds
        self._spent = 0.0
        self._bytes = 0

    async def wait(self, step: Awaitable[T]) -> T:
        """The result of a client's step; raises ``TimeoutError`` when the time is over."""
        clock = asyncio.get_running_loop().time
        allowed = min(self.seconds, GRACE_SECONDS + self._bytes / MIN_BYTES_PER_SECOND)
        start = clock()
        async with asyncio.timeout(allowed - self._spent):
            result = await step
        self._spent += clock() - start
        return result

    def moved(self, size: int) -> None:
        """Count bytes that were received or sent."""
        self._bytes += size
