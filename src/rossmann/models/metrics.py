"""Measures of a forecast against what was sold."""

import numpy as np

from rossmann.schema import FloatArray


def rmspe(sold: FloatArray, forecast: FloatArray) -> float:
    """Root mean square percentage error, as a share; over days with sales, shapes (n,).

    The measure of the Kaggle competition. NaN where there is no such day.
    """
    some = sold > 0
    if not some.any():
        return float("nan")
    return float(np.sqrt(np.mean((forecast[some] / sold[some] - 1.0) ** 2)))


def mape(sold: FloatArray, forecast: FloatArray) -> float:
    """Mean absolute percentage error, as a share."""
    some = sold > 0
    return float(np.mean(np.abs(forecast[some] / sold[some] - 1.0))) if some.any() else float("nan")


def mae(sold: FloatArray, forecast: FloatArray) -> float:
    """Mean absolute error, in the sales' currency."""
    return float(np.mean(np.abs(forecast - sold))) if len(sold) else float("nan")


def bias(sold: FloatArray, forecast: FloatArray) -> float:
    """Forecast total over sold total, less 1."""
    total = float(sold.sum())
    return float(forecast.sum()) / total - 1.0 if total else float("nan")
