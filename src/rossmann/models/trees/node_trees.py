"""Walks down decision trees: many rows through one tree at a time, or one row through many trees.

A node's children lie side by side, so a step is one addition, and a leaf is a node whose left
child is itself under a threshold that nothing passes: all rows of a block take as many steps as
the tree is deep, without a branch, and the compiler does four or eight of them at once.
Sums run over the trees in their order, whatever the block: a row's answer does not depend on the
rows beside it.
"""

from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from rossmann.models.trees.row_encoding import (
    BLOCK_ROWS,
    Keys,
    block_end,
    encode_block,
    encode_row,
    padded_row_count,
    sortable_keys,
)
from rossmann.numba_kernel import cached_njit
from rossmann.schema import FeatureMatrix, FloatArray

COLUMN_BITS: Final = 8
LINK_BITS: Final = 32
_COLUMN: Final = np.uint64((1 << COLUMN_BITS) - 1)
_LINK: Final = np.uint64((1 << LINK_BITS) - 1)
_FEW: Final = 13
"""Up to so many rows that fill no register go one by one."""
DEEP_TREE_DEPTH: Final = 10
_TOGETHER: Final = 6
"""Of a tree of ``DEEP`` levels and more all rows of a block go down the first six together, and
then those that are at no leaf yet: LightGBM's trees have a few long branches. Measured: a fifth
of their time; with 4 to 8 in place of 6, much the same."""
_LOOK: Final = 2
"""So many steps of these, and it is looked again who has arrived."""


class NodeTrees(NamedTuple):
    """Trees of any shape. ``link``: left child * 256 + column; ``value``: what a leaf adds."""

    link: npt.NDArray[np.uint32]  # (nodes,)
    threshold: npt.NDArray[np.float32]  # (nodes,)
    value: FloatArray  # (nodes,)
    root: npt.NDArray[np.uint32]  # (trees,)
    depth: npt.NDArray[np.int32]  # (trees,)


class PackedNodes(NamedTuple):
    """``Nodes`` with a node in one word, so that a step fetches one: its threshold's key above its
    link. ``by_depth``: the trees, flat ones first; ``turn``: each one's place among those.
    """

    word: npt.NDArray[np.uint64]  # (nodes,)
    value: FloatArray  # (nodes,)
    root: npt.NDArray[np.uint32]  # (trees,)
    depth: npt.NDArray[np.int32]  # (trees,)
    by_depth: npt.NDArray[np.int64]  # (trees,)
    turn: npt.NDArray[np.int64]  # (trees,)


def pack_nodes(nodes: NodeTrees) -> PackedNodes:
    """The nodes as they are walked."""
    word = sortable_keys(nodes.threshold).astype(np.int64) << LINK_BITS | nodes.link.astype(
        np.int64
    )
    by_depth = np.argsort(nodes.depth, kind="stable")
    told = (nodes.value, nodes.root, nodes.depth, by_depth, np.argsort(by_depth))
    return PackedNodes(word.view(np.uint64), *told)


@cached_njit
def _below(node: np.uint64, seen: np.int32) -> np.uint64:
    """The child that a row goes to which has ``seen`` in the node's column; a leaf is its own."""
    goes_right = np.uint64(seen > np.int64(node) >> LINK_BITS)
    return ((node & _LINK) >> np.uint64(COLUMN_BITS)) + goes_right


@cached_njit
def predict_node_trees(
    nodes: PackedNodes, matrix: FeatureMatrix, low: int, high: int, start: float, out: FloatArray
) -> None:
    """Fill ``out`` (n,) from ``low`` to ``high``: ``start`` and what the rows' leaves add."""
    end = block_end(low, high, _FEW)
    if end < high:
        _sum_one_by_one(nodes, matrix, end, high, start, out)
    if end == low:
        return
    word, value, root, depth = nodes.word, nodes.value, nodes.root, nodes.depth
    bits = matrix.view(np.int32)
    x = np.empty(3 * matrix.shape[1] * BLOCK_ROWS, np.int32)
    at = np.zeros(BLOCK_ROWS, np.uint64)
    total = np.empty(BLOCK_ROWS)
    on_way = np.empty(BLOCK_ROWS, np.uint64)
    for first in range(low, end, BLOCK_ROWS):
        last = min(first + BLOCK_ROWS, end)
        lanes = padded_row_count(last - first)
        encode_block(bits, first, last, x)
        total[:] = start
        for t in range(len(root)):
            for r in range(lanes):
                at[r] = root[t]
            together = depth[t] if depth[t] < DEEP_TREE_DEPTH else _TOGETHER
            for _ in range(together):
                for r in range(lanes):
                    node = word[at[r]]
                    at[r] = _below(node, x[(node & _COLUMN) * np.uint64(BLOCK_ROWS) + np.uint64(r)])
            if together < depth[t]:
                _finish(word, x, lanes, depth[t] - together, at, on_way)
            for r in range(lanes):
                total[r] += value[at[r]]
        for r in range(last - first):
            out[first + r] = total[r]


@cached_njit
def _finish(
    word: npt.NDArray[np.uint64],
    x: Keys,
    lanes: int,
    levels: int,
    at: npt.NDArray[np.uint64],
    on_way: npt.NDArray[np.uint64],
) -> None:
    """Take the rows of a block that are at no leaf yet down the last ``levels`` of a tree.

    ``at`` (BLOCK,) is where each is; ``on_way`` (BLOCK,) is room for the places of those.
    """
    count = np.uint64(lanes)
    for r in range(lanes):
        on_way[r] = r
    for level in range(levels):
        if level % _LOOK == 0:
            left = np.uint64(0)
            for k in range(count):
                r = on_way[k]
                on_way[left] = r
                left += np.uint64((word[at[r]] & _LINK) >> np.uint64(COLUMN_BITS) != at[r])
            count = left
        for k in range(count):
            r = on_way[k]
            node = word[at[r]]
            at[r] = _below(node, x[(node & _COLUMN) * np.uint64(BLOCK_ROWS) + r])


@cached_njit
def _sum_one_by_one(
    nodes: PackedNodes, matrix: FeatureMatrix, low: int, high: int, start: float, out: FloatArray
) -> None:
    """The same for a few rows: each goes down BLOCK trees together, of much the same depth."""
    word, value, root, depth, by_depth, turn = nodes
    bits, trees = matrix.view(np.int32), len(root)
    x = np.empty(3 * matrix.shape[1], np.int32)
    at = np.empty(trees, np.uint64)
    for i in range(low, high):
        encode_row(bits[i], x)
        for t in range(trees):
            at[t] = root[by_depth[t]]
        for first in range(0, trees, BLOCK_ROWS):
            last = min(first + BLOCK_ROWS, trees)
            some = at[first:last]
            for _ in range(depth[by_depth[last - 1]]):
                for k in range(len(some)):
                    node = word[some[k]]
                    some[k] = _below(node, x[node & _COLUMN])
        total = start
        for t in range(trees):
            total += value[at[turn[t]]]
        out[i] = total
