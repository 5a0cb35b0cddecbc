"""Prediction intervals: split-conformal on the absolute log residual, by volatility.

Residuals come from backtest windows that the members did not see (Vovk et al., *Algorithmic
Learning in a Random World*; the split form after Lei et al. 2018). Stores differ in how steady
they are, so residuals are pooled by tercile of ``sd_same_364``, a feature of the row itself.
"""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from rossmann.schema import FEATURES, FloatArray, Matrix

LEVELS: Final = tuple(np.round(np.arange(0.50, 0.9901, 0.01), 2).tolist())
_VOLATILITY: Final = FEATURES.index("sd_same_364")
_GROUPS: Final = 3


def calibrate(matrix: Matrix, sales: FloatArray, forecast: FloatArray) -> dict[str, Any]:
    """The table: quantiles of |log residual| by tercile (3, levels), from rows not learned from."""
    cuts = volatility_cuts(matrix)
    residual = np.abs(np.log(sales) - np.log(forecast))
    group = terciles(matrix, cuts)
    widths = []
    for g in range(_GROUPS):
        mine = residual[group == g]
        mine = mine if len(mine) >= 100 else residual
        # the conformal quantile: ceil((n + 1) level) of n
        share = np.minimum(np.ceil((len(mine) + 1) * np.array(LEVELS)) / len(mine), 1.0)
        widths.append(np.quantile(mine, share, method="inverted_cdf").tolist())
    return {"levels": list(LEVELS), "cuts": cuts.tolist(), "widths": widths, "rows": len(sales)}


def bounds(
    table: dict[str, Any], matrix: Matrix, sales: FloatArray, levels: Sequence[float]
) -> list[tuple[FloatArray, FloatArray]]:
    """Lower and upper bound (n,) for each level between .5 and .99, interpolated in the table.

    Raises ``ValueError`` for a level outside.
    """
    group = terciles(matrix, np.array(table["cuts"]))
    out = []
    for level in levels:
        if not LEVELS[0] <= level <= LEVELS[-1]:
            raise ValueError(f"an interval's level must lie between .5 and .99 (got {level})")
        width = np.array([np.interp(level, table["levels"], w) for w in table["widths"]])[group]
        out.append((sales * np.exp(-width), sales * np.exp(width)))
    return out


def volatility_cuts(matrix: Matrix) -> FloatArray:
    """Where the terciles of volatility part, (2,)."""
    known = matrix[:, _VOLATILITY]
    known = known[np.isfinite(known)]
    return np.quantile(known, [1 / 3, 2 / 3]) if len(known) else np.array([0.1, 0.2])


def terciles(matrix: Matrix, cuts: FloatArray) -> npt.NDArray[np.int64]:
    """Each row's tercile (n,), 0 to 2; a store too new to have a volatility counts as volatile."""
    sd = matrix[:, _VOLATILITY]
    return np.searchsorted(cuts, np.where(np.isnan(sd), np.float32(np.inf), sd))
