"""Storage of a panel's arrays while they are built, and block-wise parallel work on them."""

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

from rossmann.process_memory import release_mapped_pages

_MAX_BLOCK: Final = 64
"""Stores (or days) that one kernel call takes at most."""


class ArrayStorage(Protocol):
    """Allocates named arrays, and can release their memory for a time."""

    def array(self, name: str, shape: tuple[int, ...], dtype: type[np.generic]) -> npt.NDArray[Any]:
        """A new array of zeros."""
        ...

    def release_pages(self) -> None:
        """Free the memory of the arrays where their content can be read back later."""
        ...


class MemmapStorage:
    """Arrays mapped from ``<name>.npy`` in a folder: a large chain's need not fit in memory.

    They are plain views, because the kernels' dispatch is slow on numpy's memmap subclass.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._maps: list[mmap.mmap] = []

    def array(self, name: str, shape: tuple[int, ...], dtype: type[np.generic]) -> npt.NDArray[Any]:
        """See ``ArrayStorage``; raises ``OSError`` where the disk is full."""
        path = self._folder / f"{name}.npy"
        mapped = open_memmap(path, mode="w+", dtype=dtype, shape=shape)
        if hasattr(os, "posix_fallocate"):
            # a disk that fills up while pages are written would kill the process
            with path.open("r+b") as file:
                os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
        return self._mapped(mapped)

    def existing(self, name: str) -> npt.NDArray[Any]:
        """An array that was written before, read-only; raises ``OSError`` where it is not there."""
        return self._mapped(np.load(self._folder / f"{name}.npy", mmap_mode="r"))

    def release_pages(self) -> None:
        """See ``ArrayStorage``: their pages are read back from the files."""
        release_mapped_pages(self._maps)

    def _mapped(self, array: np.memmap[Any, Any]) -> npt.NDArray[Any]:
        self._maps.append(array._mmap)  # type: ignore[attr-defined]
        return np.asarray(array).view(np.ndarray)


class ParallelBlocks:
    """Runs a kernel over ranges of stores (or days) on a pool; the kernels release the GIL.

    ``size``: the number of stores. ``after_block`` runs after each range.
    """

    def __init__(
        self, pool: ThreadPoolExecutor, size: int, threads: int, after_block: Callable[[], None]
    ) -> None:
        self._pool, self._size, self._threads = pool, size, threads
        self._after_block = after_block

    def __call__(self, kernel: Callable[[int, int], None], size: int | None = None) -> None:
        """Call ``kernel(low, high)`` for ranges that make up ``size``, by default all stores."""
        bounds = self._bounds(self._size if size is None else size)
        for future in [self._pool.submit(kernel, low, high) for low, high in bounds]:
            future.result()
            self._after_block()

    def _bounds(self, size: int) -> Iterator[tuple[int, int]]:
        step = min(max(size // (4 * self._threads), 1), _MAX_BLOCK)
        for low in range(0, size, step):
            yield low, min(low + step, size)


@dataclass(frozen=True)
class SalesArrays:
    """The inputs of statistics, filters and chain errors; where and how to compute them."""

    run_blocks: ParallelBlocks
    storage: ArrayStorage
    log_sales: npt.NDArray[np.float32]  # (stores, days), NaN on days without sales
    log_customers: npt.NDArray[np.float32]  # (stores, days), NaN on days without sales
    sales_days: npt.NDArray[np.int16]  # (stores, days), days with sales up to each
    store_kinds: npt.NDArray[np.int64]  # (stores,)
    cube: npt.NDArray[np.uint8]  # (schedule days, stores, N_PLAN)
    masks: npt.NDArray[np.uint32]  # (stores, schedule days)
    terms: npt.NDArray[np.float64]  # (schedule days, 8)
