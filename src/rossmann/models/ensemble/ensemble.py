"""Weighted ensemble of the members, with its intervals and quantiles: one folder of files.

A forecast is the base filter's, times the members' weighted factor. Stores with few days of sales
get less of that factor, or none. ``artifact_files`` describes the files.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from rossmann.errors import CorruptModelError
from rossmann.installation import shell_command
from rossmann.models.ensemble.artifact_files import read_card, verify_digests, write_card
from rossmann.models.ensemble.prediction_intervals import (
    interval_bounds,
    sales_quantiles,
    validate_table,
)
from rossmann.models.ensemble.residual_scale import IntervalInputs
from rossmann.models.members import LEARNERS
from rossmann.models.members.base import BaseLearner
from rossmann.models.members.library_compatibility import check_compatibility, installed_libraries
from rossmann.numba_kernel import cached_njit
from rossmann.schema import FEATURES, OFFSET_COLUMN, FeatureMatrix, FloatArray, feature_fingerprint


@cached_njit
def _trust(days: np.float32, low: int, high: int) -> float:
    """0 up to ``low`` days or where they are missing, 1 from ``high`` on, linear between."""
    share = (np.float64(days) - low) / (high - low)
    return min(share, 1.0) if share > 0.0 else 0.0  # NaN compares as False


@cached_njit
def blend(
    matrix: FeatureMatrix,
    offset: int,
    days: int,
    limits: tuple[int, int],
    weights: FloatArray,
    log_factors: tuple[FloatArray, ...],
    out: FloatArray,
) -> None:
    """Fill ``out`` (n,): exp of the offset plus the weighted ``log_factors`` (n,) times trust.

    ``offset`` and ``days`` are columns of the matrix; trust grows from 0 to 1 between the two
    ``limits`` of ``days``.
    """
    for i in range(len(out)):
        change = 0.0
        for k in range(len(log_factors)):
            change += weights[k] * log_factors[k][i]
        trust = _trust(matrix[i, days], limits[0], limits[1])
        out[i] = np.exp(np.float64(matrix[i, offset]) + trust * change)


@cached_njit
def trust_ramp(matrix: FeatureMatrix, column: int, low: int, high: int, out: FloatArray) -> None:
    """Fill ``out`` (n,): 0 where the column is at most ``low`` or missing, 1 from ``high`` on."""
    for i in range(len(out)):
        out[i] = _trust(matrix[i, column], low, high)


_OPEN_DAYS: Final = FEATURES.index("open_days_365")
_CONTRIBUTION_ROWS: Final = 16
"""Rows that a thread attributes between two checks: in less than a second."""
TRUST_FROM_DAYS: Final = 25
FULL_TRUST_DAYS: Final = 50
"""Days with sales in a store's last year: up to the first the members have no weight, from the
second on full weight. They were not trained on stores so new, and extrapolate badly: measured on
the real tables with 7 days of history, RMSPE .47 against .20 of the filter alone."""


class Ensemble:
    """Members blended on the log scale: exp(kfb) times the weighted geometric mean of factors.

    ``card`` is JSON: the version's origin, weights, intervals and metrics.
    """

    def __init__(self, members: dict[str, BaseLearner], card: dict[str, Any]) -> None:
        self.members = members
        self.card = card
        self._weights = {name: float(card["weights"][name]) for name in members}

    def predict(self, matrix: FeatureMatrix, threads: int = 1) -> FloatArray:
        """Sales of open days for (n, 46): (n,), positive and finite."""
        return self.blend(self.log_factors(matrix, threads), matrix)

    def log_factors(self, matrix: FeatureMatrix, threads: int = 1) -> dict[str, FloatArray]:
        """The log of each member's factor on ``exp(kfb)`` for each row: (n,) each."""
        if matrix.shape[1] != len(FEATURES):
            raise ValueError(f"the matrix has {matrix.shape[1]} columns, not {len(FEATURES)}")
        return {name: member.log_factor(matrix, threads) for name, member in self.members.items()}

    def blend(self, log_factors: dict[str, FloatArray], matrix: FeatureMatrix) -> FloatArray:
        """The forecast from the members' factors."""
        weights = np.array([self._weights[name] for name in log_factors])
        factors = tuple(log_factors.values())
        limits = (TRUST_FROM_DAYS, FULL_TRUST_DAYS)
        out = np.empty(len(matrix))
        blend(matrix, OFFSET_COLUMN, _OPEN_DAYS, limits, weights, factors, out)
        return out

    def contributions(
        self, matrix: FeatureMatrix, threads: int = 1, check: Callable[[], None] = lambda: None
    ) -> FloatArray:
        """What each feature adds to log forecast less ``kfb``: (n, 47), blended as ``predict``.

        The last column is the common base value. ``check`` is called between groups of rows, which
        take a second, and may raise to end the work.
        """
        total = np.zeros((len(matrix), len(FEATURES) + 1))
        step = _CONTRIBUTION_ROWS * threads
        for start in range(0, len(matrix), step):
            part = slice(start, start + step)
            for name, member in self.members.items():
                check()
                total[part] += self._weights[name] * member.contributions(matrix[part], threads)
        return total * learner_trust(matrix)[:, None]

    def bounds(
        self, rows: IntervalInputs, levels: Sequence[float]
    ) -> list[tuple[FloatArray, FloatArray]]:
        """Lower and upper bound (n,) of each level, from the version's own table."""
        return interval_bounds(self.card["intervals"], rows, levels)

    def quantiles(self, rows: IntervalInputs, quantiles: Sequence[float]) -> list[FloatArray]:
        """The sales (n,) of each of ``quantiles``, from the version's own table."""
        return sales_quantiles(self.card["intervals"], rows, quantiles)

    def save(self, folder: Path) -> None:
        """Write the members in their own formats, and the card with a digest of each file."""
        folder.mkdir(parents=True, exist_ok=True)
        for member in self.members.values():
            member.save(folder)
        libraries = {**self.card.get("libraries", {}), **installed_libraries(self.members)}
        files = [name for member in self.members.values() for name in member.files()]
        self.card = write_card(folder, {**self.card, "libraries": libraries}, files)

    @classmethod
    def load(cls, folder: Path) -> "Ensemble":
        """Read what ``save`` wrote.

        Raises ``CorruptModelError`` where a file is missing or changed, or where the version was
        made for other features, or by a release of a library that the installed one cannot read.
        """
        verify_digests(folder)
        card = read_card(folder)
        if not isinstance(card.get("weights"), dict) or not set(card["weights"]) <= set(LEARNERS):
            raise CorruptModelError(
                f"the card in {folder} names no weights of members that there are"
            )
        if card.get("fingerprint") != feature_fingerprint():
            raise CorruptModelError(
                f"the version in {folder} was made for other features ({card.get('fingerprint')}) "
                f"than this release computes ({feature_fingerprint()}): train a new one with"
                f" {shell_command('train')}, or run the release that made it"
            )
        check_compatibility(card, folder)
        if "intervals" in card:
            validate_table(card["intervals"])
        try:
            members: dict[str, BaseLearner] = {
                name: LEARNERS[name].load(folder) for name in card["weights"]
            }
        except (OSError, ValueError) as error:
            raise CorruptModelError(f"the version in {folder} does not load: {error}") from error
        return cls(members, card)


def learner_trust(matrix: FeatureMatrix) -> FloatArray:
    """Weight of the members in each row (n,), 0 to 1, by the store's days with sales."""
    out = np.empty(len(matrix))
    trust_ramp(matrix, _OPEN_DAYS, TRUST_FROM_DAYS, FULL_TRUST_DAYS, out)
    return out
