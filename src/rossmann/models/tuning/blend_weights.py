"""Tuning the blend: every mix of the members in steps, on forecasts that are made once.

Weights fitted to a window flatter themselves on it, so a mix is judged on each window by what the
other windows would have chosen.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Final, cast

import numpy as np

from rossmann.data.panel.panel import Panel
from rossmann.errors import DataError
from rossmann.models.ensemble.ensemble import Ensemble
from rossmann.models.evaluation.backtest import backtest
from rossmann.models.evaluation.metrics import rmspe
from rossmann.models.evaluation.windows import WindowForecasts
from rossmann.models.members.base import BaseLearner
from rossmann.models.members.fit import sample_training_rows
from rossmann.models.tuning.search import MIN_GAIN
from rossmann.schema import OFFSET_COLUMN, FloatArray
from rossmann.settings import Settings

Weights = dict[str, float]
GRID_STEPS: Final = 20
"""Weights are multiples of 1 / STEPS."""


@dataclass(frozen=True)
class WindowResult:
    """One window: RMSPE with the present weights, with those that the other windows would choose,
    and with those chosen on all of them."""

    origin: date
    present: float
    others: float
    best: float


@dataclass(frozen=True)
class WeightsResult:
    """The weights that err least on the mean of the windows, and what they are worth."""

    present: Weights
    best: Weights
    windows: list[WindowResult]

    @property
    def gain(self) -> float:
        """RMSPE gained on windows that did not choose the weights, on the mean."""
        return sum(line.present - line.others for line in self.windows) / len(self.windows)

    @property
    def is_significant(self) -> bool:
        """Whether that is more than noise."""
        return self.best != self.present and self.gain >= MIN_GAIN


def tune_weights(
    settings: Settings,
    panel: Panel,
    profile: str,
    ends: Sequence[int],
    report: Callable[[str], None],
) -> WeightsResult:
    """Fit every member as of each window's origin once, then try all mixes.

    Raises ``SettingsError`` for an unknown profile, ``DataError`` for fewer than two windows.
    """
    chosen = settings.profile(profile)
    back = sorted(set(ends or settings.windows), reverse=True)
    if len(back) < 2:
        raise DataError("weights need two windows or more: one to choose by, one to judge on")
    examples = sample_training_rows(panel, settings.history_days, settings.seed)
    outcomes = backtest(settings, panel, examples, chosen, report, back)
    mixes = list(simplex(tuple(chosen.members)))
    if chosen.weights not in mixes:
        mixes.insert(0, chosen.weights)
    report(f"trying {len(mixes)} mixes")
    errors = np.array([[_error(outcome, mix) for mix in mixes] for outcome in outcomes])
    return cross_validate(errors, mixes, chosen.weights, [o.window.origin_date for o in outcomes])


def cross_validate(
    errors: FloatArray,
    mixes: list[Weights],
    present: Weights,
    origins: list[date],
) -> WeightsResult:
    """Choose on all windows, judge each by the others; ``errors`` is (windows, mixes).

    Of equals the present weights win.
    """
    now = mixes.index(present)
    best = _least(errors.mean(axis=0), now)
    lines = []
    for w, origin in enumerate(origins):
        others = _least(np.delete(errors, w, axis=0).mean(axis=0), now)
        lines.append(
            WindowResult(
                origin, float(errors[w, now]), float(errors[w, others]), float(errors[w, best])
            )
        )
    return WeightsResult(present, mixes[best], lines)


def simplex(names: Sequence[str], steps: int = GRID_STEPS) -> Iterator[Weights]:
    """Every way to share ``steps`` equal parts among the names, as weights that sum to 1."""

    def share(count: int, parts: int) -> Iterator[tuple[int, ...]]:
        if count == 1:
            yield (parts,)
            return
        for mine in range(parts + 1):
            for rest in share(count - 1, parts - mine):
                yield (mine, *rest)

    for shares in share(len(names), steps):
        yield {name: round(part / steps, 4) for name, part in zip(names, shares, strict=True)}


def _least(errors: FloatArray, now: int) -> int:
    least = int(np.argmin(errors))
    return least if errors[least] < errors[now] else now


def _error(outcome: WindowForecasts, weights: Weights) -> float:
    """RMSPE of a mix, blended as the ensemble does it."""
    matrix = outcome.window.matrix
    offset = matrix[:, OFFSET_COLUMN].astype(np.float64)
    factors = {name: np.log(outcome.forecasts[name]) - offset for name in weights}
    # No member is asked again: its factors are known.
    members: dict[str, BaseLearner] = dict.fromkeys(weights, cast("BaseLearner", None))
    return rmspe(
        outcome.window.sold, Ensemble(members, {"weights": weights}).blend(factors, matrix)
    )
