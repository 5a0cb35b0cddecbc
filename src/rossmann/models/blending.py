"""From the members' factors to a forecast."""

import numpy as np

from rossmann.compiled import kernel
from rossmann.schema import FloatArray, Matrix


@kernel
def _heard(days: np.float32, low: int, high: int) -> float:
    """0 up to ``low`` days or where they are missing, 1 from ``high`` on."""
    share = (np.float64(days) - low) / (high - low)
    # a number that is missing is below all others
    return min(share, 1.0) if share > 0.0 else 0.0


@kernel
def blend(
    matrix: Matrix,
    offset: int,
    days: int,
    limits: tuple[int, int],
    weights: FloatArray,
    parts: tuple[FloatArray, ...],
    out: FloatArray,
) -> None:
    """Fill ``out`` (n,): exp of the column ``offset`` and the weighted ``parts`` (n,), if heard.

    The column ``days`` says how far they are, between its two ``limits``.
    """
    for i in range(len(out)):
        change = 0.0
        for k in range(len(parts)):
            change += weights[k] * parts[k][i]
        heard = _heard(matrix[i, days], limits[0], limits[1])
        out[i] = np.exp(np.float64(matrix[i, offset]) + heard * change)


@kernel
def rise(matrix: Matrix, column: int, low: int, high: int, out: FloatArray) -> None:
    """Fill ``out`` (n,): 0 where the column is at most ``low`` or missing, 1 from ``high`` on."""
    for i in range(len(out)):
        out[i] = _heard(matrix[i, column], low, high)
