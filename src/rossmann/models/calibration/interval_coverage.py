"""Whether intervals keep their promise: each window is judged by a table made of the others.

A table that is judged on the rows which made it always looks right. So a window's bands come from
the residuals of the other windows; with one window only there is nothing honest to say.
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
from rossmann.models.evaluation.windows import WindowForecasts
from rossmann.schema import FloatArray

ALL_LEVELS: Final = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
"""Levels whose coverage is measured."""
REPORTED_LEVELS: Final = (0.8, 0.95)
NO_SCHEDULE_FORECAST: Final = "without_schedule"
"""The forecaster that tells how much wider bands are where there is no schedule."""
TERCILES: Final = ("steady", "medium", "volatile")

TOTAL_LABELS: Final = {
    "store_week": "a store's week",
    "store": "a store's window",
    "type_week": "a store type's week",
    "type": "a store type's window",
    "chain_day": "the chain's day",
    "chain_week": "the chain's week",
    "chain": "the chain's window",
}
"""Kinds of totals, in words."""

Interval = tuple[FloatArray, FloatArray]


def level_key(level: float) -> str:
    """A level as JSON and tables name it: 0.80."""
    return f"{level:.2f}"


def calibrate_windows(outcomes: Sequence[WindowForecasts]) -> dict[str, Any]:
    """The interval table from the ensemble's residuals on all ``outcomes``."""
    planless = [
        o.forecasts[NO_SCHEDULE_FORECAST] for o in outcomes if NO_SCHEDULE_FORECAST in o.forecasts
    ]
    return calibrate(
        np.concatenate([o.window.matrix for o in outcomes]),
        np.concatenate([o.window.sold for o in outcomes]),
        np.concatenate([o.forecasts["ensemble"] for o in outcomes]),
        np.concatenate(planless) if len(planless) == len(outcomes) else None,
    )


def cross_validated_intervals(
    outcomes: Sequence[WindowForecasts], levels: Sequence[float] = ALL_LEVELS
) -> dict[float, Interval] | None:
    """Bounds of each level for the rows of all windows in a row, (n,) each.

    A window's bands are calibrated on the other windows; None where there is only one.
    """
    if len(outcomes) < 2:
        return None
    parts = []
    for i, outcome in enumerate(outcomes):
        table = calibrate_windows([o for j, o in enumerate(outcomes) if j != i])
        forecast = outcome.forecasts["ensemble"]
        parts.append(interval_bounds(table, outcome.window.matrix, forecast, levels))
    joined = {}
    for place, level in enumerate(levels):
        lower = np.concatenate([part[place][0] for part in parts])
        upper = np.concatenate([part[place][1] for part in parts])
        joined[level] = (lower, upper)
    return joined


def covers(sold: FloatArray, band: Interval) -> FloatArray:
    """1.0 where the band holds what was sold, else 0.0; (n,)."""
    lower, upper = band
    return ((lower <= sold) & (sold <= upper)).astype(np.float64)


def measure_coverage(outcomes: Sequence[WindowForecasts]) -> dict[str, Any] | None:
    """Coverage and mean width (as a share of the forecast) of each level, as JSON.

    By level: ``coverage`` and ``width`` over all rows, ``windows`` (coverage by origin) and
    ``volatility`` (coverage by tercile). None where one window alone was forecast.
    """
    bands = cross_validated_intervals(outcomes)
    if bands is None:
        return None
    matrix = np.concatenate([o.window.matrix for o in outcomes])
    sold = np.concatenate([o.window.sold for o in outcomes])
    forecast = np.concatenate([o.forecasts["ensemble"] for o in outcomes])
    group = terciles(matrix, volatility_cuts(matrix))
    edges = np.cumsum([len(o.window.sold) for o in outcomes])[:-1]
    levels = {}
    for level, band in bands.items():
        inside = covers(sold, band)
        by_window = zip(outcomes, np.split(inside, edges), strict=True)
        levels[level_key(level)] = {
            "coverage": float(inside.mean()),
            "width": float(np.mean((band[1] - band[0]) / forecast)),
            "windows": {o.window.origin_date.isoformat(): float(x.mean()) for o, x in by_window},
            "volatility": {
                name: float(inside[group == g].mean()) if (group == g).any() else None
                for g, name in enumerate(TERCILES)
            },
        }
    return {"method": "each window by a table of the others", "levels": levels}


def coverage_rows(found: dict[str, Any]) -> list[list[str]]:
    """A header, then a row for each level that people ask for: what its band really held."""
    rows = [["band", "covers", *(f"{name} stores" for name in TERCILES), "mean width"]]
    for level in REPORTED_LEVELS:
        one = found["levels"][level_key(level)]
        by_tercile = [_percent(one["volatility"][name]) for name in TERCILES]
        rows.append(
            [f"{level:.0%}", _percent(one["coverage"]), *by_tercile, _percent(one["width"])]
        )
    return rows


def totals_rows(found: dict[str, Any]) -> list[list[str]]:
    """A header, then a row for each kind of total: what its bands held, and how wide they are."""
    shown = [level_key(level) for level in REPORTED_LEVELS]
    rows = [["total", "totals", *(f"{100 * float(k):.0f} % band covers" for k in shown),
             *(f"{k} width" for k in ("mean", "if added up,", "if independent,"))]]  # fmt: skip
    for name, one in found["kinds"].items():
        first = one["levels"][shown[0]]
        rows.append(
            [
                TOTAL_LABELS[name],
                f"{one['totals']:,}",
                *(_percent(one["levels"][k]["coverage"]) for k in shown),
                *(_percent(first[k]) for k in ("width", "added", "independent")),
            ]
        )
    return rows


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"
