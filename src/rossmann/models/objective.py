"""Forecasts for totals: a correction that takes the bias out of them."""

from typing import Any, Final

import numpy as np

from rossmann.schema import FloatArray, Matrix

CORRECTION: Final = "unbiased"
"""Where a version's card holds the table."""


def correction(table: dict[str, Any], matrix: Matrix) -> FloatArray:
    """What to multiply each forecast with, (n,), so that their total is without bias."""
    return np.full(len(matrix), float(table["factor"]))
