"""Memory that this process gives back to the system: what was freed, and pages of mapped files."""

import ctypes
import mmap
from collections.abc import Callable, Iterable
from typing import Final

_trim: Final[Callable[[int], int] | None] = getattr(ctypes.CDLL(None), "malloc_trim", None)


def release_freed_memory() -> None:
    """Give back what is free; takes some milliseconds, in which other threads run.

    The C library keeps what threads have freed for their next use: hundreds of megabytes after some
    large files at once, or after the fit of a member. Does nothing where the C library has no
    function for it: only glibc has.
    """
    if _trim is not None:
        _trim(0)


def release_mapped_pages(maps: Iterable[mmap.mmap]) -> None:
    """Take the pages of mapped files out of this process's memory until they are used again.

    They stay in the system's cache, which writes changed ones to disk.
    """
    if hasattr(mmap, "MADV_DONTNEED"):
        for pages in maps:
            pages.madvise(mmap.MADV_DONTNEED)
