"""What is left to do once an answer is sent, so that whoever asked does not wait for it.

Nor does anybody whose answer is ready at the same turn of the event loop: all of them are sent
first. What comes in later is begun after it, so whoever was answered finds it done.
"""

import asyncio
from collections.abc import Callable
from typing import TypeVarTuple

from starlette.background import BackgroundTask

Given = TypeVarTuple("Given")


def behind(work: Callable[[*Given], object], *given: *Given) -> None:
    """Do ``work``, which must be short and wait for nothing, in the event loop's next turn."""
    asyncio.get_running_loop().call_soon(work, *given)


class Behind(BackgroundTask):
    """The same as a response's ``background``, when all of it is sent.

    Plain: the framework would take a thread for it.
    """

    def __init__(self, work: Callable[[*Given], object], *given: *Given) -> None:
        self._work, self._given = work, given

    async def __call__(self) -> None:
        """Leave it for the next turn."""
        behind(self._work, *self._given)
