"""Error metrics of forecasts, and a paired permutation test of two forecasts.

Errors of one store's rows are correlated (its level was off that month), so a test that takes rows
for independent finds differences everywhere. Here the differences of squared errors are summed by
store, and the signs of the stores' sums are flipped at random: a difference that many random flips
reach as well is noise (Good, *Permutation, Parametric and Bootstrap Tests*).
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
    positive = sold > 0
    if not positive.any():
        return float("nan")
    return float(np.sqrt(np.mean((forecast[positive] / sold[positive] - 1.0) ** 2)))


def mape(sold: FloatArray, forecast: FloatArray) -> float:
    """Mean absolute percentage error, as a share; over days with sales. NaN without such a day."""
    positive = sold > 0
    if not positive.any():
        return float("nan")
    return float(np.mean(np.abs(forecast[positive] / sold[positive] - 1.0)))


def mae(sold: FloatArray, forecast: FloatArray) -> float:
    """Mean absolute error, in the sales' currency; NaN without rows."""
    return float(np.mean(np.abs(forecast - sold))) if len(sold) else float("nan")


def bias(sold: FloatArray, forecast: FloatArray) -> float:
    """Forecast total over sold total, less 1; NaN where nothing was sold."""
    total = float(sold.sum())
    return float(forecast.sum()) / total - 1.0 if total else float("nan")


def format_percent(share: float | None, spec: str = ".1f") -> str:
    """A share in per cent, "-" where it is unknown; ``spec`` formats the number."""
    return "-" if share is None else f"{100 * share:{spec}} %"


N_PERMUTATIONS: Final = 4_000
_BATCH: Final = 400
SMALL_CHAIN_STORES: Final = 12
"""With fewer stores, no split of their signs is rare: the signs of each store's weeks are flipped
instead."""
_SEED: Final = 20150801


@dataclass(frozen=True)
class PermutationTest:
    """RMSPE of two forecasts on the same rows, and the p-value of the first being better.

    ``p_value``: one-sided, between 1 / (permutations + 1) and 1; ``share_of_stores_better``: share
    of stores where the first errs less; ``units``: how many signs were flipped, of stores or, in a
    small chain, of their weeks.
    """

    first_rmspe: float
    second_rmspe: float
    p_value: float
    share_of_stores_better: float
    stores: int
    units: int


def permutation_test(
    store: npt.NDArray[np.integer],
    day: npt.NDArray[np.integer],
    sold: FloatArray,
    first: FloatArray,
    second: FloatArray,
) -> PermutationTest:
    """Test whether forecast ``first`` is better than ``second`` on rows (n,) with sales above 0.

    Raises ``ValueError`` where there is no row.
    """
    if not len(sold):
        raise ValueError("there is no row to compare on")
    first_squared, second_squared = (first / sold - 1.0) ** 2, (second / sold - 1.0) ** 2
    difference = first_squared - second_squared
    by_store = _sum_by(store.astype(np.int64), difference)
    by_unit = by_store
    if len(by_store) < SMALL_CHAIN_STORES:
        week = store.astype(np.int64) * 10_000 + day.astype(np.int64) // 7
        by_unit = _sum_by(week, difference)
    return PermutationTest(
        float(np.sqrt(first_squared.mean())),
        float(np.sqrt(second_squared.mean())),
        _sign_flip_p_value(by_unit),
        float(np.mean(by_store < 0)),
        len(by_store),
        len(by_unit),
    )


def _sum_by(key: npt.NDArray[np.int64], values: FloatArray) -> FloatArray:
    index = np.unique(key, return_inverse=True)[1]
    return np.bincount(index, weights=values).astype(np.float64)


def _sign_flip_p_value(differences: FloatArray) -> float:
    """Share of random sign flips whose sum is no greater than the observed one; NaN stays NaN."""
    if not np.isfinite(differences).all():
        return float("nan")
    rng = np.random.default_rng(_SEED)
    # the tolerance counts the very same sum in another order
    observed = differences.sum() + 1e-12 * np.abs(differences).sum()
    count = 0
    for _ in range(N_PERMUTATIONS // _BATCH):
        signs = rng.integers(0, 2, (_BATCH, len(differences)), dtype=np.int8) * 2 - 1
        count += int(np.count_nonzero(signs @ differences <= observed))
    return (1 + count) / (N_PERMUTATIONS + 1)
