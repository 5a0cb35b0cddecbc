"""Split-conformal prediction intervals on log residuals divided by a scale of each row.

Residuals come from backtest windows that the members were not fitted on (Vovk et al.,
*Algorithmic Learning in a Random World*; the split form after Lei et al. 2018, who also divide by
a scale). The variance of stores and days differs, so each residual is divided by the expected one
(``residual_scale``); one set of quantiles of the scaled residuals serves every row. The scale is a
log-linear function of the row's own features: no interval depends on other rows.
"""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from rossmann.errors import CorruptModelError
from rossmann.installation import shell_command
from rossmann.schema import FEATURES, FeatureMatrix, FloatArray

LEVELS: Final = tuple(np.round(np.arange(0.50, 0.9901, 0.01), 2).tolist())
METHOD: Final = "scaled conformal"
TERMS: Final = ("constant", "volatility", "high_volatility", "sunday", "reopened")
"""Terms of the log-linear scale."""
_VOLATILITY: Final = FEATURES.index("sd_same_364")
_WEEKDAY: Final = FEATURES.index("day_of_week")
_REOPENED: Final = FEATURES.index("days_since_long_closure")
_KNOWN_DAYS: Final = FEATURES.index("open_days_365")
_SCHEDULED: Final = FEATURES.index("days_since_promo")
_VOLATILITIES: Final = (0.06, 0.14, 0.5)
"""Lowest, middle and highest volatility: others are clipped to these."""
_REOPENED_DAYS: Final = 30
_NEW_STORE: Final = 16.0
_LEARNED_PER_DAY: Final = 0.67
"""The level of a store without history has four times the standard deviation of a known store's
days (variance 16); after seven days with sales it is twice."""
_WIDENED_AT: Final = 0.8
_OUTLIER: Final = 0.995
_RIDGE: Final = 1e-3
_RIDGE_ROWS: Final = 1_000
"""The ridge counts at least this many rows: from fewer, five slopes would fit noise."""
_STEPS: Final = 20
_SUNDAY: Final = 7
_TINY: Final = 1e-12


def calibrate(
    matrix: FeatureMatrix,
    sales: FloatArray,
    forecast: FloatArray,
    unplanned: FloatArray | None = None,
) -> dict[str, Any]:
    """The table, as JSON, from rows (n,) that the forecast's members were not fitted on.

    ``unplanned``: the same members' forecasts without a schedule, from which follows how much
    wider the intervals of rows without one must be.
    """
    residual = np.abs(np.log(sales) - np.log(forecast))
    table: dict[str, Any] = {
        "method": METHOD,
        "levels": list(LEVELS),
        "terms": list(TERMS),
        "unknown_volatility": _unknown_volatility(matrix),
        "coefficients": [0.0] * len(TERMS),
        "unplanned": 1.0,
        "rows": len(sales),
    }
    base = residual_scale(table, matrix)
    fitted = _fit_scale(_terms(table, matrix), residual / base)
    table["coefficients"] = fitted.tolist()
    scaled = residual / residual_scale(table, matrix)
    scaled = np.minimum(scaled, np.quantile(scaled, _OUTLIER))
    # scaled residuals get a root mean square of 1: totals add up variances
    fitted[0] += 0.5 * np.log(max(float(np.mean(scaled**2)), _TINY))
    table["coefficients"] = fitted.tolist()
    scale = residual_scale(table, matrix)
    table["quantiles"] = conformal_quantiles(residual / scale, LEVELS).tolist()
    if unplanned is not None:
        unscheduled = np.abs(np.log(sales) - np.log(unplanned))
        known, unknown = (np.quantile(r / scale, _WIDENED_AT) for r in (residual, unscheduled))
        table["unplanned"] = float(max(unknown / max(known, _TINY), 1.0))
    return table


def conformal_quantiles(scores: FloatArray, levels: Sequence[float]) -> FloatArray:
    """The conformal quantile of each level, (levels,): the ceil((n + 1) level)-th of n scores."""
    share = np.minimum(np.ceil((len(scores) + 1) * np.array(levels)) / len(scores), 1.0)
    return np.asarray(np.quantile(scores, share, method="inverted_cdf"), np.float64)


def validate_table(table: Any) -> None:
    """Raises ``CorruptModelError`` for a table of another method than this release reads."""
    if not isinstance(table, dict) or table.get("method") != METHOD:
        raise CorruptModelError(
            "the version's interval table was made by another release: train a new version with"
            f" {shell_command('train')}, or run the release that made it"
        )
    if table.get("terms") != list(TERMS) or len(table["quantiles"]) != len(table["levels"]):
        raise CorruptModelError("the version's interval table is damaged: train a new version")


def interval_bounds(
    table: dict[str, Any], matrix: FeatureMatrix, sales: FloatArray, levels: Sequence[float]
) -> list[tuple[FloatArray, FloatArray]]:
    """Lower and upper bound (n,) for each level between .5 and .99, interpolated in the table.

    Raises ``ValueError`` for a level outside, ``CorruptModelError`` for a table of another release.
    """
    validate_table(table)
    scale = residual_scale(table, matrix)
    out = []
    for level in levels:
        width = conformal_quantile(table, level) * scale
        out.append((sales * np.exp(-width), sales * np.exp(width)))
    return out


def conformal_quantile(table: dict[str, Any], level: float) -> float:
    """Half width of a level's interval in scales; raises ``ValueError`` outside .5 to .99."""
    if not LEVELS[0] <= level <= LEVELS[-1]:
        raise ValueError(f"an interval's level must lie between .5 and .99 (got {level})")
    return float(np.interp(level, table["levels"], table["quantiles"]))


def residual_scale(table: dict[str, Any], matrix: FeatureMatrix) -> FloatArray:
    """The expected root mean square log residual of each row (n,)."""
    # Column by column: a product of matrices adds in an order that depends on the number of rows.
    terms = _terms(table, matrix).T
    scale = np.exp(
        sum(
            coefficient * term
            for coefficient, term in zip(table["coefficients"], terms, strict=True)
        )
    )
    known = np.nan_to_num(matrix[:, _KNOWN_DAYS].astype(np.float64))
    new_store = np.sqrt(1.0 + _NEW_STORE / (1.0 + _LEARNED_PER_DAY * known))
    widened = np.where(np.isnan(matrix[:, _SCHEDULED]), table["unplanned"], 1.0)
    return np.asarray(scale * new_store * widened, np.float64)


def volatility_cuts(matrix: FeatureMatrix) -> FloatArray:
    """The cuts between the terciles of volatility, (2,)."""
    known = _known_volatilities(matrix)
    return np.quantile(known, [1 / 3, 2 / 3]) if len(known) else np.array([0.1, 0.2])


def terciles(matrix: FeatureMatrix, cuts: FloatArray) -> npt.NDArray[np.int64]:
    """Each row's tercile (n,), 0 to 2; a store too new to have a volatility counts as volatile."""
    sd = matrix[:, _VOLATILITY]
    return np.searchsorted(cuts, np.where(np.isnan(sd), np.float32(np.inf), sd))


def _known_volatilities(matrix: FeatureMatrix) -> FeatureMatrix:
    volatility = matrix[:, _VOLATILITY]
    return volatility[np.isfinite(volatility)]


def _unknown_volatility(matrix: FeatureMatrix) -> float:
    """The volatility assumed for a store too new to have one: the 90% quantile."""
    known = _known_volatilities(matrix)
    return float(np.quantile(known, 0.9)) if len(known) else _VOLATILITIES[-1]


def _terms(table: dict[str, Any], matrix: FeatureMatrix) -> FloatArray:
    """The terms of the scale, (n, terms)."""
    low, middle, high = _VOLATILITIES
    sd = matrix[:, _VOLATILITY].astype(np.float64)
    sd = np.where(np.isnan(sd), table["unknown_volatility"], sd)
    volatility = np.log(np.clip(sd, low, high) / middle)
    return np.column_stack(
        [
            np.ones(len(matrix)),
            volatility,
            np.maximum(volatility, 0.0),
            matrix[:, _WEEKDAY] == _SUNDAY,
            matrix[:, _REOPENED] < _REOPENED_DAYS,
        ]
    )


def _fit_scale(terms: FloatArray, residual: FloatArray) -> FloatArray:
    """Coefficients (terms,) of the log of the mean absolute residual: a gamma regression."""
    residual = np.minimum(residual, np.quantile(residual, _OUTLIER))
    rows = len(residual)
    out = np.zeros(terms.shape[1])
    out[0] = np.log(max(float(residual.mean()), _TINY))
    ridge = _RIDGE * max(rows, _RIDGE_ROWS) * np.diag([0.0, *[1.0] * (len(out) - 1)])
    information = terms.T @ terms + ridge
    for _ in range(_STEPS):
        mean = np.exp(terms @ out)
        slope = terms.T @ (residual / mean - 1.0) - ridge @ out
        out = out + np.linalg.solve(information, slope)
    return out
