"""Backtest: fit as of past origins and forecast the windows after them, with baselines."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import date
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from rossmann.data.panel.panel import Panel
from rossmann.epoch_days import to_date
from rossmann.errors import DataError
from rossmann.features.schedule_counts import PROMO
from rossmann.installation import shell_command
from rossmann.models.ensemble.ensemble import Ensemble
from rossmann.models.evaluation.metrics import bias, mae, mape, rmspe
from rossmann.models.members.fit import TrainingRows, fit_members
from rossmann.schema import (
    FEATURES,
    OFFSET_COLUMN,
    FeatureMatrix,
    FloatArray,
    ProgressReporter,
    StoreDays,
)
from rossmann.settings import Profile, Settings


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
    forecasts of the ensemble and of seasonal naive. They are used for the uncertainty of totals and
    to compare versions.
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
                f" `windows` in the parameters file, or: {shell_command('backtest --origins')} DAYS"
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


_MEDIAN = FEATURES.index("median_same_364")
_MAX_WEEKS_BACK: Final = 53


@dataclass(frozen=True)
class BacktestPlan:
    """Which windows to forecast.

    ``offsets``: the origins as days before the last day of history, ``days``: the windows' length;
    empty and 0 take the settings'. ``follow_ups``: how many later windows each fit forecasts too,
    up to the next newer window.
    """

    offsets: Sequence[int] = ()
    days: int = 0
    follow_ups: int = 0


_DEFAULT_PLAN: Final = BacktestPlan()


def backtest(
    settings: Settings,
    panel: Panel,
    examples: TrainingRows,
    profile: Profile,
    report: ProgressReporter,
    plan: BacktestPlan = _DEFAULT_PLAN,
) -> list[WindowForecasts]:
    """Fit as of each window's origin and forecast it, oldest first."""
    threads, history_days = settings.thread_count, settings.history_days
    outcomes = []
    examples.materialize(profile.rows)
    windows = build_windows(
        panel, plan.offsets or settings.windows, plan.days or settings.window_days, history_days
    )
    for window in windows:
        report(f"backtest from {window.origin_date}, {window.days} days")
        known = examples.known_at(window.origin)
        members = fit_members(known, profile, settings.seed, threads, report)
        ensemble = Ensemble(members, {"weights": profile.weights})
        forecasts = forecast_window(panel, window, ensemble, threads)
        follow_ups = tuple(
            WindowForecasts(
                later,
                {
                    "ensemble": ensemble.predict(later.matrix, threads),
                    "seasonal_naive": baselines(panel, later)["seasonal_naive"],
                },
            )
            for later in follow_up_windows(panel, windows, window, plan.follow_ups, history_days)
        )
        outcomes.append(WindowForecasts(window, forecasts, follow_ups))
        report(f"  RMSPE {rmspe(window.sold, forecasts['ensemble']):.4f}")
    return outcomes


def forecast_window(
    panel: Panel, window: BacktestWindow, ensemble: Ensemble, threads: int
) -> dict[str, FloatArray]:
    """Forecasts (n,) of the window's rows by the ensemble, its members and the baselines.

    Rows become sales as in serving: the panel's matrix as of the origin, then the ensemble.
    """
    factors = ensemble.log_factors(window.matrix, threads)
    offset = window.matrix[:, OFFSET_COLUMN].astype(np.float64)
    without_schedule = panel.matrix(window.rows, window.origin, planned_to=window.origin)
    return {
        "ensemble": ensemble.blend(factors, window.matrix),
        "without_schedule": ensemble.predict(without_schedule, threads),
        **{name: np.exp(offset + factor) for name, factor in factors.items()},
        **baselines(panel, window),
    }


def score_window(outcome: WindowForecasts, main: str = "ensemble") -> WindowScore:
    """RMSPE of every forecaster, and the other metrics of the ``main`` one."""
    sold, forecast = outcome.window.sold, outcome.forecasts[main]
    return WindowScore(
        origin=outcome.window.origin_date,
        days=outcome.window.days,
        rows=len(sold),
        rmspe={name: rmspe(sold, other) for name, other in outcome.forecasts.items()},
        ensemble={
            "mape": mape(sold, forecast),
            "mae": mae(sold, forecast),
            "bias": bias(sold, forecast),
        },
    )


# Baselines: forecasts that the ensemble must beat.


def baselines(panel: Panel, window: BacktestWindow) -> dict[str, FloatArray]:
    """Forecasts (n,) of seasonal naive, of the median and of the Kalman filter alone."""
    offset = window.matrix[:, OFFSET_COLUMN].astype(np.float64)
    kalman = np.exp(offset)
    median = np.exp(offset + window.matrix[:, _MEDIAN].astype(np.float64))
    naive = _seasonal_naive(panel, window)
    return {
        "seasonal_naive": np.where(np.isnan(naive), kalman, naive),
        "median": np.where(np.isnan(median), kalman, median),
        "kalman": kalman,
    }


def _seasonal_naive(panel: Panel, window: BacktestWindow) -> FloatArray:
    """The store's last sales on the same weekday with the same promotion, NaN where none."""
    stores = panel.store_indices(window.rows.store)
    day = window.rows.day.astype(np.int64) - panel.first_day
    origin = window.origin - panel.first_day
    last_same_weekday = origin - (origin - day) % 7
    naive: npt.NDArray[np.float64] = np.full(len(day), np.nan)
    for week in range(_MAX_WEEKS_BACK):
        past = last_same_weekday - 7 * week
        missing = np.isnan(naive) & (past >= 0)
        past = np.maximum(past, 0)
        same_promo = panel.arrays.cube[past, stores, PROMO] == window.rows.promo
        sold = np.exp(panel.arrays.log_sales[stores, past].astype(np.float64))
        naive = np.where(missing & same_promo, sold, naive)
    return naive
