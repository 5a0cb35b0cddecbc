"""Rows encoded for the tree kernels, and the size of the blocks that they evaluate.

Each feature becomes three columns, in which a missing value is minus infinity, plus infinity and
zero: whichever way a tree sends missing values, its test is ``x > threshold``. Numbers become
keys, int32 in the same order, so that a node's threshold and link fit in one word.
"""

from typing import Final

import numpy as np
import numpy.typing as npt

from rossmann.numba_kernel import cached_njit

BLOCK_ROWS: Final = 64
"""Rows (or trees) evaluated at once; more do not fit in the processor's first-level cache."""
SIMD_LANES: Final = 16
"""Rows that one vector instruction may process: block sizes are rounded up to it."""
LEFT, RIGHT, ZERO = range(3)
"""How a node treats a missing value: the set of columns that it reads."""
_ABS: Final = 0x7FFFFFFF
_INFINITE: Final = 0x7F800000
"""Bits of infinity: larger ones, without the sign, are not a number."""

Keys = npt.NDArray[np.int32]


def sortable_keys(numbers: npt.NDArray[np.float32]) -> Keys:
    """Keys of ``numbers``, none of them missing; as ``_key``."""
    bits = (numbers + np.float32(0)).view(np.int32)  # -0 is 0
    return np.where(bits < 0, bits ^ np.int32(_ABS), bits)


@cached_njit
def _key(bits: int) -> int:
    """The key of a float32's bits: the order of negative numbers is reversed, -0 becomes 0."""
    if bits == -_ABS - 1:
        return 0
    return bits ^ _ABS if bits < 0 else bits


@cached_njit
def encode_block(bits: Keys, low: int, high: int, x: Keys) -> None:
    """Keys of rows ``low`` to ``high`` of a matrix of bits, ``BLOCK_ROWS`` for each column."""
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
    """Keys of one row, one for each column."""
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
    """Rows of a block with padding to whole vector registers."""
    return (rows + SIMD_LANES - 1) // SIMD_LANES * SIMD_LANES


@cached_njit
def block_end(low: int, high: int, max_single_rows: int) -> int:
    """Where blocks end: the remainder that fills no register goes row by row if it is small."""
    remainder = (high - low) % SIMD_LANES
    return high - remainder if remainder <= max_single_rows else high
