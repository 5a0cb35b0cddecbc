"""Work on a panel in blocks of stores or days, and what it is done on."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from rossmann.data.panel_shelf import Shelf

_BLOCK: Final = 64
"""Most stores (or days) that one call of a kernel takes."""


class Blocks:
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
class Past:
    """What the past is computed from, and the blocks that it is computed in."""

    run: Blocks
    shelf: Shelf
    log_sales: npt.NDArray[np.float32]
    log_customers: npt.NDArray[np.float32]
    cube: npt.NDArray[np.uint8]
    masks: npt.NDArray[np.uint32]
    terms: npt.NDArray[np.float64]
