"""Totals without bias: what to multiply forecasts with that were made for a small error.

The members keep the square percentage error small. A day that sells half of what was forecast
costs more there than a day that sells double, so such forecasts lie below the mean: by 2 s^2 on
the log scale, where s is the spread of a day's log residual (for a lognormal day the forecast with
the smallest error is exp(m - 1.5 s^2), the mean exp(m + .5 s^2)). Summed over six weeks of a chain,
that is a stock too small by one or two per cent.

The correction is one factor for days with a promotion and one for days without: the inverse of
what the backtest windows show on average, where theory counts as one window more. The chain as a
whole is off by a few per cent in any one window, up or down, so a few windows say little: theory
keeps a correction that comes of one or two of them sober.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from rossmann.models.evaluation.metrics import bias
from rossmann.schema import FEATURES, FeatureMatrix, FloatArray

if TYPE_CHECKING:
    from rossmann.models.evaluation.windows import WindowForecasts


BIAS_CORRECTION_KEY: Final = "unbiased"
"""Where a version's card holds the table."""
GROUPS: Final = ("without promotion", "with promotion")
_PROMO: Final = FEATURES.index("promo")
_EXTREME: Final = 0.35
"""Log residuals count up to here: beyond lie days on which something else happened."""


def bias_factors(table: Mapping[str, Any], matrix: FeatureMatrix) -> FloatArray:
    """What to multiply each forecast with, (n,), so that their total is without bias."""
    return np.asarray(np.array(table["factors"], np.float64)[_group(matrix)])


def fit_bias_correction(outcomes: "Sequence[WindowForecasts]") -> dict[str, Any]:
    """The table from windows that the members did not see, as JSON."""
    counted = [_expected(outcomes), *(_ratios(outcome) for outcome in outcomes)]
    factors = 1.0 / np.nanmean(counted, axis=0)
    return {"groups": list(GROUPS), "factors": factors.tolist(), "windows": len(outcomes)}


def measure_bias(outcomes: "Sequence[WindowForecasts]") -> dict[str, Any]:
    """Bias of each window's total for either objective, and the means over windows, as JSON.

    A window is corrected by the table of the other windows; with one window alone there is
    nothing honest to say of ``unbiased``, and it is None.
    """
    windows = []
    for place, outcome in enumerate(outcomes):
        sold, forecast = outcome.window.sold, outcome.forecasts["ensemble"]
        others = [*outcomes[:place], *outcomes[place + 1 :]]
        told: dict[str, float | None] = {"accuracy": bias(sold, forecast), "unbiased": None}
        if others:
            factor = bias_factors(fit_bias_correction(others), outcome.window.matrix)
            told["unbiased"] = bias(sold, forecast * factor)
        windows.append({"origin": outcome.window.origin_date.isoformat(), **told})
    return {
        "method": "each window by the correction of the others",
        "mean": {name: _mean([w[name] for w in windows]) for name in ("accuracy", "unbiased")},
        "windows": windows,
    }


def bias_rows(found: Mapping[str, Any]) -> list[list[str]]:
    """A header, then a row for each objective: the bias of each window's total, and the mean."""
    rows = [["objective", *(f"from {w['origin']}" for w in found["windows"]), "mean"]]
    for name, mean in found["mean"].items():
        rows.append([name, *(_percent(w[name]) for w in found["windows"]), _percent(mean)])
    return rows


def _group(matrix: FeatureMatrix) -> npt.NDArray[np.int64]:
    return np.asarray(matrix[:, _PROMO] > 0, np.int64)


def _ratios(outcome: "WindowForecasts") -> FloatArray:
    """Forecast total over sold total by group, (groups,); NaN where a group has no day."""
    group, size = _group(outcome.window.matrix), len(GROUPS)
    sold = np.bincount(group, outcome.window.sold, size)
    forecast = np.bincount(group, outcome.forecasts["ensemble"], size)
    return np.asarray(np.where(sold > 0, forecast / np.where(sold > 0, sold, 1.0), np.nan))


def _expected(outcomes: "Sequence[WindowForecasts]") -> FloatArray:
    """What theory says of the same ratios, (groups,), from the spread within each day."""
    group = np.concatenate([_group(outcome.window.matrix) for outcome in outcomes])
    spread = np.concatenate([_residuals(outcome) for outcome in outcomes]) ** 2
    known = [spread[group == g] for g in range(len(GROUPS))]
    return np.exp([-2.0 * float(np.mean(mine if len(mine) else spread)) for mine in known])


def _residuals(outcome: "WindowForecasts") -> FloatArray:
    """Log residuals less their day's mean: what the whole chain missed is no spread. (n,)"""
    residual = np.log(outcome.window.sold / outcome.forecasts["ensemble"])
    _, day = np.unique(outcome.window.rows.day, return_inverse=True)
    usual = np.bincount(day, residual) / np.bincount(day)
    return np.asarray(np.clip(residual - usual[day], -_EXTREME, _EXTREME))


def _mean(values: Sequence[Any]) -> float | None:
    return None if None in values else float(np.mean(values))


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:+.2f} %"
