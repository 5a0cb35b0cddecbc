"""Where a panel's arrays lie while they are built: in memory, or straight in their files."""

import mmap
import os
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from numpy.lib.format import open_memmap


class Shelf(Protocol):
    """Makes arrays by name and knows when their pages are not needed for now."""

    def array(self, name: str, shape: tuple[int, ...], kind: type[np.generic]) -> npt.NDArray[Any]:
        """A new array of zeros."""
        ...

    def rest(self) -> None:
        """Give back what memory the arrays can do without; their content stays."""
        ...


class InMemory:
    """Arrays as usual, for small chains and tests."""

    def array(self, name: str, shape: tuple[int, ...], kind: type[np.generic]) -> npt.NDArray[Any]:
        """See ``Shelf``."""
        return np.zeros(shape, kind)

    def rest(self) -> None:
        """See ``Shelf``."""


class InFiles:
    """Arrays mapped from ``<name>.npy`` in a folder: a large chain's need not fit in memory."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._maps: list[mmap.mmap] = []

    def array(self, name: str, shape: tuple[int, ...], kind: type[np.generic]) -> npt.NDArray[Any]:
        """See ``Shelf``; raises ``OSError`` where the disk has no room for it."""
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

    def rest(self) -> None:
        """See ``Shelf``: the pages go to the system's cache, which writes them out as it likes."""
        if hasattr(mmap, "MADV_DONTNEED"):
            for pages in self._maps:
                pages.madvise(mmap.MADV_DONTNEED)
