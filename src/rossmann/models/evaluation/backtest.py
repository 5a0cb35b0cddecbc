"""Backtest: fit as of past origins and forecast the windows after them, with baselines."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import date
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from rossmann.data.panel.panel import Panel
from rossmann.epoch_days import to_date, to_day
from rossmann.errors import DataError
from rossmann.features.schedule_counts import PROMO
from rossmann.installation import shell_command
from rossmann.models.ensemble.ensemble import BlendWeights, Ensemble
from rossmann.models.ensemble.residual_scale import IntervalInputs
from rossmann.models.evaluation.clustered_errors import find_clusters, rmspe_estimate, wape_estimate
from rossmann.models.evaluation.metrics import bias, capped_rmspe, mae, mape, rmspe, wape
from rossmann.models.members.fit import TrainingRows, fit_members
from rossmann.schema import (
    FEATURES,
    OFFSET_COLUMN,
    Dataset,
    FeatureMatrix,
    FloatArray,
    ProgressReporter,
    StoreDays,
)
from rossmann.setting_groups import Profile
from rossmann.settings import Settings


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
class MemberOutputs:
    """The members' log factors (n,) each, and the features (n, 46) that they come from."""

    matrix: FeatureMatrix
    log_factors: dict[str, FloatArray]

    @classmethod
    def of(cls, ensemble: Ensemble, matrix: FeatureMatrix, threads: int) -> "MemberOutputs":
        """The outputs of the ensemble's members."""
        return cls(matrix, ensemble.log_factors(matrix, threads))

    def blend(self, card: Mapping[str, Any]) -> FloatArray:
        """Their forecasts (n,) by the weights of a version's card."""
        return BlendWeights(card, self.log_factors).blend(self.log_factors, self.matrix)


@dataclass(frozen=True)
class WindowForecasts:
    """A window and its forecasts: arrays (n,) by the forecaster's name.

    ``members``: what the ensemble's forecasts are blended from, by the forecaster's name.
    ``age_days``: from the last day that the members learned from to the window's origin.
    ``follow_ups``: later windows that the same fit forecast too, from origins of their own; they
    are used for calibration and to compare versions. ``next_fit``: the window of the next newer
    fit, forecast by this one: it shows what age costs.
    """

    window: BacktestWindow
    forecasts: dict[str, FloatArray]
    members: dict[str, MemberOutputs] = field(default_factory=dict)
    age_days: int = 0
    follow_ups: tuple["WindowForecasts", ...] = ()
    next_fit: "WindowForecasts | None" = None

    @property
    def interval_inputs(self) -> IntervalInputs:
        """What the scale of the ensemble's prediction intervals depends on."""
        return IntervalInputs(self.window.matrix, self.window.rows.day, self.forecasts["ensemble"])


def with_follow_ups(outcomes: Sequence[WindowForecasts]) -> list[WindowForecasts]:
    """All windows, each followed by the later ones that its fit forecast too."""
    return [window for outcome in outcomes for window in (outcome, *outcome.follow_ups)]


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


def offsets_to_choose_by(
    settings: Settings, panel: Panel, offsets: Sequence[int], report: ProgressReporter
) -> tuple[int, ...]:
    """Offsets of windows that a choice may be made by, oldest first; empty takes the settings'.

    Windows that overlap one of ``reserved_origins`` are left out and reported: they stay unseen,
    so that they can judge what was chosen. Raises ``DataError`` where none is left.
    """
    is_real = panel.info.dataset is Dataset.REAL  # of the demo chain nothing is learned
    reserved = [to_day(origin) for origin in settings.reserved_origins] if is_real else []
    days = settings.window_days
    kept, left_out = list[int](), list[str]()
    for offset in sorted(set(offsets or settings.windows), reverse=True):
        origin = panel.last_day - offset
        if all(abs(origin - reserved_origin) >= days for reserved_origin in reserved):
            kept.append(offset)
        else:
            left_out.append(str(to_date(origin)))
    if not kept:
        raise DataError(
            "all windows are reserved (`reserved_origins` in the parameters file): no choice may"
            " look at them. Name others with --origins"
        )
    if left_out:
        report(f"left out, as the windows overlap a reserved one: {', '.join(left_out)}")
    return tuple(kept)


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
    """Up to ``count`` windows between ``window`` and the next newer one, which has its own fit.

    Their origins are evenly spaced, by a window's length as nearly as the gap allows: they overlap
    by some days at most. After the newest window they go on to the last day of history.
    """
    newer = [w.origin for w in windows if w.origin > window.origin]
    gap = min(newer, default=panel.last_day - window.days) - window.origin
    steps = round(gap / window.days) if 3 * gap >= 2 * window.days else 0
    last = steps if newer else steps + 1
    origins = [window.origin + round(gap * i / steps) for i in range(1, last)][:count]
    return build_windows(panel, [panel.last_day - o for o in origins], window.days, history_days)


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
    windows = build_windows(
        panel, plan.offsets or settings.windows, plan.days or settings.window_days, history_days
    )
    for window in windows:
        report(f"backtest from {window.origin_date}, {window.days} days")
        known = examples.known_at(window.origin)
        members = fit_members(known, profile, settings.seed, threads, report)
        ensemble = Ensemble(members, {"weights": profile.weights})
        outcome = forecast_window(panel, window, ensemble, threads)
        report(f"  RMSPE {rmspe(window.sold, outcome.forecasts['ensemble']):.4f}")
        later = follow_up_windows(panel, windows, window, plan.follow_ups, history_days)
        newer = [w for w in windows if w.origin > window.origin][:1] if plan.follow_ups else []
        aged = [
            forecast_window(panel, w, ensemble, threads, w.origin - window.origin)
            for w in (*later, *newer)
        ]
        next_fit = aged[-1] if newer else None
        outcomes.append(replace(outcome, follow_ups=tuple(aged[: len(later)]), next_fit=next_fit))
    return outcomes


def forecast_window(
    panel: Panel, window: BacktestWindow, ensemble: Ensemble, threads: int, age_days: int = 0
) -> WindowForecasts:
    """Forecasts of the window's rows by the ensemble, its members and the baselines.

    Rows become sales as in serving: the panel's matrix as of the origin, then the ensemble.
    """
    members = {
        name: MemberOutputs.of(ensemble, matrix, threads)
        for name, matrix in blended_matrices(panel, window).items()
    }
    return blend_members(panel, window, members, ensemble.card, age_days)


def blended_matrices(panel: Panel, window: BacktestWindow) -> dict[str, FeatureMatrix]:
    """The features (n, 46) that each blended forecaster is made from, by its name."""
    without_schedule = panel.matrix(window.rows, window.origin, planned_to=window.origin)
    return {"ensemble": window.matrix, "without_schedule": without_schedule}


def blend_members(
    panel: Panel,
    window: BacktestWindow,
    members: dict[str, MemberOutputs],
    card: Mapping[str, Any],
    age_days: int = 0,
) -> WindowForecasts:
    """Forecasts of the window's rows from what the members gave, by the weights of a card.

    ``members``: for each of ``blended_matrices``.
    """
    offset = window.matrix[:, OFFSET_COLUMN].astype(np.float64)
    factors = members["ensemble"].log_factors
    forecasts = {
        **{name: outputs.blend(card) for name, outputs in members.items()},
        **{name: np.exp(offset + factor) for name, factor in factors.items()},
        **baselines(panel, window),
    }
    return WindowForecasts(window, forecasts, members, age_days)


def score_window(outcome: WindowForecasts, main: str = "ensemble") -> WindowScore:
    """RMSPE of every forecaster, and the other metrics of the ``main`` one."""
    sold, forecast = outcome.window.sold, outcome.forecasts[main]
    clusters = find_clusters(outcome.window.rows.store, outcome.window.rows.day)
    errors = [f(sold, forecast, clusters).error for f in (wape_estimate, rmspe_estimate)]
    return WindowScore(
        origin=outcome.window.origin_date,
        days=outcome.window.days,
        rows=len(sold),
        rmspe={name: rmspe(sold, other) for name, other in outcome.forecasts.items()},
        ensemble={
            "wape": wape(sold, forecast),
            "wape_error": errors[0],
            "rmspe_error": errors[1],
            "capped_rmspe": capped_rmspe(sold, forecast),
            "mape": mape(sold, forecast),
            "mae": mae(sold, forecast),
            "bias": bias(sold, forecast),
        },
    )


def measure_age(outcome: WindowForecasts) -> dict[str, Any]:
    """The window of the next fit, forecast by this older one, as JSON: what age costs.

    Raises ``ValueError`` where no newer fit exists.
    """
    if outcome.next_fit is None:
        raise ValueError("there is no newer fit")
    window, forecast = outcome.next_fit.window, outcome.next_fit.forecasts["ensemble"]
    return {
        "origin": window.origin_date.isoformat(),
        "age_days": outcome.next_fit.age_days,
        "wape": wape(window.sold, forecast),
        "bias": bias(window.sold, forecast),
    }


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
