"""Prediction intervals: split-conformal on log residuals over a scale that knows the row.

Residuals come from backtest windows that the members did not see (Vovk et al., *Algorithmic
Learning in a Random World*; the split form after Lei et al. 2018, who also divide by a scale).
Stores and days differ in how steady they are, so each residual is divided by what the row lets
expect (``row_scale``); the quantiles of what is left serve every row. The scale is a smooth,
log-linear function of the row's own features: no band depends on the rows beside it.
"""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from rossmann.errors import CorruptModelError
from rossmann.schema import FEATURES, FeatureMatrix, FloatArray

LEVELS: Final = tuple(np.round(np.arange(0.50, 0.9901, 0.01), 2).tolist())
METHOD: Final = "scaled conformal"
TERMS: Final = ("constant", "volatility", "high_volatility", "sunday", "reopened")
"""What the scale is log-linear in."""
_VOLATILITY: Final = FEATURES.index("sd_same_364")
_WEEKDAY: Final = FEATURES.index("day_of_week")
_REOPENED: Final = FEATURES.index("days_since_long_closure")
_KNOWN_DAYS: Final = FEATURES.index("open_days_365")
_PLAN: Final = FEATURES.index("days_since_promo")
_VOLATILITIES: Final = (0.06, 0.14, 0.5)
"""Lowest, middle and highest volatility that the scale tells apart."""
_REOPENED_DAYS: Final = 30
_NEW_STORE: Final = 16.0
_LEARNED_PER_DAY: Final = 0.67
"""A store of which nothing is known is off by its level, which scatters four times as far as a
known store's days (variance 16); seven days with sales take most of that away (to twice)."""
_WIDENED_AT: Final = 0.8
_OUTLIER: Final = 0.995
_RIDGE: Final = 1e-3
_RIDGE_ROWS: Final = 1_000
"""As many rows the ridge counts at least: from a handful, five slopes would be fit to noise."""
_STEPS: Final = 20
_SUNDAY: Final = 7
_TINY: Final = 1e-12


def calibrate(
    matrix: FeatureMatrix,
    sales: FloatArray,
    forecast: FloatArray,
    unplanned: FloatArray | None = None,
) -> dict[str, Any]:
    """The table, as JSON, from rows (n,) that the forecast's members did not learn from.

    ``unplanned``: what the same members said without a schedule; it tells how much wider the
    bands of rows without one must be.
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
    spread = residual / residual_scale(table, matrix)
    spread = np.minimum(spread, np.quantile(spread, _OUTLIER))
    # residuals over the scale get a root mean square of 1: totals add up variances
    fitted[0] += 0.5 * np.log(max(float(np.mean(spread**2)), _TINY))
    table["coefficients"] = fitted.tolist()
    scale = residual_scale(table, matrix)
    table["quantiles"] = conformal_quantiles(residual / scale, LEVELS).tolist()
    if unplanned is not None:
        missed = np.abs(np.log(sales) - np.log(unplanned))
        with_plan, without = (np.quantile(r / scale, _WIDENED_AT) for r in (residual, missed))
        table["unplanned"] = float(max(without / max(with_plan, _TINY), 1.0))
    return table


def conformal_quantiles(scores: FloatArray, levels: Sequence[float]) -> FloatArray:
    """The conformal quantile of each level, (levels,): the ceil((n + 1) level)-th of n scores."""
    share = np.minimum(np.ceil((len(scores) + 1) * np.array(levels)) / len(scores), 1.0)
    return np.asarray(np.quantile(scores, share, method="inverted_cdf"), np.float64)


def validate_table(table: Any) -> None:
    """Raises ``DamagedModel`` for a table of another method than this release reads."""
    if not isinstance(table, dict) or table.get("method") != METHOD:
        raise CorruptModelError(
            "the version's interval table was made by another release: train a new version with "
            "`rossmann train`, or run the release that made it"
        )
    if table.get("terms") != list(TERMS) or len(table["quantiles"]) != len(table["levels"]):
        raise CorruptModelError("the version's interval table is damaged: train a new version")


def interval_bounds(
    table: dict[str, Any], matrix: FeatureMatrix, sales: FloatArray, levels: Sequence[float]
) -> list[tuple[FloatArray, FloatArray]]:
    """Lower and upper bound (n,) for each level between .5 and .99, interpolated in the table.

    Raises ``ValueError`` for a level outside, ``DamagedModel`` for a table of another release.
    """
    validate_table(table)
    scale = residual_scale(table, matrix)
    out = []
    for level in levels:
        width = conformal_quantile(table, level) * scale
        out.append((sales * np.exp(-width), sales * np.exp(width)))
    return out


def conformal_quantile(table: dict[str, Any], level: float) -> float:
    """How many scales a level's band reaches; raises ``ValueError`` outside .5 to .99."""
    if not LEVELS[0] <= level <= LEVELS[-1]:
        raise ValueError(f"an interval's level must lie between .5 and .99 (got {level})")
    return float(np.interp(level, table["levels"], table["quantiles"]))


def residual_scale(table: dict[str, Any], matrix: FeatureMatrix) -> FloatArray:
    """The root mean square log residual that each row (n,) lets expect."""
    # Column by column: a product of matrices adds in an order that depends on the number of rows.
    terms = _terms(table, matrix).T
    scale = np.exp(sum(own * term for own, term in zip(table["coefficients"], terms, strict=True)))
    known = np.nan_to_num(matrix[:, _KNOWN_DAYS].astype(np.float64))
    young = np.sqrt(1.0 + _NEW_STORE / (1.0 + _LEARNED_PER_DAY * known))
    widened = np.where(np.isnan(matrix[:, _PLAN]), table["unplanned"], 1.0)
    return np.asarray(scale * young * widened, np.float64)


def volatility_cuts(matrix: FeatureMatrix) -> FloatArray:
    """Where the terciles of volatility part, (2,)."""
    known = matrix[:, _VOLATILITY]
    known = known[np.isfinite(known)]
    return np.quantile(known, [1 / 3, 2 / 3]) if len(known) else np.array([0.1, 0.2])


def terciles(matrix: FeatureMatrix, cuts: FloatArray) -> npt.NDArray[np.int64]:
    """Each row's tercile (n,), 0 to 2; a store too new to have a volatility counts as volatile."""
    sd = matrix[:, _VOLATILITY]
    return np.searchsorted(cuts, np.where(np.isnan(sd), np.float32(np.inf), sd))


def _unknown_volatility(matrix: FeatureMatrix) -> float:
    """What a store without a volatility of its own is taken to have: that of a restless one."""
    known = matrix[:, _VOLATILITY]
    known = known[np.isfinite(known)]
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
    held = _RIDGE * max(rows, _RIDGE_ROWS) * np.diag([0.0, *[1.0] * (len(out) - 1)])
    information = terms.T @ terms + held
    for _ in range(_STEPS):
        mean = np.exp(terms @ out)
        slope = terms.T @ (residual / mean - 1.0) - held @ out
        out = out + np.linalg.solve(information, slope)
    return out
