"""What is left to do once an answer is on its way, so that whoever asked does not wait for it."""

import asyncio
from collections.abc import Callable
from typing import TypeVarTuple

Given = TypeVarTuple("Given")


def afterwards(work: Callable[[*Given], object], *given: *Given) -> None:
    """Do ``work`` in the next turn of the event loop; at once in a thread that has none.

    Loops send what was written at the end of a turn. What comes in later is begun after ``work``,
    so a caller who was answered finds it done.
    """
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        work(*given)
    else:
        loop.call_soon(work, *given)
