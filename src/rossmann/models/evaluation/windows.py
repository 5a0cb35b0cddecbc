"""Backtest windows: rows after a past origin, with features as of that origin."""

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
    """Rows with sales (n,) in the ``days`` after ``origin`` (days since 1970-01-01).

    ``sold``: their sales (n,); ``matrix``: their features (n, features) as of the origin.
    """

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
    """A window's errors: RMSPE by forecaster, and further metrics of the ensemble."""

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
    """A window and its forecasts: arrays (n,) by the forecaster's name.

    ``follow_ups``: later windows that the same fit forecast too, from origins of their own; with
    the ensemble's forecasts only, and used only to fit the uncertainty of totals.
    """

    window: BacktestWindow
    forecasts: dict[str, FloatArray]
    follow_ups: tuple["WindowForecasts", ...] = ()


def rolling_offsets(count: int, days: int) -> tuple[int, ...]:
    """Offsets of ``count`` windows of ``days`` days, one after the other up to the last day.

    An offset is an origin as days before the last day of history.
    """
    return tuple(days * (i + 1) for i in range(count))


def origins_to_offsets(panel: Panel, origins: Sequence[date]) -> tuple[int, ...]:
    """Origins as days before the last day of history; raises ``DataError`` for one not in it."""
    first, last = to_date(panel.first_day), to_date(panel.last_day)
    for origin in origins:
        if not first <= origin < last:
            raise DataError(f"an origin must be from {first} to the day before {last}: {origin}")
    return tuple((last - origin).days for origin in dict.fromkeys(origins))


def build_windows(
    panel: Panel, offsets: Sequence[int], days: int, history_days: int
) -> list[BacktestWindow]:
    """The windows whose origins lie ``offsets`` days before the last day of history, oldest first.

    Raises ``DataError`` where history is too short for one of them.
    """
    rows, sold = panel.sales_rows()
    windows = []
    for offset in sorted(offsets, reverse=True):
        origin = panel.last_day - offset
        if origin - panel.first_day < 2 * history_days:
            raise DataError(
                f"a backtest window {offset} days before the end needs more history: it begins on "
                f"{to_date(panel.first_day)}. Set `windows` in the parameters file to fewer days"
            )
        inside = np.nonzero((rows.day > origin) & (rows.day <= origin + days))[0]
        if not len(inside):
            raise DataError(
                f"no sales are known in the {days} days after {to_date(origin)}. Choose other days:"
                " `windows` in the parameters file, or `rossmann backtest --origins`"
            )
        part = rows.take(inside)
        windows.append(BacktestWindow(origin, days, part, sold[inside], panel.matrix(part, origin)))
    return windows


def follow_up_windows(
    panel: Panel,
    windows: Sequence[BacktestWindow],
    window: BacktestWindow,
    count: int,
    history_days: int,
) -> list[BacktestWindow]:
    """Up to ``count`` windows right after ``window`` that end before the next newer window."""
    newer = [w.origin for w in windows if w.origin > window.origin]
    end = min([panel.last_day, *newer])
    origins = [window.origin + window.days * (i + 1) for i in range(count)]
    offsets = [panel.last_day - o for o in origins if o + window.days <= end]
    return build_windows(panel, offsets, window.days, history_days)
