"""A row as trees look at it, and how many rows go down trees together.

A row is spread over three columns for each feature, in which a missing value is minus infinity,
plus infinity and zero: whichever way a tree sends missing values, its test is ``x > threshold``.
"""

from typing import Final

import numpy as np
import numpy.typing as npt

from rossmann.compiled import kernel
from rossmann.schema import Matrix

BLOCK: Final = 64
"""Rows (or trees) that go down together; more do not stay in the processor's nearest memory."""
REGISTER: Final = 16
"""Rows that the processor works on at once."""
LEFT, RIGHT, ZERO = range(3)
"""Where a missing value goes: the set of columns that a node looks at."""


@kernel
def spread(matrix: Matrix, low: int, high: int, x: npt.NDArray[np.float32]) -> None:
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
def spread_one(row: npt.NDArray[np.float32], x: npt.NDArray[np.float32]) -> None:
    """The same for one row, a place for each column."""
    width = len(row)
    for j in range(width):
        v = row[j]
        missing = np.isnan(v)
        x[j] = np.float32(-np.inf) if missing else v
        x[j + width] = np.float32(np.inf) if missing else v
        x[j + 2 * width] = np.float32(0.0) if missing else v


@kernel
def lanes_of(rows: int) -> int:
    """Places of a block that are worked on: whole registers, the last ones for nobody."""
    return (rows + REGISTER - 1) // REGISTER * REGISTER


@kernel
def end_of_blocks(low: int, high: int, few: int) -> int:
    """Where rows one by one begin: all, or those that are left over, where they are few."""
    left = (high - low) % REGISTER
    return high - left if left <= few else high
