"""Kernels for trees of any shape: a block of rows through one tree, or one row through many trees.

A node's children are adjacent, so a step is one addition. A leaf is its own left child under an
infinite threshold: all rows of a block take as many steps as the tree is deep, without a branch,
and the compiler vectorizes four or eight of them. Sums run over the trees in their order, so a
row's result does not depend on the other rows of its block.
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
_MAX_SINGLE_ROWS: Final = 13
"""Up to this many rows that do not fill a register are evaluated one by one."""
DEEP_TREE_DEPTH: Final = 10
_BLOCK_LEVELS: Final = 6
"""In a tree of ``DEEP_TREE_DEPTH`` levels or more, all rows of a block descend the first six, and
then only those that have not reached a leaf: LightGBM's trees have a few long branches. Measured:
this saves a fifth of their time; 4 to 8 levels in place of 6 make no difference."""
_LEVELS_PER_SCAN: Final = 2
"""After this many of the levels that follow, rows that reached a leaf are dropped."""


class NodeTrees(NamedTuple):
    """Trees of any shape. ``link``: left child * 256 + column; ``value``: what a leaf adds."""

    link: npt.NDArray[np.uint32]  # (nodes,)
    threshold: npt.NDArray[np.float32]  # (nodes,)
    value: FloatArray  # (nodes,)
    root: npt.NDArray[np.uint32]  # (trees,)
    depth: npt.NDArray[np.int32]  # (trees,)


class PackedNodes(NamedTuple):
    """``NodeTrees`` with one word a node, so that a step fetches one: threshold key, then link.

    ``by_depth``: the trees, shallow ones first; ``rank``: each one's index in that order.
    """

    word: npt.NDArray[np.uint64]  # (nodes,)
    value: FloatArray  # (nodes,)
    root: npt.NDArray[np.uint32]  # (trees,)
    depth: npt.NDArray[np.int32]  # (trees,)
    by_depth: npt.NDArray[np.int64]  # (trees,)
    rank: npt.NDArray[np.int64]  # (trees,)


def pack_nodes(nodes: NodeTrees) -> PackedNodes:
    """The layout that the kernels evaluate."""
    word = sortable_keys(nodes.threshold).astype(np.int64) << LINK_BITS | nodes.link.astype(
        np.int64
    )
    by_depth = np.argsort(nodes.depth, kind="stable")
    return PackedNodes(
        word.view(np.uint64), nodes.value, nodes.root, nodes.depth, by_depth, np.argsort(by_depth)
    )


@cached_njit
def _child(node: np.uint64, key: np.int32) -> np.uint64:
    """The child for a row with ``key`` in the node's column; a leaf's child is itself."""
    goes_right = np.uint64(key > np.int64(node) >> LINK_BITS)
    return ((node & _LINK) >> np.uint64(COLUMN_BITS)) + goes_right


@cached_njit
def predict_node_trees(
    nodes: PackedNodes, matrix: FeatureMatrix, low: int, high: int, start: float, out: FloatArray
) -> None:
    """Fill ``out`` (n,) from ``low`` to ``high``: ``start`` plus the values of the rows' leaves."""
    end = block_end(low, high, _MAX_SINGLE_ROWS)
    if end < high:
        _predict_single_rows(nodes, matrix, end, high, start, out)
    if end == low:
        return
    word, value, root, depth = nodes.word, nodes.value, nodes.root, nodes.depth
    bits = matrix.view(np.int32)
    x = np.empty(3 * matrix.shape[1] * BLOCK_ROWS, np.int32)
    at = np.zeros(BLOCK_ROWS, np.uint64)
    total = np.empty(BLOCK_ROWS)
    active = np.empty(BLOCK_ROWS, np.uint64)
    for first in range(low, end, BLOCK_ROWS):
        last = min(first + BLOCK_ROWS, end)
        lanes = padded_row_count(last - first)
        encode_block(bits, first, last, x)
        total[:] = start
        for t in range(len(root)):
            for r in range(lanes):
                at[r] = root[t]
            levels = depth[t] if depth[t] < DEEP_TREE_DEPTH else _BLOCK_LEVELS
            for _ in range(levels):
                for r in range(lanes):
                    node = word[at[r]]
                    at[r] = _child(node, x[(node & _COLUMN) * np.uint64(BLOCK_ROWS) + np.uint64(r)])
            if levels < depth[t]:
                _finish_deep_tree(word, x, lanes, depth[t] - levels, at, active)
            for r in range(lanes):
                total[r] += value[at[r]]
        for r in range(last - first):
            out[first + r] = total[r]


@cached_njit
def _finish_deep_tree(
    word: npt.NDArray[np.uint64],
    x: Keys,
    lanes: int,
    levels: int,
    at: npt.NDArray[np.uint64],
    active: npt.NDArray[np.uint64],
) -> None:
    """Descend the last ``levels`` of a tree with the rows of a block that are at no leaf yet.

    ``at`` (BLOCK_ROWS,) is each row's node; ``active`` (BLOCK_ROWS,) a work array of row indices.
    """
    count = np.uint64(lanes)
    for r in range(lanes):
        active[r] = r
    for level in range(levels):
        if level % _LEVELS_PER_SCAN == 0:
            left = np.uint64(0)
            for k in range(count):
                r = active[k]
                active[left] = r
                left += np.uint64((word[at[r]] & _LINK) >> np.uint64(COLUMN_BITS) != at[r])
            count = left
        for k in range(count):
            r = active[k]
            node = word[at[r]]
            at[r] = _child(node, x[(node & _COLUMN) * np.uint64(BLOCK_ROWS) + r])


@cached_njit
def _predict_single_rows(
    nodes: PackedNodes, matrix: FeatureMatrix, low: int, high: int, start: float, out: FloatArray
) -> None:
    """The same row by row: each descends ``BLOCK_ROWS`` trees of similar depth at once."""
    word, value, root, depth, by_depth, rank = nodes
    bits, trees = matrix.view(np.int32), len(root)
    x = np.empty(3 * matrix.shape[1], np.int32)
    at = np.empty(trees, np.uint64)
    for i in range(low, high):
        encode_row(bits[i], x)
        for t in range(trees):
            at[t] = root[by_depth[t]]
        for first in range(0, trees, BLOCK_ROWS):
            last = min(first + BLOCK_ROWS, trees)
            block = at[first:last]
            for _ in range(depth[by_depth[last - 1]]):
                for k in range(len(block)):
                    node = word[block[k]]
                    block[k] = _child(node, x[node & _COLUMN])
        total = start
        for t in range(trees):
            total += value[at[rank[t]]]
        out[i] = total
