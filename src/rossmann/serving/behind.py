"""What is left to do once an answer is sent, so that whoever asked does not wait for it."""

from collections.abc import Callable
from typing import TypeVarTuple

from starlette.background import BackgroundTask

Given = TypeVarTuple("Given")


class Behind(BackgroundTask):
    """A response's ``background``: ``work`` on ``given``, on the event loop, when all is written.

    Plain: the framework would take a thread for it. ``work`` must be short and wait for nothing.
    """

    def __init__(self, work: Callable[[*Given], object], *given: *Given) -> None:
        self._work, self._given = work, given

    async def __call__(self) -> None:
        """Do it."""
        self._work(*self._given)
