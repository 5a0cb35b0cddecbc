"""Filter weights: the weight of the Kalman filter alone in the blend, by kind of day.

Members overfit a season of which their training rows hold one year. The filter, which adapts to the
store's last weeks, then has the smaller error alone, above all on event days. With two years and
more, the members have the smaller error.

The weights are learned from backtest windows, by kind of day and by whether the members of the
window had seen one year or more. Of the weights on a grid, the one with the least absolute error
wins, unless a smaller one is as good within the noise between weeks (as in the one-standard-error
rule of Breiman et al., *Classification and Regression Trees*). From a single window nothing is
learned: its errors come from the same dates.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from rossmann.models.ensemble.ensemble import DAY_KINDS, FILTER_WEIGHTS_KEY, is_event_day
from rossmann.models.evaluation.backtest import WindowForecasts, with_follow_ups
from rossmann.schema import OFFSET_COLUMN, FloatArray

GRID: Final = np.round(np.arange(0.0, 1.001, 0.05), 2)
"""The weights that are tried."""
_TOLERANCE: Final = {1: 0.5, 2: 2.0}
"""Standard errors by which a smaller weight may be worse and is taken, by ``training_years``.
Chosen on the windows that are reported (modelops/experiment-results-blend.md): where members know
two years, a quarter of the filter cost .001 of WAPE on windows after those that favoured it."""
_MIN_WINDOWS: Final = 2
_YEAR: Final = 365
_WEEK: Final = 7
_MANY_YEARS: Final = 2
"""From so many years on, a season counts as known."""


@dataclass(frozen=True)
class WindowErrors:
    """Absolute errors of one window, as shares of each week's sales, for each weight of ``GRID``.

    ``years``: ``training_years`` of the window's members; ``week``: the first day of each of the
    window's weeks (weeks,); ``errors``: (weeks, grid) by kind of day, where it has any.
    """

    origin: int
    years: int
    week: npt.NDArray[np.int64]
    errors: Mapping[str, FloatArray]


def training_years(first_day: int, last_day: int) -> int:
    """1 where members that learned from those days saw a season once at most, else 2.

    ``first_day``: of the rows for training, ``last_day``: of theirs; days since 1970-01-01.
    """
    return min(max((last_day - first_day) // _YEAR, 1), _MANY_YEARS)


def collect_errors(
    outcomes: Sequence[WindowForecasts], first_day: int, weights: Mapping[str, float]
) -> list[WindowErrors]:
    """The errors of all windows and their follow-ups; ``weights``: of the members."""
    return [_window_errors(one, first_day, weights) for one in with_follow_ups(outcomes)]


def fit_filter_weights(evidence: Sequence[WindowErrors], years: int) -> dict[str, Any]:
    """The table of a card, as JSON, for members that saw ``years`` (of ``training_years``).

    A weight by kind of day, and the ``windows`` that each comes from.
    """
    table: dict[str, Any] = {"years": years, "windows": {}}
    for kind in DAY_KINDS:
        errors = [one.errors[kind] for one in evidence if one.years == years and kind in one.errors]
        table[kind] = (
            _choose_weight(errors, _TOLERANCE[years]) if len(errors) >= _MIN_WINDOWS else 0.0
        )
        table["windows"][kind] = len(errors)
    return table


def cross_validate_filter_weights(
    outcomes: Sequence[WindowForecasts], first_day: int, weights: Mapping[str, float]
) -> list[WindowForecasts]:
    """The outcomes blended anew, each window by the filter weights that other days give.

    ``first_day``: of the rows for training; ``weights``: of the members. No window's forecast
    depends on the sales of its own days.
    """
    evidence = collect_errors(outcomes, first_day, weights)

    def reblend(outcome: WindowForecasts) -> WindowForecasts:
        window = outcome.window
        first, last = window.origin + 1, window.origin + window.days
        others = [other for one in evidence if (other := _without_days(one, first, last))]
        years = training_years(first_day, window.origin - outcome.age_days)
        return blend_window(outcome, weights, fit_filter_weights(others, years))

    return [_map_windows(outcome, reblend) for outcome in outcomes]


def blend_window(
    outcome: WindowForecasts, weights: Mapping[str, float], filter_weights: Mapping[str, Any]
) -> WindowForecasts:
    """The window with the forecasts that such a version serves; its follow-ups stay as they are."""
    card = {"weights": weights, FILTER_WEIGHTS_KEY: filter_weights}
    blended = {name: outputs.blend(card) for name, outputs in outcome.members.items()}
    return replace(outcome, forecasts={**outcome.forecasts, **blended})


def _window_errors(
    outcome: WindowForecasts, first_day: int, weights: Mapping[str, float]
) -> WindowErrors:
    window, outputs = outcome.window, outcome.members["ensemble"]
    offset = outputs.matrix[:, OFFSET_COLUMN].astype(np.float64)
    change = np.log(outputs.blend({"weights": weights})) - offset
    week = (window.rows.day.astype(np.int64) - window.origin - 1) // _WEEK
    weeks = int(week.max()) + 1
    total = np.bincount(week, window.sold, weeks)[week]
    event = is_event_day(outputs.matrix)
    errors = {}
    for kind, rows in zip(DAY_KINDS, (np.nonzero(~event)[0], np.nonzero(event)[0]), strict=True):
        if not len(rows):
            continue
        errors[kind] = np.empty((weeks, len(GRID)))
        for column, weight in enumerate(GRID):
            forecast = np.exp(offset[rows] + (1.0 - weight) * change[rows])
            error = np.abs(window.sold[rows] - forecast) / total[rows]
            errors[kind][:, column] = np.bincount(week[rows], error, weeks)
    years = training_years(first_day, window.origin - outcome.age_days)
    return WindowErrors(window.origin, years, window.origin + 1 + _WEEK * np.arange(weeks), errors)


def _without_days(evidence: WindowErrors, first: int, last: int) -> WindowErrors | None:
    """The evidence without the weeks that hold one of those days; None where none is left."""
    kept = (evidence.week > last) | (evidence.week + _WEEK - 1 < first)
    if not kept.any():
        return None
    errors = {kind: weeks[kept] for kind, weeks in evidence.errors.items() if weeks[kept].any()}
    return replace(evidence, week=evidence.week[kept], errors=errors)


def _choose_weight(errors: Sequence[FloatArray], tolerance: float) -> float:
    """The smallest weight of the grid that is as good as the best one within the noise."""
    weeks = np.concatenate(errors)
    best = int(np.argmin(weeks.sum(axis=0)))
    worse = weeks - weeks[:, best : best + 1]
    noise = np.sqrt(len(weeks)) * worse.std(axis=0, ddof=1)
    return float(GRID[np.argmax(worse.sum(axis=0) <= tolerance * noise)])


def _map_windows(
    outcome: WindowForecasts, change: Callable[[WindowForecasts], WindowForecasts]
) -> WindowForecasts:
    """The outcome with each of its windows changed."""
    return replace(
        change(outcome),
        follow_ups=tuple(map(change, outcome.follow_ups)),
        next_fit=None if outcome.next_fit is None else change(outcome.next_fit),
    )
