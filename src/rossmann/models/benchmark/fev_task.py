"""Tasks of fev-bench on the Rossmann tables: windows, what is scored, and the four metrics.

fev-bench (arXiv 2509.26468, repository autogluon/fev) has two tasks on these tables:
``rossmann_1D`` (daily sales, 10 windows of 48 days) and ``rossmann_1W`` (weekly sums, 8 windows of
13 weeks). Windows lie one after the other and end with the tables. Closed days count, with sales of
0; days that the tables lack do not. Each metric is one figure for a window; a task's is their mean.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import Final

import numpy as np
import numpy.typing as npt

from rossmann.data.panel.panel import Panel
from rossmann.epoch_days import to_day
from rossmann.schema import Dataset, FloatArray, StoreDays

METRICS: Final = ("SQL", "WQL", "MASE", "WAPE")
QUANTILES: Final = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
_WEEK: Final = 7


@dataclass(frozen=True)
class FevTask:
    """A task: ``windows`` of ``horizon`` steps of ``step_days`` days, the last one ends on ``end``.

    ``seasonality``: the lag in steps whose mean absolute difference scales MASE and SQL.
    """

    name: str
    end: date
    horizon: int
    windows: int
    step_days: int
    seasonality: int

    @property
    def days(self) -> int:
        """The length of a window in days."""
        return self.horizon * self.step_days

    def origins(self, panel: Panel) -> list[int]:
        """Origins of the windows that the panel holds, oldest first, as epoch days.

        The demo chain has windows of its own, which end with its history.
        """
        is_real = panel.info.dataset is Dataset.REAL
        end = to_day(self.end) if is_real else panel.last_day - (panel.last_day + 4) % _WEEK
        starts = [end - self.days * number for number in range(self.windows, 0, -1)]
        return [o for o in starts if o > panel.first_day and o + self.days <= panel.last_day]


DAILY: Final = FevTask("rossmann_1D", date(2015, 7, 31), 48, 10, 1, 7)
WEEKLY: Final = FevTask("rossmann_1W", date(2015, 7, 26), 13, 8, _WEEK, 1)
TASKS: Final = {task.name: task for task in (DAILY, WEEKLY)}


@dataclass(frozen=True)
class ScoredSteps:
    """What a window is scored on: arrays (n,).

    ``store``: index in the panel; ``step``: 0 to ``horizon`` - 1; ``sold``: the sales of the step;
    ``scale``: of the store, its mean absolute seasonal difference before the origin.
    """

    store: npt.NDArray[np.int64]
    step: npt.NDArray[np.int64]
    sold: FloatArray
    scale: FloatArray


def window_rows(panel: Panel, task: FevTask, origin: int) -> StoreDays:
    """All store-days of the window whose sales the tables have, closed days too."""
    known = ~np.isnan(panel.sales_between(origin + 1, origin + task.days))
    store, day = np.nonzero(known)
    return panel.schedule(panel.store_numbers[store], origin + 1 + day)


def scored_steps(panel: Panel, task: FevTask, origin: int) -> ScoredSteps:
    """The steps of a window by store, and the scale of each.

    A week with a day that the tables lack is not scored.
    """
    sold = by_step(panel.sales_between(origin + 1, origin + task.days), task.step_days)
    past = _past_steps(panel, task, origin)
    lag = task.seasonality
    difference = np.abs(past[:, lag:] - past[:, :-lag])
    pairs = np.isfinite(difference).sum(axis=1)
    scale = np.where(pairs > 0, np.nansum(difference, axis=1) / np.maximum(pairs, 1), 1.0)
    store, step = np.nonzero(np.isfinite(sold))
    return ScoredSteps(store, step, sold[store, step], scale[store])


def by_step(sales: FloatArray, step_days: int) -> FloatArray:
    """Sums of each ``step_days`` days of (stores, days): (stores, steps), NaN where one is."""
    return np.asarray(sales.reshape(len(sales), -1, step_days).sum(axis=2), np.float64)


def _past_steps(panel: Panel, task: FevTask, origin: int) -> FloatArray:
    """Sales of the whole steps that end with the origin, (stores, steps)."""
    steps = (origin - panel.first_day + 1) // task.step_days
    first = origin - steps * task.step_days + 1
    return by_step(panel.sales_between(first, origin), task.step_days)


def score(
    steps: ScoredSteps, forecast: FloatArray, quantiles: Mapping[float, FloatArray]
) -> dict[str, float]:
    """The metrics of a window, by name of ``METRICS``.

    ``forecast`` (n,); ``quantiles``: (n,) for each of ``QUANTILES``. SQL and MASE divide each
    error by the store's scale; WQL and WAPE divide the mean error by the mean sales.
    """
    error = np.abs(steps.sold - forecast)
    losses = []
    for level in QUANTILES:
        above = steps.sold - quantiles[level]
        losses.append(2.0 * np.maximum(level * above, (level - 1.0) * above))
    loss = np.mean(losses, axis=0)
    scaled = steps.scale > 0  # of a store that always sold the same no error can be scaled
    mean_sales = max(float(np.mean(steps.sold)), 1.0)
    return {
        "SQL": float(np.mean(loss[scaled] / steps.scale[scaled])),
        "WQL": float(np.mean(loss)) / mean_sales,
        "MASE": float(np.mean(error[scaled] / steps.scale[scaled])),
        "WAPE": float(np.mean(error)) / mean_sales,
    }


def share_below(steps: ScoredSteps, quantiles: Mapping[float, FloatArray]) -> dict[str, float]:
    """The share of steps with sales whose sales lie below each quantile, by its text (0.1).

    Of right quantiles it is the quantile itself.
    """
    sold = steps.sold > 0
    return {
        f"{level:g}": float(np.mean(steps.sold[sold] < values[sold]))
        for level, values in quantiles.items()
    }


def seasonal_naive(panel: Panel, task: FevTask, origin: int, steps: ScoredSteps) -> FloatArray:
    """The board's simplest forecaster, (n,): the last season before the origin, repeated.

    A control: with it, this module must give the published figures. Unknown sales count as the
    last known step before, and as 0 where there is none.
    """
    past = _past_steps(panel, task, origin)
    known = np.where(np.isfinite(past), np.arange(past.shape[1]), -1)
    last = np.maximum.accumulate(known, axis=1)
    filled = np.where(last >= 0, np.take_along_axis(past, np.maximum(last, 0), axis=1), 0.0)
    season = filled[:, -task.seasonality :]
    return np.asarray(season[steps.store, steps.step % task.seasonality], np.float64)
