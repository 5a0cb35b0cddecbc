"""A row as trees look at it, and how many rows go down trees together.

A row is spread over three columns for each feature, in which a missing value is minus infinity,
plus infinity and zero: whichever way a tree sends missing values, its test is ``x > threshold``.
Numbers become keys: int32 in the same order, so that a node can hold its threshold and its link in
one word, and is fetched at once.
"""

from typing import Final

import numpy as np
import numpy.typing as npt

from rossmann.numba_kernel import cached_njit

BLOCK_ROWS: Final = 64
"""Rows (or trees) that go down together; more do not stay in the processor's nearest memory."""
SIMD_LANES: Final = 16
"""Rows that the processor works on at once."""
LEFT, RIGHT, ZERO = range(3)
"""Where a missing value goes: the set of columns that a node looks at."""
_ABS: Final = 0x7FFFFFFF
_INFINITE: Final = 0x7F800000
"""Bits of infinity: what is above them, but for the sign, is no number."""

Keys = npt.NDArray[np.int32]


def sortable_keys(numbers: npt.NDArray[np.float32]) -> Keys:
    """Keys of ``numbers``, none of them missing: as ``_key`` makes them."""
    bits = (numbers + np.float32(0)).view(np.int32)  # -0 is 0
    return np.where(bits < 0, bits ^ np.int32(_ABS), bits)


@cached_njit
def _key(bits: int) -> int:
    """The key of a float32's bits: negative numbers have theirs in the wrong order, and a -0."""
    if bits == -_ABS - 1:
        return 0
    return bits ^ _ABS if bits < 0 else bits


@cached_njit
def encode_block(bits: Keys, low: int, high: int, x: Keys) -> None:
    """Rows ``low`` to ``high`` of a matrix, as bits, to keys: BLOCK places for each column."""
    width = bits.shape[1]
    for i in range(low, high):
        for j in range(width):
            v = bits[i, j]
            missing = v & _ABS > _INFINITE
            key = _key(v)
            at = j * BLOCK_ROWS + i - low
            x[at] = -_INFINITE - 1 if missing else key
            x[at + width * BLOCK_ROWS] = _INFINITE if missing else key
            x[at + 2 * width * BLOCK_ROWS] = 0 if missing else key


@cached_njit
def encode_row(bits: Keys, x: Keys) -> None:
    """The same for one row, a place for each column."""
    width = len(bits)
    for j in range(width):
        v = bits[j]
        missing = v & _ABS > _INFINITE
        key = _key(v)
        x[j] = -_INFINITE - 1 if missing else key
        x[j + width] = _INFINITE if missing else key
        x[j + 2 * width] = 0 if missing else key


@cached_njit
def padded_row_count(rows: int) -> int:
    """Places of a block that are worked on: whole registers, the last ones for nobody."""
    return (rows + SIMD_LANES - 1) // SIMD_LANES * SIMD_LANES


@cached_njit
def block_end(low: int, high: int, few: int) -> int:
    """Where rows one by one begin: all, or those that are left over, where they are few."""
    left = (high - low) % SIMD_LANES
    return high - left if left <= few else high
