"""Error metrics of forecasts."""

from typing import Final

import numpy as np

from rossmann.schema import FloatArray

_MAX_ERROR: Final = 0.5
_DOMINANT_SHARE: Final = 0.05


def rmspe(sold: FloatArray, forecast: FloatArray) -> float:
    """Root mean square percentage error, as a share; over days with sales, shapes (n,).

    The measure of the Kaggle competition. NaN where there is no such day.
    """
    positive = sold > 0
    if not positive.any():
        return float("nan")
    return float(np.sqrt(np.mean((forecast[positive] / sold[positive] - 1.0) ** 2)))


def mape(sold: FloatArray, forecast: FloatArray) -> float:
    """Mean absolute percentage error, as a share; over days with sales. NaN without such a day."""
    positive = sold > 0
    if not positive.any():
        return float("nan")
    return float(np.mean(np.abs(forecast[positive] / sold[positive] - 1.0)))


def mae(sold: FloatArray, forecast: FloatArray) -> float:
    """Mean absolute error, in the sales' currency; NaN without rows."""
    return float(np.mean(np.abs(forecast - sold))) if len(sold) else float("nan")


def wape(sold: FloatArray, forecast: FloatArray) -> float:
    """Weighted absolute percentage error: absolute errors over sales, as a share; NaN without."""
    total = float(sold.sum())
    return float(np.abs(forecast - sold).sum()) / total if total else float("nan")


def capped_rmspe(sold: FloatArray, forecast: FloatArray) -> float:
    """RMSPE with each day's percentage error limited to 50 %: one strange day does not decide."""
    positive = sold > 0
    if not positive.any():
        return float("nan")
    error = np.clip(forecast[positive] / sold[positive] - 1.0, -_MAX_ERROR, _MAX_ERROR)
    return float(np.sqrt(np.mean(error**2)))


def dominant_rows(sold: FloatArray, forecast: FloatArray) -> list[tuple[int, float]]:
    """Rows that alone make more than 5 % of the squared percentage error, largest first.

    Each with its share. They decide a comparison by RMSPE.
    """
    squared = np.where(sold > 0, (forecast / np.where(sold > 0, sold, 1.0) - 1.0) ** 2, 0.0)
    total = float(squared.sum())
    found = np.flatnonzero(squared > _DOMINANT_SHARE * total)
    order = found[np.argsort(-squared[found], kind="stable")]
    return [(int(row), float(squared[row]) / total) for row in order]


def bias(sold: FloatArray, forecast: FloatArray) -> float:
    """Forecast total over sold total, less 1; NaN where nothing was sold."""
    total = float(sold.sum())
    return float(forecast.sum()) / total - 1.0 if total else float("nan")


def format_percent(share: float | None, spec: str = ".1f") -> str:
    """A share in per cent, "-" where it is unknown; ``spec`` formats the number."""
    return "-" if share is None else f"{100 * share:{spec}} %"


SMALL_CHAIN_STORES: Final = 12
"""With fewer stores, random errors of each move every figure: limits are wider."""
