"""Backtest: fit as of past origins, forecast the windows after them, beside baselines."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from rossmann.data.panel.panel import Panel
from rossmann.features import schedule_counts as plan
from rossmann.models.ensemble.ensemble import Ensemble
from rossmann.models.evaluation.metrics import bias, mae, mape, rmspe
from rossmann.models.evaluation.windows import (
    BacktestWindow,
    WindowForecasts,
    WindowScore,
    build_windows,
    follow_up_windows,
)
from rossmann.models.members.fit import TrainingRows, fit_members
from rossmann.schema import FEATURES, OFFSET_COLUMN, FloatArray, ProgressReporter
from rossmann.settings import Profile, Settings

_MEDIAN = FEATURES.index("median_same_364")


def forecast_window(
    panel: Panel, window: BacktestWindow, ensemble: Ensemble, threads: int
) -> dict[str, FloatArray]:
    """What the ensemble, its members and the methods to beat say of the window's rows, (n,) each.

    The way from rows to sales is the one that serves: the panel's matrix as of the origin, then
    the ensemble.
    """
    factors = ensemble.log_factors(window.matrix, threads)
    offset = window.matrix[:, OFFSET_COLUMN].astype(np.float64)
    unplanned = panel.matrix(window.rows, window.origin, planned_to=window.origin)
    return {
        "ensemble": ensemble.blend(factors, window.matrix),
        "without_schedule": ensemble.predict(unplanned, threads),
        **{name: np.exp(offset + factor) for name, factor in factors.items()},
        **baselines(panel, window),
    }


def baselines(panel: Panel, window: BacktestWindow) -> dict[str, FloatArray]:
    """Forecasts (n,) of the methods to beat: seasonal naive, median and the filter alone."""
    offset = window.matrix[:, OFFSET_COLUMN].astype(np.float64)
    kalman = np.exp(offset)
    median = np.exp(offset + window.matrix[:, _MEDIAN].astype(np.float64))
    naive = _last_same_kind(panel, window)
    return {
        "seasonal_naive": np.where(np.isnan(naive), kalman, naive),
        "median": np.where(np.isnan(median), kalman, median),
        "kalman": kalman,
    }


def _last_same_kind(panel: Panel, window: BacktestWindow) -> FloatArray:
    """The store's last sales on the same weekday with the same promotion, NaN where none."""
    places = panel.store_indices(window.rows.store)
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


def score_window(outcome: WindowForecasts, main: str = "ensemble") -> WindowScore:
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


def backtest(
    settings: Settings,
    panel: Panel,
    examples: TrainingRows,
    profile: Profile,
    report: ProgressReporter,
    ends: Sequence[int] = (),
    days: int = 0,
    later: int = 0,
) -> list[WindowForecasts]:
    """Fit as of each window's origin and forecast it, oldest first.

    ``ends``: the origins as days before the last day of history, ``days``: the windows' length;
    empty and 0 take the settings'. ``later``: windows that each fit forecasts after its own, as
    far as no newer fit saw them.
    """
    outcomes = []
    examples.materialize(profile.rows)
    windows = build_windows(
        panel, ends or settings.windows, days or settings.window_days, settings.history_days
    )
    for window in windows:
        report(f"backtest from {window.origin_date}, {window.days} days")
        members = fit_members(
            examples.known_at(window.origin), profile, settings.seed, settings.thread_count, report
        )
        ensemble = Ensemble(members, {"weights": profile.weights})
        found = forecast_window(panel, window, ensemble, settings.thread_count)
        after = follow_up_windows(panel, windows, window, later, settings.history_days)
        outcomes.append(
            WindowForecasts(
                window,
                found,
                tuple(
                    WindowForecasts(
                        w, {"ensemble": ensemble.predict(w.matrix, settings.thread_count)}
                    )
                    for w in after
                ),
            )
        )
        report(f"  RMSPE {rmspe(window.sold, found['ensemble']):.4f}")
    return outcomes
