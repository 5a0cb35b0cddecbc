"""Backtest: forecast past windows as of their origins, beside what anyone could do."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import date
from typing import Any

import numpy as np

from rossmann.data.panel.panel import Panel
from rossmann.epoch_days import to_date
from rossmann.errors import DataError
from rossmann.schema import FeatureMatrix, FloatArray, StoreDays


@dataclass(frozen=True)
class BacktestWindow:
    """The rows of one window as of its origin: days with sales, after it."""

    origin: int
    days: int
    rows: StoreDays
    sold: FloatArray
    matrix: FeatureMatrix

    @property
    def origin_date(self) -> date:
        """The last day whose sales the window's forecasts may use."""
        return to_date(self.origin)


@dataclass(frozen=True)
class WindowScore:
    """A window's errors: RMSPE by forecaster, and more of the ensemble's."""

    origin: date
    days: int
    rows: int
    rmspe: dict[str, float]
    ensemble: dict[str, float] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "origin": self.origin.isoformat()}


@dataclass(frozen=True)
class WindowForecasts:
    """A window and what each forecaster said of it: arrays (n,) by the forecaster's name.

    ``later``: the windows after this one that the same fit forecast too, from origins of their
    own; only the ensemble's forecasts, and only what totals are learned from.
    """

    window: BacktestWindow
    forecasts: dict[str, FloatArray]
    follow_ups: tuple["WindowForecasts", ...] = ()


def rolling_offsets(count: int, days: int) -> tuple[int, ...]:
    """Origins as days before the last day of history: ``count`` windows, one after the other."""
    return tuple(days * (i + 1) for i in range(count))


def origins_to_offsets(panel: Panel, origins: Sequence[date]) -> tuple[int, ...]:
    """Origins as days before the last day of history; raises ``DataError`` for one not in it."""
    first, last = to_date(panel.first_day), to_date(panel.last_day)
    for origin in origins:
        if not first <= origin < last:
            raise DataError(f"an origin must be from {first} to the day before {last}: {origin}")
    return tuple((last - origin).days for origin in dict.fromkeys(origins))


def build_windows(
    panel: Panel, ends: Sequence[int], days: int, history_days: int
) -> list[BacktestWindow]:
    """The windows whose origins lie ``ends`` days before the last day of history, oldest first.

    Raises ``DataError`` where history is too short for one of them.
    """
    rows, sold = panel.sales_rows()
    windows = []
    for back in sorted(ends, reverse=True):
        origin = panel.last_day - back
        if origin - panel.first_day < 2 * history_days:
            raise DataError(
                f"a backtest window {back} days before the end needs more history: it begins on "
                f"{to_date(panel.first_day)}. Set `windows` in the parameters file to fewer days"
            )
        mine = np.nonzero((rows.day > origin) & (rows.day <= origin + days))[0]
        if not len(mine):
            raise DataError(
                f"no sales are known in the {days} days after {to_date(origin)}. Choose other days:"
                " `windows` in the parameters file, or `rossmann backtest --origins`"
            )
        part = rows.take(mine)
        windows.append(BacktestWindow(origin, days, part, sold[mine], panel.matrix(part, origin)))
    return windows


def follow_up_windows(
    panel: Panel,
    windows: Sequence[BacktestWindow],
    window: BacktestWindow,
    count: int,
    history_days: int,
) -> list[BacktestWindow]:
    """Up to ``count`` windows right after ``window``, none of which reaches a newer one's days."""
    newer = [w.origin for w in windows if w.origin > window.origin]
    end = min([panel.last_day, *newer])
    origins = [window.origin + window.days * (i + 1) for i in range(count)]
    ends = [panel.last_day - o for o in origins if o + window.days <= end]
    return build_windows(panel, ends, window.days, history_days)
