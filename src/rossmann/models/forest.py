"""A member's trees as plain arrays, walked by our own kernels: what training, backtest, API and
batch all take their numbers from.

The libraries' own calls cost some 640 microseconds for one row and 49 for each of many; these
kernels take less than a twentieth and a fifth of that, and answer a row the same whatever the
number of rows (``benchmarks/members.py``). The libraries are needed to fit and to split a forecast
into drivers.
"""

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import pairwise
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from rossmann.models.tree_kernels import Nodes, packed, sum_nodes
from rossmann.models.tree_tables import Tables, levels, sum_tables
from rossmann.schema import FEATURES, FloatArray, Matrix

_ALONE: Final = 512
"""From twice so many rows on, threads are worth their start."""
Stored = dict[str, npt.NDArray[Any]]


class Forest:
    """Trees whose leaves, added to ``start``, are a booster's raw output."""

    def __init__(self, trees: Nodes | Tables, start: float) -> None:
        self.trees = trees
        self.start = start
        self._fill: Callable[[Matrix, int, int, float, FloatArray], None] = (
            partial(sum_nodes, packed(trees))
            if isinstance(trees, Nodes)
            else partial(sum_tables, trees, levels(trees))
        )

    def __call__(self, matrix: Matrix, threads: int = 1) -> FloatArray:
        """The raw output (n,) for (n, 46) of float32."""
        rows = np.ascontiguousarray(matrix, np.float32)
        if rows.ndim != 2 or rows.shape[1] != len(FEATURES):
            raise ValueError(f"the matrix is {rows.shape}, not (n, {len(FEATURES)})")
        out = np.empty(len(rows))
        parts = max(min(threads, len(rows) // _ALONE), 1)
        if parts == 1:
            self._fill(rows, 0, len(rows), self.start, out)
            return out
        ends = np.linspace(0, len(rows), parts + 1).astype(int).tolist()
        with ThreadPoolExecutor(parts) as pool:
            for done in [
                pool.submit(self._fill, rows, low, high, self.start, out)
                for low, high in pairwise(ends)
            ]:
                done.result()
        return out

    def stored(self) -> Stored:
        """Its arrays by name, to be written."""
        return {"start": np.array(self.start), **self.trees._asdict()}

    @classmethod
    def restored(cls, arrays: Mapping[str, npt.NDArray[Any]]) -> "Forest":
        """The forest that ``stored`` gave ``arrays`` of; raises ``KeyError`` where one lacks."""
        kind = Nodes if "root" in arrays else Tables
        trees = kind(*(np.ascontiguousarray(arrays[name]) for name in kind._fields))
        return cls(trees, float(arrays["start"]))
