"""The nearest competitor, and what else is fixed about a store."""

from typing import Final

import numpy as np

from rossmann.compiled import kernel
from rossmann.schema import FloatArray

# Columns of the store table (stores, N_STORE), float64.
LOG_DISTANCE, COMPETITION_MONTH, ASSORTMENT, REGION, PROMO2_SINCE, PROMO2_MONTHS = range(6)
N_STORE: Final = 6

NO_COMPETITOR_M: Final = 200_000.0
"""Metres taken where no competitor is known: more than twice the largest distance in the table."""
MONTHS_BEFORE, MONTHS_AFTER = -24, 120


def log_distance(metres: FloatArray) -> FloatArray:
    """Log of the distance, NaN read as none within reach."""
    return np.asarray(np.log(np.where(np.isnan(metres), NO_COMPETITOR_M, metres) + 1.0))


@kernel
def months_since(month_index: int, opened: float) -> float:
    """Months since the competitor opened, kept within -24 to 120; NaN where that is not known."""
    if np.isnan(opened):
        return np.nan
    return min(max(month_index - opened, MONTHS_BEFORE), MONTHS_AFTER)
