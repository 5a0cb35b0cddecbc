"""Bias correction: factors that make totals of forecasts unbiased.

The members minimize the square percentage error. A day that sells half of its forecast costs more
there than a day that sells double, so such forecasts lie below the mean: by 2 s^2 on the log scale,
where s is the standard deviation of a day's log residual (for a lognormal day the forecast with the
smallest error is exp(m - 1.5 s^2), the mean exp(m + .5 s^2)). Summed over six weeks of a chain,
that is a stock too small by one or two per cent.

There is one factor for days with a promotion and one for days without. The mean log ratio of
forecast to sales over the backtest windows has a standard error of one per cent, as the chain as a
whole is off by a few per cent in any one window: as much as the correction itself. So it is shrunk
to the theoretical ratio, by a normal prior around it: the larger its standard error, the more.
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
_THEORY_SD: Final = 0.005
"""Standard deviation of the true log ratio around the theoretical one, a priori."""
_MAX_RESIDUAL: Final = 0.35
"""Log residuals are clipped to this: larger ones come from exceptional days."""


def bias_factors(table: Mapping[str, Any], matrix: FeatureMatrix) -> FloatArray:
    """The factor of each row's forecast, (n,), by the correction ``table``."""
    return np.asarray(np.array(table["factors"], np.float64)[_promo_group(matrix)])


def fit_bias_correction(outcomes: "Sequence[WindowForecasts]") -> dict[str, Any]:
    """The correction table, as JSON, from windows that the members were not fitted on.

    By group: ``factors``, and the log ratios of forecast to sales that they come from:
    ``theoretical``, ``measured`` with its ``standard_error`` (None for one window) and ``weight``.
    """
    theoretical = np.log(_theoretical_ratios(outcomes))
    ratios = np.log([_window_ratios(outcome) for outcome in outcomes])
    known = np.isfinite(ratios).sum(axis=0)
    measured = np.nansum(ratios, axis=0) / np.maximum(known, 1)
    squared = np.nansum((ratios - measured) ** 2, axis=0)
    variance = squared / np.maximum(known - 1, 1) / np.maximum(known, 1)
    weight = np.where(known > 1, _THEORY_SD**2 / (_THEORY_SD**2 + variance), 0.0)
    log_ratio = weight * measured + (1.0 - weight) * theoretical
    return {
        "groups": list(GROUPS),
        "factors": np.exp(-log_ratio).tolist(),
        "windows": len(outcomes),
        "theoretical": theoretical.tolist(),
        "measured": measured.tolist(),
        "standard_error": [
            float(np.sqrt(v)) if k > 1 else None for v, k in zip(variance, known, strict=True)
        ],
        "weight": weight.tolist(),
    }


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
    ratios = np.full(size, np.nan)
    np.divide(forecast, sold, out=ratios, where=sold > 0)
    return ratios


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
