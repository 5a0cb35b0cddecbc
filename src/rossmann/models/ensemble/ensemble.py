"""Weighted ensemble of the members, with its intervals and quantiles: one folder of files.

A forecast is the base filter's, times the members' weighted factor. Stores with few days of sales
get less of that factor, or none, and so do kinds of days on which the filter alone forecast past
windows better (``calibration.filter_weights`` learns that). ``artifact_files`` describes the files.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

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
def _is_event(
    to_christmas: np.float32, from_easter: np.float32, since: np.float32, until: np.float32
) -> bool:
    """Whether a day lies in a season of events, from features; missing ones say no.

    1 to 25 December; Monday before Easter to Easter Monday; a holiday and the days next to it; the
    days between two holidays that are a week apart or less, as those around New Year are.
    """
    near_holiday = min(since, until) <= 1 or since + until <= 7
    return bool(near_holiday or to_christmas <= 24 or -6 <= from_easter <= 1)


@cached_njit
def _member_share(
    row: npt.NDArray[np.float32],
    columns: tuple[int, ...],
    limits: tuple[int, int],
    filter_weights: FloatArray,
) -> float:
    """The share of the members' log factors in a row's forecast, 0 to 1.

    It is 1 less the filter's weight, times a trust that grows from 0 to 1 between the two
    ``limits`` of days with sales. ``filter_weights`` (2,): on ordinary days and on event days.
    """
    days, to_christmas, from_easter, since, until = columns
    event = _is_event(row[to_christmas], row[from_easter], row[since], row[until])
    filter_weight = filter_weights[1] if event else filter_weights[0]
    return float(_trust(row[days], limits[0], limits[1]) * (1.0 - filter_weight))


@cached_njit
def blend(
    matrix: FeatureMatrix,
    columns: tuple[int, tuple[int, ...]],
    limits: tuple[int, int],
    weights: tuple[FloatArray, FloatArray],
    log_factors: tuple[FloatArray, ...],
    out: FloatArray,
) -> None:
    """Fill ``out`` (n,): exp of the offset plus the weighted ``log_factors`` (n,) times a share.

    ``columns``: the offset's, and those of ``_member_share``; ``weights``: the members' (k,), and
    the filter's by kind of day (2,).
    """
    for i in range(len(out)):
        change = 0.0
        for k in range(len(log_factors)):
            change += weights[0][k] * log_factors[k][i]
        share = _member_share(matrix[i], columns[1], limits, weights[1])
        out[i] = np.exp(np.float64(matrix[i, columns[0]]) + share * change)


@cached_njit
def fill_member_shares(
    matrix: FeatureMatrix,
    columns: tuple[int, ...],
    limits: tuple[int, int],
    filter_weights: FloatArray,
    out: FloatArray,
) -> None:
    """Fill ``out`` (n,) with ``_member_share`` of each row."""
    for i in range(len(out)):
        out[i] = _member_share(matrix[i], columns, limits, filter_weights)


@cached_njit
def fill_event_days(
    matrix: FeatureMatrix, columns: tuple[int, ...], out: npt.NDArray[np.bool_]
) -> None:
    """Fill ``out`` (n,): which rows are event days; ``columns`` as for ``_member_share``."""
    for i in range(len(out)):
        row = matrix[i]
        out[i] = _is_event(row[columns[1]], row[columns[2]], row[columns[3]], row[columns[4]])


_SHARE_COLUMNS: Final = tuple(
    FEATURES.index(name)
    for name in (
        *("open_days_365", "days_to_christmas", "days_from_easter"),
        *("days_since_holiday", "days_to_holiday"),
    )
)
_SEASON: Final = FEATURES.index("days_to_christmas")
FILTER_WEIGHTS_KEY: Final = "filter_weights"
"""The card's key of the weight of the filter alone, by kind of day."""
DAY_KINDS: Final = ("ordinary", "event")
_CONTRIBUTION_ROWS: Final = 16
"""Rows that a thread attributes between two checks: in less than a second."""
TRUST_FROM_DAYS: Final = 25
FULL_TRUST_DAYS: Final = 50
"""Days with sales in a store's last year: up to the first the members have no weight, from the
second on full weight. They were not trained on stores so new, and extrapolate badly: measured on
the real tables with 7 days of history, RMSPE .47 against .20 of the filter alone."""

_TRUST_LIMITS: Final = (TRUST_FROM_DAYS, FULL_TRUST_DAYS)


class BlendWeights:
    """A version's weights of its members ``names`` and of the filter alone, from its card.

    Members are added up in the order of their names: a sum's last bit depends on the order, and a
    version that is read from files must answer as the one that was written.
    """

    def __init__(self, card: Mapping[str, Any], names: Iterable[str]) -> None:
        table = card.get(FILTER_WEIGHTS_KEY, {})  # cards of earlier releases have none
        self.names = tuple(sorted(names))
        self.members = np.array([float(card["weights"][name]) for name in self.names])
        self.filter = np.array([float(table.get(kind, 0.0)) for kind in DAY_KINDS])

    def blend(self, log_factors: Mapping[str, FloatArray], matrix: FeatureMatrix) -> FloatArray:
        """The forecast (n,) from the members' log factors (n,) each."""
        out = np.empty(len(matrix))
        columns, weights = (OFFSET_COLUMN, _SHARE_COLUMNS), (self.members, self.filter)
        factors = tuple([log_factors[name] for name in self.names])
        blend(matrix, columns, _TRUST_LIMITS, weights, factors, out)
        return out

    def member_shares(self, matrix: FeatureMatrix) -> FloatArray:
        """The share of the members' log factors in each row's forecast, (n,), 0 to 1."""
        out = np.empty(len(matrix))
        fill_member_shares(matrix, _SHARE_COLUMNS, _TRUST_LIMITS, self.filter, out)
        return out

    def ordinary_shares(self, matrix: FeatureMatrix) -> FloatArray:
        """``member_shares`` as if all days were ordinary ones, (n,)."""
        out = np.empty(len(matrix))
        weights = np.full(len(DAY_KINDS), self.filter[0])
        fill_member_shares(matrix, _SHARE_COLUMNS, _TRUST_LIMITS, weights, out)
        return out


def is_event_day(matrix: FeatureMatrix) -> npt.NDArray[np.bool_]:
    """Which rows (n,) are event days, on which the filter has a weight of its own."""
    out = np.empty(len(matrix), np.bool_)
    fill_event_days(matrix, _SHARE_COLUMNS, out)
    return out


class Ensemble:
    """Members blended on the log scale: exp(kfb) times the weighted geometric mean of factors.

    ``card`` is JSON: the version's origin, weights, intervals and metrics.
    """

    def __init__(self, members: dict[str, BaseLearner], card: dict[str, Any]) -> None:
        self.members = members
        self.card = card
        self._weights = BlendWeights(card, members)

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
        return self._weights.blend(log_factors, matrix)

    def contributions(
        self, matrix: FeatureMatrix, threads: int = 1, check: Callable[[], None] = lambda: None
    ) -> FloatArray:
        """What each feature adds to log forecast less ``kfb``: (n, 47), blended as ``predict``.

        The last column is the common base value. ``check`` is called between groups of rows, which
        take a second, and may raise to end the work.
        """
        total = np.zeros((len(matrix), len(FEATURES) + 1))
        weights = dict(zip(self._weights.names, self._weights.members, strict=True))
        step = _CONTRIBUTION_ROWS * threads
        for start in range(0, len(matrix), step):
            part = slice(start, start + step)
            for name, weight in weights.items():
                check()
                total[part] += weight * self.members[name].contributions(matrix[part], threads)
        shares = self._weights.member_shares(matrix)
        ordinary = self._weights.ordinary_shares(matrix)
        base = total[:, -1].copy()
        total *= shares[:, None]
        # the base value is that of ordinary days: the difference on event days is the season's
        total[:, -1] = ordinary * base
        total[:, _SEASON] += (shares - ordinary) * base
        return total

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
        if not all(0 <= weight <= 1 for weight in BlendWeights(card, ()).filter):
            raise CorruptModelError(f"the card in {folder} has filter weights outside 0 to 1")
        if "intervals" in card:
            validate_table(card["intervals"])
        try:
            members: dict[str, BaseLearner] = {
                name: LEARNERS[name].load(folder) for name in card["weights"]
            }
        except (OSError, ValueError) as error:
            raise CorruptModelError(f"the version in {folder} does not load: {error}") from error
        return cls(members, card)
