"""Blend-weight search: every mix of the members on a grid, from one backtest of the members.

Weights fitted to a window look too good on it, so the gain is cross-validated: each window by the
mix that the other windows would choose.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Final

import numpy as np

from rossmann.data.panel.panel import Panel
from rossmann.errors import DataError
from rossmann.models.evaluation.backtest import (
    BacktestPlan,
    WindowForecasts,
    backtest,
    offsets_to_choose_by,
)
from rossmann.models.evaluation.metrics import capped_rmspe
from rossmann.models.members.fit import sample_training_rows
from rossmann.models.tuning.search import MIN_GAIN
from rossmann.schema import FloatArray, ProgressReporter
from rossmann.settings import Settings

Weights = dict[str, float]
GRID_STEPS: Final = 20
"""Weights are multiples of 1 / ``GRID_STEPS``."""


@dataclass(frozen=True)
class WindowResult:
    """One window's capped RMSPE with the current weights, with those that the other windows would
    choose (``cross_validated``), and with the best on all windows."""

    origin: date
    current: float
    cross_validated: float
    best: float


@dataclass(frozen=True)
class WeightsResult:
    """The weights with the least mean error over windows, and each window's errors."""

    current: Weights
    best: Weights
    windows: list[WindowResult]

    @property
    def gain(self) -> float:
        """Cross-validated gain in capped RMSPE, the mean of the windows."""
        gains = (window.current - window.cross_validated for window in self.windows)
        return sum(gains) / len(self.windows)

    @property
    def is_significant(self) -> bool:
        """Whether the gain is large enough to write the weights."""
        return self.best != self.current and self.gain >= MIN_GAIN


def tune_weights(
    settings: Settings, panel: Panel, profile: str, offsets: Sequence[int], report: ProgressReporter
) -> WeightsResult:
    """Fit every member as of each window's origin once, then try all mixes.

    ``offsets``: origins as days before the last day of history, empty takes the settings'. Raises
    ``SettingsError`` for an unknown profile, ``DataError`` for fewer than two windows.
    """
    chosen = settings.profile(profile)
    distinct = offsets_to_choose_by(settings, panel, offsets, report)
    if len(distinct) < 2:
        raise DataError("weights need two windows or more: one to choose by, one to judge on")
    examples = sample_training_rows(panel, settings.history_days, settings.seed)
    outcomes = backtest(settings, panel, examples, chosen, report, BacktestPlan(distinct))
    mixes = list(weight_grid(tuple(chosen.members)))
    if chosen.weights not in mixes:
        mixes.insert(0, chosen.weights)
    report(f"trying {len(mixes)} mixes")
    errors = np.array([[_error(outcome, mix) for mix in mixes] for outcome in outcomes])
    return cross_validate(errors, mixes, chosen.weights, [o.window.origin_date for o in outcomes])


def cross_validate(
    errors: FloatArray, mixes: list[Weights], current: Weights, origins: list[date]
) -> WeightsResult:
    """Choose on all windows, and for each window on the others; ``errors`` is (windows, mixes).

    Of equals the current weights win.
    """
    current_index = mixes.index(current)
    best = _argmin(errors.mean(axis=0), current_index)
    windows = []
    for w, origin in enumerate(origins):
        others = _argmin(np.delete(errors, w, axis=0).mean(axis=0), current_index)
        window_errors = (float(errors[w, i]) for i in (current_index, others, best))
        windows.append(WindowResult(origin, *window_errors))
    return WeightsResult(current, mixes[best], windows)


def weight_grid(names: Sequence[str], steps: int = GRID_STEPS) -> Iterator[Weights]:
    """Every way to share ``steps`` equal parts among the names, as weights that sum to 1."""

    def split(count: int, parts: int) -> Iterator[tuple[int, ...]]:
        if count == 1:
            yield (parts,)
            return
        for first in range(parts + 1):
            for rest in split(count - 1, parts - first):
                yield (first, *rest)

    for shares in split(len(names), steps):
        yield {name: round(part / steps, 4) for name, part in zip(names, shares, strict=True)}


def _argmin(errors: FloatArray, current: int) -> int:
    best = int(np.argmin(errors))
    return best if errors[best] < errors[current] else current


def _error(outcome: WindowForecasts, weights: Weights) -> float:
    """Capped RMSPE of a mix, blended as the ensemble does it, without filter weights."""
    forecast = outcome.members["ensemble"].blend({"weights": weights})
    return capped_rmspe(outcome.window.sold, forecast)
