"""Walks down trees that ask the same question of all nodes of a level, as CatBoost's do.

A leaf's place is the answers. Sums run over the trees in their order, whatever the block: a row's
answer does not depend on the rows beside it.
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

_FEW: Final = 3
"""Up to so many rows that fill no register go one by one: a block is cheap here."""


class ObliviousTrees(NamedTuple):
    """Trees that ask the same question of all nodes of a level: a leaf's place is the answers."""

    column: npt.NDArray[np.int32]  # (questions,)
    threshold: npt.NDArray[np.float32]  # (questions,)
    first: npt.NDArray[np.int64]  # (trees + 1,): each tree's first question
    leaf: npt.NDArray[np.int64]  # (trees,): each tree's first leaf
    value: FloatArray  # (leaves,)


class SplitIndex(NamedTuple):
    """``Tables`` as they are walked: thresholds as keys, ``limit``.

    And for one row each different question once, column by column, and where each level's answer
    is. A level that a tree does not have asks the last one, whose answer is no.
    """

    limit: Keys  # (questions,)
    of_column: npt.NDArray[np.int64]  # (columns + 1,): each column's first different question
    threshold: Keys  # (different questions,)
    which: npt.NDArray[np.uint32]  # (most levels of a tree, trees)


def build_split_index(tables: ObliviousTrees) -> SplitIndex:
    """The questions of the trees, in the order in which one row answers them."""
    limit = sortable_keys(tables.threshold)
    asked = np.stack([tables.column, limit], axis=1)
    different, place = np.unique(asked, axis=0, return_inverse=True)
    depth = np.diff(tables.first)
    which = np.full((int(depth.max(initial=0)), len(depth)), len(different), np.uint32)
    tree = np.repeat(np.arange(len(depth)), depth)
    which[np.arange(len(asked)) - tables.first[tree], tree] = place.reshape(-1)
    columns = np.arange(3 * len(FEATURES) + 1)
    of_column = np.searchsorted(different[:, 0], columns).astype(np.int64)
    return SplitIndex(limit, of_column, np.ascontiguousarray(different[:, 1], np.int32), which)


@cached_njit
def predict_oblivious_trees(
    tables: ObliviousTrees,
    levels: SplitIndex,
    matrix: FeatureMatrix,
    low: int,
    high: int,
    start: float,
    out: FloatArray,
) -> None:
    """The same as ``sum_nodes`` for trees of the other kind."""
    end = block_end(low, high, _FEW)
    if end < high:
        _look_up_one_by_one(tables, levels, matrix, end, high, start, out)
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
        for t in range(len(tables.leaf)):
            for r in range(lanes):
                leaf[r] = 0
            bit = np.uint32(1)
            for q in range(tables.first[t], tables.first[t + 1]):
                seen = x[tables.column[q] * BLOCK_ROWS : tables.column[q] * BLOCK_ROWS + lanes]
                limit = levels.limit[q]
                for r in range(lanes):
                    leaf[r] |= bit if seen[r] > limit else np.uint32(0)
                bit <<= np.uint32(1)
            values = tables.value[tables.leaf[t] :]
            for r in range(lanes):
                total[r] += values[leaf[r]]
        for r in range(last - first):
            out[first + r] = total[r]


@cached_njit
def _look_up_one_by_one(
    tables: ObliviousTrees,
    levels: SplitIndex,
    matrix: FeatureMatrix,
    low: int,
    high: int,
    start: float,
    out: FloatArray,
) -> None:
    """The same for a few rows: level by level, all trees at once."""
    questions, trees = len(levels.threshold), len(tables.leaf)
    bits = matrix.view(np.int32)
    x = np.empty(3 * matrix.shape[1], np.int32)
    above = np.zeros(questions + 1, np.uint8)
    leaf = np.empty(trees, np.uint32)
    for i in range(low, high):
        encode_row(bits[i], x)
        for column in range(len(x)):
            seen = x[column]
            for q in range(levels.of_column[column], levels.of_column[column + 1]):
                above[q] = seen > levels.threshold[q]
        leaf[:] = 0
        for bit in range(len(levels.which)):
            asked = levels.which[bit]
            for t in range(trees):
                leaf[t] |= np.uint32(above[asked[t]]) << np.uint32(bit)
        total = start
        for t in range(trees):
            total += tables.value[tables.leaf[t] + leaf[t]]
        out[i] = total
