"""Where a panel's arrays lie while they are built: in memory, or straight in their files.

MERGED: Work on a panel in blocks of stores or days, and what it is done on.
"""

import mmap
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt
from numpy.lib.format import open_memmap


class ArrayStorage(Protocol):
    """Makes arrays by name and knows when their pages are not needed for now."""

    def array(self, name: str, shape: tuple[int, ...], kind: type[np.generic]) -> npt.NDArray[Any]:
        """A new array of zeros."""
        ...

    def release_pages(self) -> None:
        """Give back what memory the arrays can do without; their content stays."""
        ...


class MemoryStorage:
    """Arrays as usual, for small chains and tests."""

    def array(self, name: str, shape: tuple[int, ...], kind: type[np.generic]) -> npt.NDArray[Any]:
        """See ``ArrayStorage``."""
        return np.zeros(shape, kind)

    def release_pages(self) -> None:
        """See ``ArrayStorage``."""


class MemmapStorage:
    """Arrays mapped from ``<name>.npy`` in a folder: a large chain's need not fit in memory."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._maps: list[mmap.mmap] = []

    def array(self, name: str, shape: tuple[int, ...], kind: type[np.generic]) -> npt.NDArray[Any]:
        """See ``ArrayStorage``; raises ``OSError`` where the disk has no room for it."""
        path = self._folder / f"{name}.npy"
        mapped = open_memmap(path, mode="w+", dtype=kind, shape=shape)
        if hasattr(os, "posix_fallocate"):
            # a disk that fills up while pages are written would kill the process
            with path.open("r+b") as file:
                os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
        pages = mapped._mmap  # type: ignore[attr-defined]
        self._maps.append(pages)
        # a plain view, because the kernels' dispatch is slow on the memmap subclass
        return np.asarray(mapped).view(np.ndarray)

    def release_pages(self) -> None:
        """See ``ArrayStorage``: the pages go to the system's cache, which writes them out as it likes."""
        if hasattr(mmap, "MADV_DONTNEED"):
            for pages in self._maps:
                pages.madvise(mmap.MADV_DONTNEED)


_BLOCK: Final = 64
"""Most stores (or days) that one call of a kernel takes."""


class ParallelBlocks:
    """Runs a kernel over ranges of stores (or days) on a pool; the kernels release the GIL."""

    def __init__(
        self, pool: ThreadPoolExecutor, size: int, threads: int, rest: Callable[[], None]
    ) -> None:
        self.pool, self.size, self.threads, self.rest = pool, size, threads, rest

    def __call__(self, kernel: Callable[[int, int], None], size: int | None = None) -> None:
        """Call ``kernel`` for ranges that make up ``size``, by default all stores."""
        bounds = self._bounds(self.size if size is None else size)
        for done in [self.pool.submit(kernel, lo, hi) for lo, hi in bounds]:
            done.result()
            self.rest()

    def _bounds(self, size: int) -> Iterator[tuple[int, int]]:
        step = min(max(size // (4 * self.threads), 1), _BLOCK)
        for low in range(0, size, step):
            yield low, min(low + step, size)


@dataclass(frozen=True)
class SalesArrays:
    """What the past is computed from, and the blocks that it is computed in."""

    run: ParallelBlocks
    shelf: ArrayStorage
    log_sales: npt.NDArray[np.float32]
    log_customers: npt.NDArray[np.float32]
    cube: npt.NDArray[np.uint8]
    masks: npt.NDArray[np.uint32]
    terms: npt.NDArray[np.float64]
