"""Walks down decision trees: many rows through one tree at a time, or one row through many trees.

A node's children lie side by side, so a step is one addition, and a leaf is a node whose left
child is itself under a threshold that nothing passes: all rows of a block take as many steps as
the tree is deep, without a branch, and the compiler does eight or sixteen of them at once.
Sums run over the trees in their order, whatever the block: a row's answer does not depend on the
rows beside it.
"""

from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from rossmann.compiled import kernel
from rossmann.models.tree_rows import BLOCK, end_of_blocks, lanes_of, spread, spread_one
from rossmann.schema import FloatArray, Matrix

COLUMN_BITS: Final = 8
_FEW: Final = 13
"""Up to so many rows that fill no register go one by one."""


class Nodes(NamedTuple):
    """Trees of any shape. ``link``: left child * 256 + column; ``value``: what a leaf adds."""

    link: npt.NDArray[np.uint32]  # (nodes,)
    threshold: npt.NDArray[np.float32]  # (nodes,)
    value: FloatArray  # (nodes,)
    root: npt.NDArray[np.uint32]  # (trees,)
    depth: npt.NDArray[np.int32]  # (trees,)


class Packed(NamedTuple):
    """``Nodes`` with a node's link and threshold side by side, so that a step reads one place.

    ``word`` and ``number`` are one memory, of type uint32 and float32: a link at twice the node's
    place, then its threshold. Links and ``root`` hold places in it.
    """

    word: npt.NDArray[np.uint32]  # (2 * nodes,)
    number: npt.NDArray[np.float32]  # (2 * nodes,)
    value: FloatArray  # (nodes,)
    root: npt.NDArray[np.uint32]  # (trees,)
    depth: npt.NDArray[np.int32]  # (trees,)


def packed(nodes: Nodes) -> Packed:
    """The nodes as they are walked; raises ``ValueError`` for more than there is room for."""
    if len(nodes.link) >= 1 << (31 - COLUMN_BITS):
        raise ValueError(f"{len(nodes.link):,} nodes are more than a forest can hold")
    word = np.empty(2 * len(nodes.link), np.uint32)
    column = nodes.link & np.uint32((1 << COLUMN_BITS) - 1)
    word[0::2] = (nodes.link - column) * np.uint32(2) | column
    number = word.view(np.float32)
    number[1::2] = nodes.threshold
    return Packed(word, number, nodes.value, nodes.root * np.uint32(2), nodes.depth)


@kernel
def sum_nodes(
    nodes: Packed, matrix: Matrix, low: int, high: int, start: float, out: FloatArray
) -> None:
    """Fill ``out`` (n,) from ``low`` to ``high``: ``start`` and what the rows' leaves add."""
    end = end_of_blocks(low, high, _FEW)
    if end < high:
        _sum_one_by_one(nodes, matrix, end, high, start, out)
    if end == low:
        return
    x = np.empty(3 * matrix.shape[1] * BLOCK, np.float32)
    at = np.zeros(BLOCK, np.uint32)
    total = np.empty(BLOCK)
    for first in range(low, end, BLOCK):
        last = min(first + BLOCK, end)
        lanes = lanes_of(last - first)
        spread(matrix, first, last, x)
        total[:] = start
        for t in range(len(nodes.root)):
            root = nodes.root[t]
            for r in range(lanes):
                at[r] = root
            for _ in range(nodes.depth[t]):
                for r in range(lanes):
                    node = at[r]
                    link = nodes.word[node]
                    place = np.uint32(link & np.uint32(255)) * np.uint32(BLOCK) + np.uint32(r)
                    goes_right = np.uint32(x[place] > nodes.number[node + np.uint32(1)])
                    at[r] = (link >> np.uint32(COLUMN_BITS)) + (goes_right << np.uint32(1))
            for r in range(lanes):
                total[r] += nodes.value[at[r] >> np.uint32(1)]
        for r in range(last - first):
            out[first + r] = total[r]


@kernel
def _sum_one_by_one(
    nodes: Packed, matrix: Matrix, low: int, high: int, start: float, out: FloatArray
) -> None:
    """The same for a few rows: each goes down BLOCK trees together."""
    width, trees = matrix.shape[1], len(nodes.root)
    x = np.empty(3 * width, np.float32)
    at = np.empty(BLOCK, np.uint32)
    for i in range(low, high):
        spread_one(matrix[i], x)
        total = start
        for first in range(0, trees, BLOCK):
            count = min(BLOCK, trees - first)
            steps = 0
            for k in range(count):
                at[k] = nodes.root[first + k]
                steps = max(steps, nodes.depth[first + k])
            for _ in range(steps):
                for k in range(count):
                    node = at[k]
                    link = nodes.word[node]
                    above = x[link & np.uint32(255)] > nodes.number[node + np.uint32(1)]
                    at[k] = (link >> np.uint32(COLUMN_BITS)) + (np.uint32(above) << np.uint32(1))
            for k in range(count):
                total += nodes.value[at[k] >> np.uint32(1)]
        out[i] = total
