"""Sanity probes: questions that any sound version answers right, whatever its backtest says.

They go the way of every forecast: rows of the plan, the panel's matrix, the ensemble.
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from rossmann.data.panel.panel import Panel
from rossmann.models.ensemble.ensemble import Ensemble
from rossmann.models.inference.forecaster import Forecaster
from rossmann.schema import MAX_HORIZON, FeatureMatrix, FloatArray, StoreDays

_ROWS: Final = 60_000
"""About how many rows the probes forecast: all days of a thousand stores, in seconds."""
_BATCH: Final = 2_000
_REPEATS: Final = 3
_NO_OPENING: Final = 1e-9


@dataclass(frozen=True)
class ServiceCheck:
    """``closed``: the highest forecast of a closed day. ``apart``: the largest share by which the
    service's forecast of an open day differs from the model's.
    """

    closed: float
    apart: float


@dataclass(frozen=True)
class SanityMetrics:
    """``promotion``: by what share a promotion raises the chain's sales. ``record``: the highest
    forecast over its store's best day. ``lowest``: the lowest forecast of an open day. ``speed``:
    rows per second. ``size``: megabytes on disk. ``served``: the serving forecaster.
    """

    promotion: float
    record: float
    lowest: float
    speed: float
    size: float
    served: ServiceCheck


def run_sanity_checks(
    panel: Panel, ensemble: Ensemble, folder: Path, threads: int
) -> SanityMetrics:
    """Ask ``ensemble`` (saved in ``folder``) about the days after the panel's history."""
    rows = _coming_days(panel)
    matrix = panel.matrix(rows, panel.last_day)
    sales = ensemble.predict(matrix, threads)
    return SanityMetrics(
        promotion=_promotion(panel, ensemble, rows, threads),
        record=_record(panel, rows, sales),
        lowest=float(sales.min()) if len(sales) else float("nan"),
        speed=_speed(ensemble, matrix, threads),
        size=sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 1e6,
        served=check_service(Forecaster(panel, ensemble), rows, sales),
    )


def check_service(forecaster: Forecaster, rows: StoreDays, sales: FloatArray) -> ServiceCheck:
    """Compare the serving forecaster with the model's ``sales`` (n,) of open ``rows``.

    Every other row is asked as closed, so that a row answered in another's place shows, too.
    """
    if len(rows) < 2:
        return ServiceCheck(float("nan"), float("nan"))
    flags = np.arange(len(rows), dtype=np.uint8) % 2
    asked = StoreDays(
        rows.store, rows.day, flags, rows.promo, rows.state_holiday, rows.school_holiday
    )
    found = forecaster.forecast(asked, forecaster.panel.last_day).sales
    if found.shape != sales.shape:
        return ServiceCheck(float("nan"), float("nan"))
    apart = np.abs(found / np.maximum(sales, _NO_OPENING) - 1.0)
    return ServiceCheck(float(np.max(np.abs(found[flags == 0]))), float(np.max(apart[flags == 1])))


def _coming_days(panel: Panel) -> StoreDays:
    """Open days of every store; every one of the horizon, or fewer where the chain is large."""
    step = max(1, len(panel.store_numbers) * MAX_HORIZON // _ROWS)
    if step % 7 == 0:
        step += 1  # else all would fall on one weekday
    days = panel.last_day + np.arange(1, MAX_HORIZON + 1, step)
    stores = panel.store_numbers
    rows = panel.schedule(np.repeat(stores, len(days)), np.tile(days, len(stores)))
    return rows.take(np.nonzero(rows.open)[0])


def _promotion(panel: Panel, ensemble: Ensemble, rows: StoreDays, threads: int) -> float:
    """The same open working days with a promotion and without one, the plan around them kept."""
    weekday = (rows.day.astype(np.int64) + 3) % 7  # 1970-01-01 was a Thursday; 0 is Monday
    week = rows.take(np.nonzero((weekday < 5) & (rows.day <= panel.last_day + 14))[0])
    totals = []
    for promo in (0, 1):
        flags = np.full(len(week), promo, np.uint8)
        asked = StoreDays(
            week.store, week.day, week.open, flags, week.state_holiday, week.school_holiday
        )
        sales = ensemble.predict(panel.matrix(asked, panel.last_day), threads)
        totals.append(float(sales.sum()))
    return totals[1] / max(totals[0], _NO_OPENING) - 1.0


def _record(panel: Panel, rows: StoreDays, sales: FloatArray) -> float:
    past, sold = panel.sales_rows()
    best = np.zeros(len(panel.store_numbers))
    np.maximum.at(best, panel.store_indices(past.store), sold)
    of_row = best[panel.store_indices(rows.store)]
    known = of_row > 0
    return float(np.max(sales[known] / of_row[known])) if known.any() else float("nan")


def _speed(ensemble: Ensemble, matrix: FeatureMatrix, threads: int) -> float:
    """The best of a few batches: a busy machine must not fail a good version."""
    batch = matrix[:_BATCH]
    took = []
    for _ in range(_REPEATS):
        begun = time.perf_counter()
        ensemble.predict(batch, threads)
        took.append(time.perf_counter() - begun)
    return len(batch) / max(min(took), _NO_OPENING)
