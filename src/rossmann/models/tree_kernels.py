"""Walks down decision trees: many rows through one tree at a time, or one row through many trees.

A row is spread over three columns for each feature, in which a missing value is minus infinity,
plus infinity and zero: whichever way a tree sends missing values, its test is ``x > threshold``.
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
from rossmann.schema import FloatArray, Matrix

BLOCK: Final = 64
"""Rows (or trees) that go down together; more do not stay in the processor's nearest memory."""
REGISTER: Final = 16
"""Rows that the processor works on at once."""
LEFT, RIGHT, ZERO = range(3)
"""Where a missing value goes: the set of columns that a node looks at."""
COLUMN_BITS: Final = 8
_FEW: Final = 13
"""Up to so many rows that fill no register go one by one."""
_VERY_FEW: Final = 3
"""The same for tables, where a block is cheap."""


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


class Tables(NamedTuple):
    """Trees that ask the same question of all nodes of a level: a leaf's place is the answers."""

    column: npt.NDArray[np.int32]  # (questions,)
    threshold: npt.NDArray[np.float32]  # (questions,)
    first: npt.NDArray[np.int64]  # (trees + 1,): each tree's first question
    leaf: npt.NDArray[np.int64]  # (trees,): each tree's first leaf
    value: FloatArray  # (leaves,)


@kernel
def _spread(matrix: Matrix, low: int, high: int, x: npt.NDArray[np.float32]) -> None:
    """Columns of rows ``low`` to ``high`` into ``x``, BLOCK places for each column."""
    width = matrix.shape[1]
    for i in range(low, high):
        for j in range(width):
            v = matrix[i, j]
            missing = np.isnan(v)
            at = j * BLOCK + i - low
            x[at] = np.float32(-np.inf) if missing else v
            x[at + width * BLOCK] = np.float32(np.inf) if missing else v
            x[at + 2 * width * BLOCK] = np.float32(0.0) if missing else v


@kernel
def _spread_one(row: npt.NDArray[np.float32], x: npt.NDArray[np.float32]) -> None:
    """The same for one row, a place for each column."""
    width = len(row)
    for j in range(width):
        v = row[j]
        missing = np.isnan(v)
        x[j] = np.float32(-np.inf) if missing else v
        x[j + width] = np.float32(np.inf) if missing else v
        x[j + 2 * width] = np.float32(0.0) if missing else v


@kernel
def _lanes(rows: int) -> int:
    """Places of a block that are worked on: whole registers, the last ones for nobody."""
    return (rows + REGISTER - 1) // REGISTER * REGISTER


@kernel
def _end_of_blocks(low: int, high: int, few: int) -> int:
    """Where rows one by one begin: all, or those that are left over, where they are few."""
    left = (high - low) % REGISTER
    return high - left if left <= few else high


@kernel
def sum_nodes(
    nodes: Packed, matrix: Matrix, low: int, high: int, start: float, out: FloatArray
) -> None:
    """Fill ``out`` (n,) from ``low`` to ``high``: ``start`` and what the rows' leaves add."""
    end = _end_of_blocks(low, high, _FEW)
    if end < high:
        _sum_one_by_one(nodes, matrix, end, high, start, out)
    if end == low:
        return
    x = np.empty(3 * matrix.shape[1] * BLOCK, np.float32)
    at = np.zeros(BLOCK, np.uint32)
    total = np.empty(BLOCK)
    for first in range(low, end, BLOCK):
        last = min(first + BLOCK, end)
        lanes = _lanes(last - first)
        _spread(matrix, first, last, x)
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
        _spread_one(matrix[i], x)
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


@kernel
def sum_tables(
    tables: Tables, matrix: Matrix, low: int, high: int, start: float, out: FloatArray
) -> None:
    """The same as ``sum_nodes`` for trees of the other kind."""
    end = _end_of_blocks(low, high, _VERY_FEW)
    if end < high:
        _look_up_one_by_one(tables, matrix, end, high, start, out)
    if end == low:
        return
    x = np.empty(3 * matrix.shape[1] * BLOCK, np.float32)
    leaf = np.empty(BLOCK, np.uint32)
    total = np.empty(BLOCK)
    for first in range(low, end, BLOCK):
        last = min(first + BLOCK, end)
        lanes = _lanes(last - first)
        _spread(matrix, first, last, x)
        total[:] = start
        for t in range(len(tables.leaf)):
            for r in range(lanes):
                leaf[r] = 0
            bit = np.uint32(1)
            for q in range(tables.first[t], tables.first[t + 1]):
                seen = x[tables.column[q] * BLOCK : tables.column[q] * BLOCK + lanes]
                threshold = tables.threshold[q]
                for r in range(lanes):
                    leaf[r] |= bit if seen[r] > threshold else np.uint32(0)
                bit <<= np.uint32(1)
            values = tables.value[tables.leaf[t] :]
            for r in range(lanes):
                total[r] += values[leaf[r]]
        for r in range(last - first):
            out[first + r] = total[r]


@kernel
def _look_up_one_by_one(
    tables: Tables, matrix: Matrix, low: int, high: int, start: float, out: FloatArray
) -> None:
    """The same for a few rows."""
    questions, trees = len(tables.column), len(tables.leaf)
    x = np.empty(3 * matrix.shape[1], np.float32)
    above = np.empty(questions, np.uint8)
    for i in range(low, high):
        _spread_one(matrix[i], x)
        # all questions first: none waits for another
        for q in range(questions):
            above[q] = x[tables.column[q]] > tables.threshold[q]
        total = start
        for t in range(trees):
            first = tables.first[t]
            leaf = np.uint32(0)
            for q in range(first, tables.first[t + 1]):
                leaf |= np.uint32(above[q]) << np.uint32(q - first)
            total += tables.value[tables.leaf[t] + leaf]
        out[i] = total


@kernel
def add_share(total: FloatArray, weight: float, part: FloatArray) -> None:
    """Add ``weight`` times ``part`` (n,) to ``total``, in place."""
    for i in range(len(total)):
        total[i] += weight * part[i]


@kernel
def blend(
    matrix: Matrix, offset: int, trust: FloatArray, change: FloatArray, out: FloatArray
) -> None:
    """Fill ``out`` (n,): exp of the column ``offset`` and as much of ``change`` as is trusted."""
    for i in range(len(out)):
        out[i] = np.exp(np.float64(matrix[i, offset]) + trust[i] * change[i])


@kernel
def rise(matrix: Matrix, column: int, low: int, high: int, out: FloatArray) -> None:
    """Fill ``out`` (n,): 0 where the column is at most ``low`` or missing, 1 from ``high`` on."""
    for i in range(len(out)):
        share = (np.float64(matrix[i, column]) - low) / (high - low)
        # a number that is missing is below all others
        out[i] = min(share, 1.0) if share > 0.0 else 0.0
