"""Kernels for oblivious trees, as CatBoost's: all nodes of a level share one split.

The results of a tree's splits are the bits of a leaf's index. Sums run over the trees in their
order, so a row's result does not depend on the other rows of its block.
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
from rossmann.schema import FEATURES, FeatureMatrix, FloatArray

_MAX_SINGLE_ROWS: Final = 3
"""Up to this many rows that do not fill a register are evaluated one by one: blocks are cheap."""


class ObliviousTrees(NamedTuple):
    """Trees with one split a level; the bits of a leaf's index are the results of the splits."""

    column: npt.NDArray[np.int32]  # (splits,)
    threshold: npt.NDArray[np.float32]  # (splits,)
    first: npt.NDArray[np.int64]  # (trees + 1,): each tree's first split
    leaf: npt.NDArray[np.int64]  # (trees,): each tree's first leaf
    value: FloatArray  # (leaves,)


class SplitIndex(NamedTuple):
    """The splits as the kernels evaluate them: thresholds as keys (``limit``), for blocks of rows.

    For single rows: each distinct split once, by column, and the index of each level's split among
    them. A level that a tree does not have refers to one more, which is never passed.
    """

    limit: Keys  # (splits,)
    first_of_column: npt.NDArray[np.int64]  # (columns + 1,): each column's first distinct split
    threshold: Keys  # (distinct splits,)
    split: npt.NDArray[np.uint32]  # (levels of the deepest tree, trees)


def build_split_index(trees: ObliviousTrees) -> SplitIndex:
    """The index of the trees' splits."""
    limit = sortable_keys(trees.threshold)
    splits = np.stack([trees.column, limit], axis=1)
    distinct, inverse = np.unique(splits, axis=0, return_inverse=True)
    depth = np.diff(trees.first)
    split = np.full((int(depth.max(initial=0)), len(depth)), len(distinct), np.uint32)
    tree = np.repeat(np.arange(len(depth)), depth)
    split[np.arange(len(splits)) - trees.first[tree], tree] = inverse.reshape(-1)
    columns = np.arange(3 * len(FEATURES) + 1)
    first_of_column = np.searchsorted(distinct[:, 0], columns).astype(np.int64)
    threshold = np.ascontiguousarray(distinct[:, 1], np.int32)
    return SplitIndex(limit, first_of_column, threshold, split)


@cached_njit
def predict_oblivious_trees(
    trees: ObliviousTrees,
    index: SplitIndex,
    matrix: FeatureMatrix,
    low: int,
    high: int,
    start: float,
    out: FloatArray,
) -> None:
    """Fill ``out`` (n,) from ``low`` to ``high``, as ``node_trees.predict_node_trees``."""
    end = block_end(low, high, _MAX_SINGLE_ROWS)
    if end < high:
        _predict_single_rows(trees, index, matrix, end, high, start, out)
    if end == low:
        return
    bits = matrix.view(np.int32)
    x = np.empty(3 * matrix.shape[1] * BLOCK_ROWS, np.int32)
    leaf = np.empty(BLOCK_ROWS, np.uint32)
    total = np.empty(BLOCK_ROWS)
    for first in range(low, end, BLOCK_ROWS):
        last = min(first + BLOCK_ROWS, end)
        lanes = padded_row_count(last - first)
        encode_block(bits, first, last, x)
        total[:] = start
        for t in range(len(trees.leaf)):
            for r in range(lanes):
                leaf[r] = 0
            bit = np.uint32(1)
            for q in range(trees.first[t], trees.first[t + 1]):
                keys = x[trees.column[q] * BLOCK_ROWS : trees.column[q] * BLOCK_ROWS + lanes]
                limit = index.limit[q]
                for r in range(lanes):
                    leaf[r] |= bit if keys[r] > limit else np.uint32(0)
                bit <<= np.uint32(1)
            values = trees.value[trees.leaf[t] :]
            for r in range(lanes):
                total[r] += values[leaf[r]]
        for r in range(last - first):
            out[first + r] = total[r]


@cached_njit
def _predict_single_rows(
    trees: ObliviousTrees,
    index: SplitIndex,
    matrix: FeatureMatrix,
    low: int,
    high: int,
    start: float,
    out: FloatArray,
) -> None:
    """The same row by row: level by level, all trees at once."""
    n_splits, n_trees = len(index.threshold), len(trees.leaf)
    bits = matrix.view(np.int32)
    x = np.empty(3 * matrix.shape[1], np.int32)
    above = np.zeros(n_splits + 1, np.uint8)
    leaf = np.empty(n_trees, np.uint32)
    for i in range(low, high):
        encode_row(bits[i], x)
        for column in range(len(x)):
            key = x[column]
            for q in range(index.first_of_column[column], index.first_of_column[column + 1]):
                above[q] = key > index.threshold[q]
        leaf[:] = 0
        for bit in range(len(index.split)):
            splits = index.split[bit]
            for t in range(n_trees):
                leaf[t] |= np.uint32(above[splits[t]]) << np.uint32(bit)
        total = start
        for t in range(n_trees):
            total += trees.value[trees.leaf[t] + leaf[t]]
        out[i] = total
