"""Sanity checks of a version: properties of its forecasts that hold whatever its backtest shows.

The forecasts are made as in serving: rows of the schedule, the panel's matrix, the ensemble.
"""

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np

from rossmann.data.panel.panel import Panel
from rossmann.epoch_days import weekday_of
from rossmann.models.ensemble.ensemble import Ensemble
from rossmann.models.inference.forecaster import Forecaster, ForecastRequest
from rossmann.schema import MAX_HORIZON, FeatureMatrix, FloatArray, StoreDays

_ROWS: Final = 60_000
"""About how many rows are forecast: all days of a thousand stores, in seconds."""
_BATCH: Final = 2_000
_REPEATS: Final = 3
_EPSILON: Final = 1e-9


@dataclass(frozen=True)
class ServiceCheck:
    """The serving forecaster against the model.

    ``max_closed_sales``: the highest forecast of a closed day; ``max_difference``: the largest
    relative difference of forecasts of an open day.
    """

    max_closed_sales: float
    max_difference: float


@dataclass(frozen=True)
class SanityMetrics:
    """What the gate holds against its limits.

    ``promotion_uplift``: share by which a promotion raises the chain's sales; ``max_record_ratio``:
    the highest forecast over its store's best day; ``min_sales``: the lowest forecast of an open
    day; ``megabytes``: on disk.
    """

    promotion_uplift: float
    max_record_ratio: float
    min_sales: float
    rows_per_second: float
    megabytes: float
    service: ServiceCheck


def run_sanity_checks(
    panel: Panel, ensemble: Ensemble, folder: Path, threads: int
) -> SanityMetrics:
    """Measure ``ensemble`` (saved in ``folder``) on the days after the panel's history."""
    rows = _coming_days(panel)
    matrix = panel.matrix(rows, panel.last_day)
    sales = ensemble.predict(matrix, threads)
    return SanityMetrics(
        promotion_uplift=_promotion_uplift(panel, ensemble, rows, threads),
        max_record_ratio=_max_record_ratio(panel, rows, sales),
        min_sales=float(sales.min()) if len(sales) else float("nan"),
        rows_per_second=_rows_per_second(ensemble, matrix, threads),
        megabytes=sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 1e6,
        service=check_service(Forecaster(panel, ensemble), rows, sales),
    )


def check_service(forecaster: Forecaster, rows: StoreDays, sales: FloatArray) -> ServiceCheck:
    """Compare the serving forecaster with the model's ``sales`` (n,) of open ``rows``.

    Every other row is requested as closed, which also reveals rows in a wrong order.
    """
    if len(rows) < 2:
        return ServiceCheck(float("nan"), float("nan"))
    is_open = np.arange(len(rows), dtype=np.uint8) % 2
    request = ForecastRequest(replace(rows, open=is_open), forecaster.panel.last_day)
    served = forecaster.forecast(request).sales
    if served.shape != sales.shape:
        return ServiceCheck(float("nan"), float("nan"))
    difference = np.abs(served / np.maximum(sales, _EPSILON) - 1.0)
    return ServiceCheck(
        float(np.max(np.abs(served[is_open == 0]))), float(np.max(difference[is_open == 1]))
    )


def _coming_days(panel: Panel) -> StoreDays:
    """Open days of every store; every one of the horizon, or fewer where the chain is large."""
    step = max(1, len(panel.store_numbers) * MAX_HORIZON // _ROWS)
    if step % 7 == 0:
        step += 1  # avoids that all fall on one weekday
    days = panel.last_day + np.arange(1, MAX_HORIZON + 1, step)
    stores = panel.store_numbers
    rows = panel.schedule(np.repeat(stores, len(days)), np.tile(days, len(stores)))
    return rows.take(np.nonzero(rows.open)[0])


def _promotion_uplift(panel: Panel, ensemble: Ensemble, rows: StoreDays, threads: int) -> float:
    """The same open working days with and without a promotion; the schedule around them stays."""
    weekday = weekday_of(rows.day.astype(np.int64))
    working_days = rows.take(np.nonzero((weekday < 5) & (rows.day <= panel.last_day + 14))[0])
    totals = []
    for promo in (0, 1):
        flags = np.full(len(working_days), promo, np.uint8)
        matrix = panel.matrix(replace(working_days, promo=flags), panel.last_day)
        sales = ensemble.predict(matrix, threads)
        totals.append(float(sales.sum()))
    return totals[1] / max(totals[0], _EPSILON) - 1.0


def _max_record_ratio(panel: Panel, rows: StoreDays, sales: FloatArray) -> float:
    past, sold = panel.sales_rows()
    record = np.zeros(len(panel.store_numbers))
    np.maximum.at(record, panel.store_indices(past.store), sold)
    row_record = record[panel.store_indices(rows.store)]
    known = row_record > 0
    return float(np.max(sales[known] / row_record[known])) if known.any() else float("nan")


def _rows_per_second(ensemble: Ensemble, matrix: FeatureMatrix, threads: int) -> float:
    """The fastest of some batches: a busy machine must not fail a good version."""
    batch = matrix[:_BATCH]
    seconds = []
    for _ in range(_REPEATS):
        start = time.perf_counter()
        ensemble.predict(batch, threads)
        seconds.append(time.perf_counter() - start)
    return len(batch) / max(min(seconds), _EPSILON)
