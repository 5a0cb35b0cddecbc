"""Bias correction: factors that make totals of forecasts unbiased.

The members minimize the square percentage error. A day that sells half of its forecast costs more
there than a day that sells double, so such forecasts lie below the mean: by 2 s^2 on the log scale,
where s is the standard deviation of a day's log residual (for a lognormal day the forecast with the
smallest error is exp(m - 1.5 s^2), the mean exp(m + .5 s^2)). Summed over six weeks of a chain,
that is a stock too small by one or two per cent.

There is one factor for days with a promotion and one for days without: the inverse of the mean
ratio of forecast to sales over the backtest windows, where the theoretical ratio counts as one
window more. The chain as a whole is off by a few per cent in any one window, up or down, so the
theory shrinks a correction that was fitted on one or two windows.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from rossmann.models.evaluation.metrics import bias, format_percent
from rossmann.schema import FEATURES, FeatureMatrix, FloatArray

if TYPE_CHECKING:
    from rossmann.models.evaluation.backtest import WindowForecasts


BIAS_CORRECTION_KEY: Final = "unbiased"
"""The card's key of the correction table."""
GROUPS: Final = ("without promotion", "with promotion")
_PROMO: Final = FEATURES.index("promo")
_MAX_RESIDUAL: Final = 0.35
"""Log residuals are clipped to this: larger ones come from exceptional days."""


def bias_factors(table: Mapping[str, Any], matrix: FeatureMatrix) -> FloatArray:
    """The factor of each row's forecast, (n,), by the correction ``table``."""
    return np.asarray(np.array(table["factors"], np.float64)[_promo_group(matrix)])


def fit_bias_correction(outcomes: "Sequence[WindowForecasts]") -> dict[str, Any]:
    """The correction table, as JSON, from windows that the members were not fitted on."""
    ratios = [_theoretical_ratios(outcomes), *(_window_ratios(outcome) for outcome in outcomes)]
    factors = 1.0 / np.nanmean(ratios, axis=0)
    return {"groups": list(GROUPS), "factors": factors.tolist(), "windows": len(outcomes)}


def measure_bias(outcomes: "Sequence[WindowForecasts]") -> dict[str, Any]:
    """Bias of each window's total for both objectives, and the means over windows, as JSON.

    Cross-validated: a window is corrected by the table of the other windows. ``unbiased`` is None
    where there is only one.
    """
    windows = []
    for index, outcome in enumerate(outcomes):
        sold, forecast = outcome.window.sold, outcome.forecasts["ensemble"]
        others = [*outcomes[:index], *outcomes[index + 1 :]]
        biases: dict[str, float | None] = {"accuracy": bias(sold, forecast), "unbiased": None}
        if others:
            factors = bias_factors(fit_bias_correction(others), outcome.window.matrix)
            biases["unbiased"] = bias(sold, forecast * factors)
        windows.append({"origin": outcome.window.origin_date.isoformat(), **biases})
    return {
        "method": "each window by the correction of the others",
        "mean": {name: _mean([w[name] for w in windows]) for name in ("accuracy", "unbiased")},
        "windows": windows,
    }


def bias_rows(measured: Mapping[str, Any]) -> list[list[str]]:
    """``measure_bias`` as a text table: a header, then a row for each objective."""
    rows = [["objective", *(f"from {w['origin']}" for w in measured["windows"]), "mean"]]
    for name, mean in measured["mean"].items():
        shares = (*(window[name] for window in measured["windows"]), mean)
        rows.append([name, *(format_percent(share, "+.2f") for share in shares)])
    return rows


def _promo_group(matrix: FeatureMatrix) -> npt.NDArray[np.int64]:
    """Each row's index in ``GROUPS``, (n,)."""
    return np.asarray(matrix[:, _PROMO] > 0, np.int64)


def _window_ratios(outcome: "WindowForecasts") -> FloatArray:
    """Forecast total over sold total by group, (groups,); NaN where a group has no day."""
    group, size = _promo_group(outcome.window.matrix), len(GROUPS)
    sold = np.bincount(group, outcome.window.sold, size)
    forecast = np.bincount(group, outcome.forecasts["ensemble"], size)
    return np.asarray(np.where(sold > 0, forecast / np.where(sold > 0, sold, 1.0), np.nan))


def _theoretical_ratios(outcomes: "Sequence[WindowForecasts]") -> FloatArray:
    """The same ratios, (groups,), as expected from the residual variance within each day."""
    group = np.concatenate([_promo_group(outcome.window.matrix) for outcome in outcomes])
    squared = np.concatenate([_residuals(outcome) for outcome in outcomes]) ** 2
    by_group = [squared[group == g] for g in range(len(GROUPS))]
    return np.exp([-2.0 * float(np.mean(part if len(part) else squared)) for part in by_group])


def _residuals(outcome: "WindowForecasts") -> FloatArray:
    """Log residuals (n,) less their day's mean, which is an error of the whole chain; clipped."""
    residual = np.log(outcome.window.sold / outcome.forecasts["ensemble"])
    _, day = np.unique(outcome.window.rows.day, return_inverse=True)
    day_mean = np.bincount(day, residual) / np.bincount(day)
    return np.asarray(np.clip(residual - day_mean[day], -_MAX_RESIDUAL, _MAX_RESIDUAL))


def _mean(values: Sequence[Any]) -> float | None:
    return None if None in values else float(np.mean(values))
