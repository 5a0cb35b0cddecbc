"""Coverage and width of prediction intervals, cross-validated over backtest windows.

A window's intervals come from the residuals of the other windows: a table that is tested on the
rows which made it looks too good. With one window only, coverage is not measured.
"""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from rossmann.models.ensemble.prediction_intervals import (
    calibrate,
    interval_bounds,
    terciles,
    volatility_cuts,
)
from rossmann.models.evaluation.backtest import WindowForecasts
from rossmann.models.evaluation.metrics import format_percent
from rossmann.schema import FloatArray

ALL_LEVELS: Final = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
"""Levels whose coverage is measured."""
REPORTED_LEVELS: Final = (0.8, 0.95)
NO_SCHEDULE_FORECAST: Final = "without_schedule"
"""The forecaster whose errors give the wider intervals of days without a schedule."""
TERCILES: Final = ("steady", "medium", "volatile")
"""Names of the thirds of rows by volatility."""

TOTAL_LABELS: Final = {
    "store_week": "a store's week",
    "store": "a store's window",
    "type_week": "a store type's week",
    "type": "a store type's window",
    "chain_day": "the chain's day",
    "chain_week": "the chain's week",
    "chain": "the chain's window",
}
"""Kinds of totals whose coverage is measured, in words: by week from the origin, by day, or over
the whole window."""

Interval = tuple[FloatArray, FloatArray]
"""Lower and upper bounds, (n,) each."""


def level_key(level: float) -> str:
    """A level as JSON and tables name it: 0.80."""
    return f"{level:.2f}"


def calibrate_windows(outcomes: Sequence[WindowForecasts]) -> dict[str, Any]:
    """The interval table from the ensemble's residuals on all ``outcomes``."""
    without_schedule = [
        o.forecasts[NO_SCHEDULE_FORECAST] for o in outcomes if NO_SCHEDULE_FORECAST in o.forecasts
    ]
    return calibrate(
        np.concatenate([o.window.matrix for o in outcomes]),
        np.concatenate([o.window.sold for o in outcomes]),
        np.concatenate([o.forecasts["ensemble"] for o in outcomes]),
        np.concatenate(without_schedule) if len(without_schedule) == len(outcomes) else None,
    )


def cross_validated_intervals(
    outcomes: Sequence[WindowForecasts], levels: Sequence[float] = ALL_LEVELS
) -> dict[float, Interval] | None:
    """Bounds by level for the concatenated rows of all windows, (n,) each.

    A window's intervals are calibrated on the other windows; None where there is only one.
    """
    if len(outcomes) < 2:
        return None
    by_window = []
    for i, outcome in enumerate(outcomes):
        table = calibrate_windows([o for j, o in enumerate(outcomes) if j != i])
        forecast = outcome.forecasts["ensemble"]
        by_window.append(interval_bounds(table, outcome.window.matrix, forecast, levels))
    return {
        level: (
            np.concatenate([bounds[i][0] for bounds in by_window]),
            np.concatenate([bounds[i][1] for bounds in by_window]),
        )
        for i, level in enumerate(levels)
    }


def covers(sold: FloatArray, interval: Interval) -> FloatArray:
    """1.0 where the interval contains the sales, else 0.0; (n,)."""
    lower, upper = interval
    return ((lower <= sold) & (sold <= upper)).astype(np.float64)


def measure_coverage(outcomes: Sequence[WindowForecasts]) -> dict[str, Any] | None:
    """Coverage and mean width (as a share of the forecast) of each level, as JSON.

    By level: ``coverage`` and ``width`` over all rows, ``windows`` (coverage by origin) and
    ``volatility`` (coverage by tercile). None for a single window.
    """
    intervals = cross_validated_intervals(outcomes)
    if intervals is None:
        return None
    matrix = np.concatenate([o.window.matrix for o in outcomes])
    sold = np.concatenate([o.window.sold for o in outcomes])
    forecast = np.concatenate([o.forecasts["ensemble"] for o in outcomes])
    tercile = terciles(matrix, volatility_cuts(matrix))
    edges = np.cumsum([len(o.window.sold) for o in outcomes])[:-1]
    levels = {}
    for level, interval in intervals.items():
        covered = covers(sold, interval)
        by_window = zip(outcomes, np.split(covered, edges), strict=True)
        levels[level_key(level)] = {
            "coverage": float(covered.mean()),
            "width": float(np.mean((interval[1] - interval[0]) / forecast)),
            "windows": {o.window.origin_date.isoformat(): float(x.mean()) for o, x in by_window},
            "volatility": {
                name: float(covered[tercile == t].mean()) if (tercile == t).any() else None
                for t, name in enumerate(TERCILES)
            },
        }
    return {"method": "each window by a table of the others", "levels": levels}


def coverage_rows(measured: dict[str, Any]) -> list[list[str]]:
    """``measure_coverage`` as a text table: a header, then a row for each reported level."""
    rows = [["band", "covers", *(f"{name} stores" for name in TERCILES), "mean width"]]
    for level in REPORTED_LEVELS:
        entry = measured["levels"][level_key(level)]
        by_tercile = (entry["volatility"][name] for name in TERCILES)
        shares = (entry["coverage"], *by_tercile, entry["width"])
        rows.append([f"{level:.0%}", *(format_percent(share) for share in shares)])
    return rows


def totals_rows(measured: dict[str, Any]) -> list[list[str]]:
    """``measure_totals`` as a text table: a header, then a row for each kind of total."""
    keys = [level_key(level) for level in REPORTED_LEVELS]
    covers_header = [f"{100 * float(key):.0f} % band covers" for key in keys]
    width_header = [f"{name} width" for name in ("mean", "if added up,", "if independent,")]
    rows = [["total", "totals", *covers_header, *width_header]]
    for kind, entry in measured["kinds"].items():
        first = entry["levels"][keys[0]]
        rows.append(
            [
                TOTAL_LABELS[kind],
                f"{entry['totals']:,}",
                *(format_percent(entry["levels"][key]["coverage"]) for key in keys),
                *(format_percent(first[name]) for name in ("width", "added", "independent")),
            ]
        )
    return rows
