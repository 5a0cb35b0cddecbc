"""Split-conformal prediction intervals and quantiles: log residuals divided by a row's scale.

Residuals come from backtest windows that the members were not fitted on (Vovk et al.,
*Algorithmic Learning in a Random World*; the split form after Lei et al. 2018, who also divide by
a scale). The variance of stores and days differs, so each residual is divided by the expected one
(``residual_scale``); one set of quantiles of the scaled residuals serves every row.
"""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from rossmann.errors import CorruptModelError
from rossmann.installation import shell_command
from rossmann.models.ensemble.residual_scale import (
    LONG_HORIZON,
    TERMS,
    IntervalInputs,
    count_seasons,
    fit_scale,
    known_volatilities,
    residual_scale,
    unknown_volatility,
)
from rossmann.schema import FEATURES, FeatureMatrix, FloatArray

LEVELS: Final = tuple(np.round(np.arange(0.50, 0.9901, 0.01), 2).tolist())
"""Levels of intervals that can be requested, and those between."""
CENTRAL_LEVELS: Final = tuple(np.round(np.arange(0.0, 0.4901, 0.01), 2).tolist())
"""Levels below, which only quantiles near the middle need."""
CENTRAL: Final = "central"
"""Key of a table for the half widths of ``CENTRAL_LEVELS``; earlier releases did not have it."""
MIN_QUANTILE: Final = 0.01
MAX_QUANTILE: Final = 0.99
_LEVEL_DIGITS: Final = 12
"""A level that follows from a quantile is rounded to this: 2 * .95 - 1 is not .9 to the bit."""
METHOD: Final = "scaled conformal"
_VOLATILITY: Final = FEATURES.index("sd_same_364")
_WIDENED_AT: Final = 0.8
_TINY: Final = 1e-12


def calibrate(
    rows: IntervalInputs, sales: FloatArray, unplanned: FloatArray | None = None
) -> dict[str, Any]:
    """The table, as JSON, from rows (n,) that the forecast's members were not fitted on.

    ``unplanned``: the same members' forecasts without a schedule, from which follows how much
    wider the intervals of rows without one must be.
    """
    residual = np.abs(np.log(sales) - np.log(rows.forecast))
    table: dict[str, Any] = {
        "method": METHOD,
        "levels": list(LEVELS),
        "terms": list(TERMS),
        "unknown_volatility": unknown_volatility(rows.matrix),
        "unplanned": 1.0,
        "long_horizon": LONG_HORIZON,
        "seasons": count_seasons(rows),
        "rows": len(sales),
    }
    table["coefficients"] = fit_scale(table, rows, residual).tolist()
    scale = residual_scale(table, rows)
    table["quantiles"] = conformal_quantiles(residual / scale, LEVELS).tolist()
    table[CENTRAL] = {
        "levels": list(CENTRAL_LEVELS),
        "quantiles": central_quantiles(residual / scale),
    }
    if unplanned is not None:
        unscheduled = np.abs(np.log(sales) - np.log(unplanned))
        known, unknown = (np.quantile(r / scale, _WIDENED_AT) for r in (residual, unscheduled))
        table["unplanned"] = float(max(unknown / max(known, _TINY), 1.0))
    return table


def conformal_quantiles(scores: FloatArray, levels: Sequence[float]) -> FloatArray:
    """The conformal quantile of each level, (levels,): the ceil((n + 1) level)-th of n scores."""
    share = np.minimum(np.ceil((len(scores) + 1) * np.array(levels)) / len(scores), 1.0)
    return np.asarray(np.quantile(scores, share, method="inverted_cdf"), np.float64)


def central_quantiles(scores: FloatArray) -> list[float]:
    """The conformal quantiles of ``CENTRAL_LEVELS``; that of level 0 is zero."""
    return [0.0, *conformal_quantiles(scores, CENTRAL_LEVELS[1:]).tolist()]


def validate_table(table: Any) -> None:
    """Raises ``CorruptModelError`` for a table of another method than this release reads."""
    if not isinstance(table, dict) or table.get("method") != METHOD:
        raise CorruptModelError(
            "the version's interval table was made by another release: train a new version with"
            f" {shell_command('train')}, or run the release that made it"
        )
    known = set(TERMS).issuperset(table.get("terms", ("",)))
    parts = (table, table.get(CENTRAL, {"levels": (), "quantiles": ()}))
    if not known or any(len(part["quantiles"]) != len(part["levels"]) for part in parts):
        raise CorruptModelError("the version's interval table is damaged: train a new version")


def interval_bounds(
    table: dict[str, Any], rows: IntervalInputs, levels: Sequence[float]
) -> list[tuple[FloatArray, FloatArray]]:
    """Lower and upper bound (n,) for each level between .5 and .99, interpolated in the table.

    Raises ``ValueError`` for a level outside, ``CorruptModelError`` for a table of another release.
    """
    validate_table(table)
    scale = residual_scale(table, rows)
    out = []
    for level in levels:
        width = conformal_quantile(table, level) * scale
        out.append((rows.forecast * np.exp(-width), rows.forecast * np.exp(width)))
    return out


def conformal_quantile(table: dict[str, Any], level: float) -> float:
    """Half width of a level's interval in scales; raises ``ValueError`` outside .5 to .99."""
    if not LEVELS[0] <= level <= LEVELS[-1]:
        raise ValueError(f"an interval's level must lie between .5 and .99 (got {level})")
    return float(np.interp(level, table["levels"], table["quantiles"]))


def sales_quantiles(
    table: dict[str, Any], rows: IntervalInputs, quantiles: Sequence[float]
) -> list[FloatArray]:
    """The sales (n,) of each of ``quantiles``, between .01 and .99: positive, growing with it.

    Raises ``ValueError`` for one outside, ``CorruptModelError`` for a table of another release.
    """
    validate_table(table)
    scale = residual_scale(table, rows)
    return [rows.forecast * np.exp(scaled_quantile(table, p) * scale) for p in quantiles]


def scaled_quantile(table: dict[str, Any], quantile: float) -> float:
    """A quantile of log sales less log forecast, in scales.

    The rule is symmetric: quantile .1 is the lower bound of the 80 % interval, .9 its upper one,
    .5 the forecast. Raises ``ValueError`` outside .01 to .99.
    """
    level, sign = central_level(quantile)
    return sign * half_width(table, "quantiles", level)


def central_level(quantile: float) -> tuple[float, float]:
    """Level of the interval that a quantile bounds, and the side: -1 below, 1 above, 0 in between.

    Raises ``ValueError`` outside .01 to .99.
    """
    if not MIN_QUANTILE <= quantile <= MAX_QUANTILE:
        raise ValueError(f"a quantile must lie between .01 and .99 (got {quantile})")
    distance = 2.0 * quantile - 1.0
    return round(abs(distance), _LEVEL_DIGITS), float(np.sign(distance))


def half_width(table: dict[str, Any], name: str, level: float) -> float:
    """Half width of any level from 0 to .99, interpolated in the list ``name`` of a table.

    Tables of earlier releases begin at .5: below, the width grows evenly from zero.
    """
    central = table.get(CENTRAL, {"levels": [0.0], name: [0.0]})
    levels, widths = ([*central[key], *table[key]] for key in ("levels", name))
    return float(np.interp(level, levels, widths))


def volatility_cuts(matrix: FeatureMatrix) -> FloatArray:
    """The cuts between the terciles of volatility, (2,)."""
    known = known_volatilities(matrix)
    return np.quantile(known, [1 / 3, 2 / 3]) if len(known) else np.array([0.1, 0.2])


def terciles(matrix: FeatureMatrix, cuts: FloatArray) -> npt.NDArray[np.int64]:
    """Each row's tercile (n,), 0 to 2; a store too new to have a volatility counts as volatile."""
    sd = matrix[:, _VOLATILITY]
    return np.searchsorted(cuts, np.where(np.isnan(sd), np.float32(np.inf), sd))
