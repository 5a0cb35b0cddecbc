"""Measures of a forecast against what was sold.

MERGED: Is one forecast better than another, or only luckier? A paired test by store.

Rows of one store err together (its level was off that month), so a test that takes rows for
independent finds differences everywhere. Here the errors of both forecasts are paired and added up
store by store, and the signs of the stores' differences are flipped at random: a difference that
many random flips reach as well is noise (Good, *Permutation, Parametric and Bootstrap Tests*).
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from rossmann.schema import FloatArray


def rmspe(sold: FloatArray, forecast: FloatArray) -> float:
    """Root mean square percentage error, as a share; over days with sales, shapes (n,).

    The measure of the Kaggle competition. NaN where there is no such day.
    """
    some = sold > 0
    if not some.any():
        return float("nan")
    return float(np.sqrt(np.mean((forecast[some] / sold[some] - 1.0) ** 2)))


def mape(sold: FloatArray, forecast: FloatArray) -> float:
    """Mean absolute percentage error, as a share."""
    some = sold > 0
    return float(np.mean(np.abs(forecast[some] / sold[some] - 1.0))) if some.any() else float("nan")


def mae(sold: FloatArray, forecast: FloatArray) -> float:
    """Mean absolute error, in the sales' currency."""
    return float(np.mean(np.abs(forecast - sold))) if len(sold) else float("nan")


def bias(sold: FloatArray, forecast: FloatArray) -> float:
    """Forecast total over sold total, less 1."""
    total = float(sold.sum())
    return float(forecast.sum()) / total - 1.0 if total else float("nan")


N_PERMUTATIONS: Final = 4_000
_AT_ONCE: Final = 400
FEW_STORES: Final = 12
"""With fewer, no split of the signs is rare: then each store's weeks are flipped one by one."""
_SEED: Final = 20150801


@dataclass(frozen=True)
class PermutationTest:
    """RMSPE of both on the same rows, and how often chance alone makes the first look as good.

    ``p``: one-sided, between 1 / (flips + 1) and 1; ``better``: share of stores where the first
    errs less; ``units``: how many signs were flipped, of stores or, where these are few, of their
    weeks.
    """

    first_rmspe: float
    second_rmspe: float
    p: float
    share_of_stores_better: float
    stores: int
    units: int


def permutation_test(
    store: npt.NDArray[np.integer],
    day: npt.NDArray[np.integer],
    sold: FloatArray,
    mine: FloatArray,
    other: FloatArray,
) -> PermutationTest:
    """Test forecast ``mine`` against ``other`` on rows (n,) with sales above 0.

    Raises ``ValueError`` where there is no row.
    """
    if not len(sold):
        raise ValueError("there is no row to compare on")
    mine_squared, other_squared = (mine / sold - 1.0) ** 2, (other / sold - 1.0) ** 2
    difference = mine_squared - other_squared
    by_store = _add_up(store.astype(np.int64), difference)
    units = by_store
    if len(by_store) < FEW_STORES:
        units = _add_up(store.astype(np.int64) * 10_000 + day.astype(np.int64) // 7, difference)
    return PermutationTest(
        float(np.sqrt(mine_squared.mean())),
        float(np.sqrt(other_squared.mean())),
        _flip(units),
        float(np.mean(by_store < 0)),
        len(by_store),
        len(units),
    )


def _add_up(unit: npt.NDArray[np.int64], values: FloatArray) -> FloatArray:
    place = np.unique(unit, return_inverse=True)[1]
    return np.bincount(place, weights=values).astype(np.float64)


def _flip(units: FloatArray) -> float:
    """Share of random sign flips whose sum is no greater than the one found; NaN stays NaN."""
    if not np.isfinite(units).all():
        return float("nan")
    rng = np.random.default_rng(_SEED)
    # a hair of slack, so that the very same sum in another order counts
    found = units.sum() + 1e-12 * np.abs(units).sum()
    reached = 0
    for _ in range(N_PERMUTATIONS // _AT_ONCE):
        signs = rng.integers(0, 2, (_AT_ONCE, len(units)), dtype=np.int8) * 2 - 1
        reached += int(np.count_nonzero(signs @ units <= found))
    return (1 + reached) / (N_PERMUTATIONS + 1)
