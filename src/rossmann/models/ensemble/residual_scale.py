"""The scale of prediction intervals: the root mean square log residual that a row must expect.

A log-linear function of the row's own features, date and forecast, so that no interval depends on
other rows. Its coefficients are a gamma regression on the residuals of backtest windows. Where
windows have too few rows, for new stores and long horizons, the factors are fixed rules.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from rossmann.schema import FEATURES, MAX_HORIZON, OFFSET_COLUMN, FeatureMatrix, FloatArray

_VOLATILITY: Final = FEATURES.index("sd_same_364")
_WEEKDAY: Final = FEATURES.index("day_of_week")
_EASTER: Final = FEATURES.index("days_from_easter")
_TO_HOLIDAY: Final = FEATURES.index("days_to_holiday")
_REOPENED: Final = FEATURES.index("days_since_long_closure")
_HORIZON: Final = FEATURES.index("horizon")
_KNOWN_DAYS: Final = FEATURES.index("open_days_365")
_SCHEDULED: Final = FEATURES.index("days_since_promo")
_VOLATILITIES: Final = (0.06, 0.14, 0.5)
"""Lowest, middle and highest volatility: others are clipped to these."""
_REOPENED_DAYS: Final = 30
_JUST_REOPENED_DAYS: Final = 7
_REOPENING: Final = 1.3
"""How much wider intervals of the first week are before their term is fitted: windows have some
hundred such rows, and differ."""
_CHRISTMAS_EXTRA: Final = 0.25
"""Added to the event term from 1 December to 5 January, and again from 20 December on."""
_MAX_CORRECTION: Final = 0.5
_NEW_STORE: Final = 16.0
_LEARNED_PER_DAY: Final = 0.67
"""The level of a store without history has four times the standard deviation of a known store's
days (variance 16); after seven days with sales it is twice."""
LONG_HORIZON: Final = 0.12
"""How much wider intervals are ``_LONG_HORIZON_DAYS`` after the longest horizon, and later."""
_LONG_HORIZON_DAYS: Final = 160
_OUTLIER: Final = 0.995
_RIDGE: Final = 1e-4
_RIDGE_ROWS: Final = 10_000
"""The ridge counts at least this many rows: from fewer, the slopes would fit noise."""
_STEPS: Final = 20
_SUNDAY: Final = 7
_TINY: Final = 1e-12

EVENT_SEASONS: Final = {"Christmas": 36, "Easter": 8}
"""Seasons whose days are forecast worst, and their days: 1 December to 5 January; Monday before
Easter to Easter Monday."""


@dataclass(frozen=True)
class IntervalInputs:
    """What the scale of n rows depends on.

    ``matrix``: their features (n, features); ``day``: their epoch days (n,); ``forecast``: the
    forecast sales (n,).
    """

    matrix: FeatureMatrix
    day: npt.NDArray[np.integer]
    forecast: FloatArray

    def feature(self, column: int) -> FloatArray:
        """A column of the matrix, (n,)."""
        return self.matrix[:, column].astype(np.float64)


def residual_scale(table: dict[str, Any], rows: IntervalInputs) -> FloatArray:
    """The expected root mean square log residual of each row, (n,), by a version's ``table``."""
    # Column by column: a product of matrices adds in an order that depends on the number of rows.
    terms = zip(table["coefficients"], _terms(table, rows), strict=True)
    scale = np.exp(sum(coefficient * term for coefficient, term in terms))
    known = np.nan_to_num(rows.feature(_KNOWN_DAYS))
    new_store = np.sqrt(1.0 + _NEW_STORE / (1.0 + _LEARNED_PER_DAY * known))
    widened = np.where(np.isnan(rows.matrix[:, _SCHEDULED]), table["unplanned"], 1.0)
    scale = scale * new_store * widened
    if "just_reopened" in table["terms"]:
        scale = scale * np.where(rows.matrix[:, _REOPENED] <= _JUST_REOPENED_DAYS, _REOPENING, 1.0)
    if "long_horizon" in table:  # tables of earlier releases have none
        beyond = np.clip((rows.feature(_HORIZON) - MAX_HORIZON) / _LONG_HORIZON_DAYS, 0.0, 1.0)
        scale = scale * (1.0 + table["long_horizon"] * beyond)
    return np.asarray(scale, np.float64)


def fit_scale(table: dict[str, Any], rows: IntervalInputs, residual: FloatArray) -> FloatArray:
    """Coefficients (terms,) of the scale of absolute log residuals (n,): a gamma regression.

    ``table`` gives the names of the terms; its coefficients are not used.
    """
    without_terms = {**table, "coefficients": [0.0] * len(table["terms"])}
    terms = np.column_stack(_terms(table, rows))
    residual = residual / residual_scale(without_terms, rows)
    residual = np.minimum(residual, np.quantile(residual, _OUTLIER))
    out = np.zeros(terms.shape[1])
    out[0] = np.log(max(float(residual.mean()), _TINY))
    ridge = _RIDGE * max(len(residual), _RIDGE_ROWS) * np.diag([0.0, *[1.0] * (len(out) - 1)])
    information = terms.T @ terms + ridge
    for _ in range(_STEPS):
        mean = np.exp(terms @ out)
        slope = terms.T @ (residual / mean - 1.0) - ridge @ out
        out = out + np.linalg.solve(information, slope)
    # scaled residuals get a root mean square of 1: totals add up variances
    scaled = residual / np.exp(terms @ out)
    scaled = np.minimum(scaled, np.quantile(scaled, _OUTLIER))
    out[0] += 0.5 * np.log(max(float(np.mean(scaled**2)), _TINY))
    return out


def unknown_volatility(matrix: FeatureMatrix) -> float:
    """The volatility assumed for a store too new to have one: the 90% quantile of the others'."""
    known = known_volatilities(matrix)
    return float(np.quantile(known, 0.9)) if len(known) else _VOLATILITIES[-1]


def known_volatilities(matrix: FeatureMatrix) -> FeatureMatrix:
    """The volatilities of the rows whose stores have one."""
    volatility = matrix[:, _VOLATILITY]
    return volatility[np.isfinite(volatility)]


def event_season(
    day: npt.NDArray[np.integer], days_from_easter: npt.NDArray[Any]
) -> npt.NDArray[np.int64]:
    """Index in ``EVENT_SEASONS`` of the season that each day lies in, (n,); -1 in none."""
    christmas = _is_in_winter(day, 1_201, 105)
    easter = (days_from_easter >= -6) & (days_from_easter <= 1)
    return np.where(christmas, 0, np.where(easter, 1, -1))


def count_seasons(rows: IntervalInputs) -> dict[str, int]:
    """In how many years the rows hold at least half of each season's days."""
    season = event_season(rows.day, rows.matrix[:, _EASTER])
    # from July to June, so that January counts with the December before it
    year = (rows.day.astype("datetime64[D]") + 184).astype("datetime64[Y]").astype(np.int64)
    counts = {}
    for index, (name, days) in enumerate(EVENT_SEASONS.items()):
        known = np.unique(np.column_stack([year, rows.day])[season == index], axis=0)
        _, held = np.unique(known[:, 0], return_counts=True)
        counts[name] = int((held >= days / 2).sum())
    return counts


def _volatility(table: dict[str, Any], rows: IntervalInputs) -> FloatArray:
    low, middle, high = _VOLATILITIES
    sd = rows.feature(_VOLATILITY)
    sd = np.where(np.isnan(sd), table["unknown_volatility"], sd)
    return np.asarray(np.log(np.clip(sd, low, high) / middle), np.float64)


def _event(table: dict[str, Any], rows: IntervalInputs) -> FloatArray:
    """1 in seasons and on the day before a holiday, more at Christmas and most around New Year.

    The days were chosen after all windows were seen (docs/explanations/intervals.md).
    """
    season = event_season(rows.day, rows.matrix[:, _EASTER])
    is_event = (season >= 0) | (rows.matrix[:, _TO_HOLIDAY] <= 1)
    around_new_year = _is_in_winter(rows.day, 1_220, 105)
    extra = _CHRISTMAS_EXTRA * (_indicator(season == 0) + _indicator(around_new_year))
    return np.asarray(_indicator(is_event) + extra, np.float64)


def _correction(table: dict[str, Any], rows: IntervalInputs) -> FloatArray:
    """How far the members move the Kalman filter's forecast, as a log, up to a limit."""
    moved = np.log(np.maximum(rows.forecast, _TINY)) - rows.feature(OFFSET_COLUMN)
    return np.asarray(np.minimum(np.abs(moved), _MAX_CORRECTION), np.float64)


def _indicator(rows: npt.NDArray[np.bool_]) -> FloatArray:
    return rows.astype(np.float64)


_Term = Callable[[dict[str, Any], IntervalInputs], FloatArray]
_TERMS: Final[dict[str, _Term]] = {
    "constant": lambda table, rows: np.ones(len(rows.matrix)),
    "volatility": _volatility,
    "high_volatility": lambda table, rows: np.maximum(_volatility(table, rows), 0.0),
    "sunday": lambda table, rows: _indicator(rows.matrix[:, _WEEKDAY] == _SUNDAY),
    "reopened": lambda table, rows: _indicator(rows.matrix[:, _REOPENED] < _REOPENED_DAYS),
    "just_reopened": lambda table, rows: _indicator(
        rows.matrix[:, _REOPENED] <= _JUST_REOPENED_DAYS
    ),
    "event": _event,
    "correction": _correction,
}
TERMS: Final = tuple(_TERMS)
"""Terms of the scale. Tables of earlier releases have the first five."""


def _terms(table: dict[str, Any], rows: IntervalInputs) -> list[FloatArray]:
    """The terms of the table's scale, (n,) each."""
    return [_TERMS[name](table, rows) for name in table["terms"]]


def _is_in_winter(day: npt.NDArray[np.integer], first: int, last: int) -> npt.NDArray[np.bool_]:
    """Days from ``first`` of one year to ``last`` of the next, both as month * 100 + day."""
    if not len(day):
        return np.zeros(0, np.bool_)
    # rows share few days: the calendar is asked once for each day between the first and the last
    earliest = int(day.min())
    date = np.arange(earliest, int(day.max()) + 1).astype("datetime64[D]")
    month = date.astype("datetime64[M]")
    of_month = (date - month).astype(np.int64) + 1
    code = 100 * (month.astype(np.int64) % 12 + 1) + of_month
    in_winter = (code >= first) | (code <= last)
    return np.asarray(in_winter[day.astype(np.int64) - earliest])
