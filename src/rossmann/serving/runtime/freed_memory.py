"""Freed memory, given back to the system after large requests.

The C library keeps what threads have freed for their next use: after some large files at once that
were hundreds of megabytes, for as long as the service ran.
"""

import ctypes
from collections.abc import Callable
from typing import Final

MIN_BYTES: Final = 1 << 20
"""Smaller requests leave little behind."""
_trim: Final[Callable[[int], int] | None] = getattr(ctypes.CDLL(None), "malloc_trim", None)


def release_freed_memory() -> None:
    """Give back what is free; takes some milliseconds, in which other threads run.

    Does nothing where the C library has no function for it: only glibc has.
    """
    if _trim is not None:
        _trim(0)
