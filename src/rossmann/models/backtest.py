"""Backtest: forecast past windows as of their origins, beside what anyone could do."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import date
from typing import Any

import numpy as np
import numpy.typing as npt

from rossmann.data.panel import Panel
from rossmann.errors import DataError
from rossmann.features import plan
from rossmann.features.calendars import to_date
from rossmann.models.ensemble import Ensemble
from rossmann.models.metrics import bias, mae, mape, rmspe
from rossmann.schema import FEATURES, OFFSET, FloatArray, Matrix, Rows

_MEDIAN = FEATURES.index("median_same_364")


@dataclass(frozen=True)
class Window:
    """The rows of one window as of its origin: days with sales, after it."""

    origin: int
    days: int
    rows: Rows
    sold: FloatArray
    matrix: Matrix

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
class Outcome:
    """A window and what each forecaster said of it: arrays (n,) by the forecaster's name.

    ``later``: the windows after this one that the same fit forecast too, from origins of their
    own; only the ensemble's forecasts, and only what totals are learned from.
    """

    window: Window
    forecasts: dict[str, FloatArray]
    later: tuple["Outcome", ...] = ()


def rolling_ends(count: int, days: int) -> tuple[int, ...]:
    """Origins as days before the last day of history: ``count`` windows, one after the other."""
    return tuple(days * (i + 1) for i in range(count))


def ends_of(panel: Panel, origins: Sequence[date]) -> tuple[int, ...]:
    """Origins as days before the last day of history; raises ``DataError`` for one not in it."""
    first, last = to_date(panel.first_day), to_date(panel.last_day)
    for origin in origins:
        if not first <= origin < last:
            raise DataError(f"an origin must be from {first} to the day before {last}: {origin}")
    return tuple((last - origin).days for origin in dict.fromkeys(origins))


def open_windows(panel: Panel, ends: Sequence[int], days: int, history_days: int) -> list[Window]:
    """The windows whose origins lie ``ends`` days before the last day of history, oldest first.

    Raises ``DataError`` where history is too short for one of them.
    """
    rows, sold = panel.past_rows()
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
        windows.append(Window(origin, days, part, sold[mine], panel.matrix(part, origin)))
    return windows


def later_windows(
    panel: Panel, windows: Sequence[Window], window: Window, count: int, history_days: int
) -> list[Window]:
    """Up to ``count`` windows right after ``window``, none of which reaches a newer one's days."""
    newer = [w.origin for w in windows if w.origin > window.origin]
    end = min([panel.last_day, *newer])
    origins = [window.origin + window.days * (i + 1) for i in range(count)]
    ends = [panel.last_day - o for o in origins if o + window.days <= end]
    return open_windows(panel, ends, window.days, history_days)


def forecast_window(
    panel: Panel, window: Window, ensemble: Ensemble, threads: int
) -> dict[str, FloatArray]:
    """What the ensemble, its members and the methods to beat say of the window's rows, (n,) each.

    The way from rows to sales is the one that serves: the panel's matrix as of the origin, then
    the ensemble.
    """
    factors = ensemble.log_factors(window.matrix, threads)
    offset = window.matrix[:, OFFSET].astype(np.float64)
    unplanned = panel.matrix(window.rows, window.origin, planned_to=window.origin)
    return {
        "ensemble": ensemble.blend(factors, window.matrix),
        "without_schedule": ensemble.predict(unplanned, threads),
        **{name: np.exp(offset + factor) for name, factor in factors.items()},
        **baselines(panel, window),
    }


def baselines(panel: Panel, window: Window) -> dict[str, FloatArray]:
    """Forecasts (n,) of the methods to beat: seasonal naive, median and the filter alone."""
    offset = window.matrix[:, OFFSET].astype(np.float64)
    kalman = np.exp(offset)
    median = np.exp(offset + window.matrix[:, _MEDIAN].astype(np.float64))
    naive = _last_same_kind(panel, window)
    return {
        "seasonal_naive": np.where(np.isnan(naive), kalman, naive),
        "median": np.where(np.isnan(median), kalman, median),
        "kalman": kalman,
    }


def _last_same_kind(panel: Panel, window: Window) -> FloatArray:
    """The store's last sales on the same weekday with the same promotion, NaN where none."""
    places = panel.locate(window.rows.store)
    day = window.rows.day.astype(np.int64) - panel.first_day
    origin = window.origin - panel.first_day
    last = origin - (origin - day) % 7
    out: npt.NDArray[np.float64] = np.full(len(day), np.nan)
    for week in range(53):
        at = last - 7 * week
        open_still = np.isnan(out) & (at >= 0)
        at = np.maximum(at, 0)
        same = panel.arrays.cube[at, places, plan.PROMO] == window.rows.promo
        sold = np.exp(panel.arrays.log_sales[places, at].astype(np.float64))
        out = np.where(open_still & same, sold, out)
    return out


def score(outcome: Outcome, main: str = "ensemble") -> WindowScore:
    """RMSPE of every forecaster, and the other measures of the main one."""
    sold, best = outcome.window.sold, outcome.forecasts[main]
    return WindowScore(
        origin=outcome.window.origin_date,
        days=outcome.window.days,
        rows=len(sold),
        rmspe={name: rmspe(sold, forecast) for name, forecast in outcome.forecasts.items()},
        ensemble={
            "mape": mape(sold, best),
            "mae": mae(sold, best),
            "bias": bias(sold, best),
        },
    )
