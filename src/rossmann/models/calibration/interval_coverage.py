"""Coverage and width of prediction intervals, cross-validated over backtest windows.

A window's intervals come from the residuals of the other windows: a table that is tested on the
rows which made it looks too good. With one window only, coverage is not measured.
"""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from rossmann.models.ensemble.prediction_intervals import (
    calibrate,
    interval_bounds,
    terciles,
    volatility_cuts,
)
from rossmann.models.ensemble.residual_scale import IntervalInputs, event_season
from rossmann.models.evaluation.backtest import WindowForecasts
from rossmann.models.evaluation.metrics import format_percent
from rossmann.schema import FEATURES, FeatureMatrix, FloatArray

ALL_LEVELS: Final = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
"""Levels whose coverage is measured."""
REPORTED_LEVELS: Final = (0.8, 0.95)
EVENT_GROUPS: Final = ("Christmas", "Easter", "next to a holiday", "first week after closure")
"""Days on which errors of the whole chain fall: 1 December to 5 January; Easter week; the day
before, of or after a holiday that shuts the store; the week after a closure of 6 days or more."""
_EASTER: Final = FEATURES.index("days_from_easter")
_SINCE_HOLIDAY: Final = FEATURES.index("days_since_holiday")
_TO_HOLIDAY: Final = FEATURES.index("days_to_holiday")
_REOPENED: Final = FEATURES.index("days_since_long_closure")
_WEEK: Final = 7
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
        joined_inputs(outcomes),
        np.concatenate([o.window.sold for o in outcomes]),
        np.concatenate(without_schedule) if len(without_schedule) == len(outcomes) else None,
    )


def joined_inputs(outcomes: Sequence[WindowForecasts]) -> IntervalInputs:
    """What the scale of the ensemble's intervals depends on, for the rows of all ``outcomes``."""
    return IntervalInputs(
        np.concatenate([o.window.matrix for o in outcomes]),
        np.concatenate([o.window.rows.day for o in outcomes]),
        np.concatenate([o.forecasts["ensemble"] for o in outcomes]),
    )


def leave_one_out_tables(outcomes: Sequence[WindowForecasts]) -> list[dict[str, Any]]:
    """For each window the interval table of the other windows; there must be two at least."""
    return [calibrate_windows([o for o in outcomes if o is not outcome]) for outcome in outcomes]


def cross_validated_intervals(
    outcomes: Sequence[WindowForecasts],
    levels: Sequence[float] = ALL_LEVELS,
    tables: Sequence[dict[str, Any]] | None = None,
) -> list[dict[float, Interval]] | None:
    """Bounds by level for the rows of each window, calibrated on the other windows.

    ``tables``: of ``leave_one_out_tables``, where they are computed already. None where there is
    only one window.
    """
    if len(outcomes) < 2:
        return None
    tables = leave_one_out_tables(outcomes) if tables is None else tables
    by_window = []
    for outcome, table in zip(outcomes, tables, strict=True):
        bounds = interval_bounds(table, outcome.interval_inputs, levels)
        by_window.append(dict(zip(levels, bounds, strict=True)))
    return by_window


def covers(sold: FloatArray, interval: Interval) -> FloatArray:
    """1.0 where the interval contains the sales, else 0.0; (n,)."""
    lower, upper = interval
    return ((lower <= sold) & (sold <= upper)).astype(np.float64)


def measure_coverage(
    outcomes: Sequence[WindowForecasts], intervals: Sequence[dict[float, Interval]] | None = None
) -> dict[str, Any] | None:
    """Coverage and mean width (as a share of the forecast) of each level, as JSON.

    By level: ``coverage`` and ``width`` over all rows, ``windows`` (coverage by origin),
    ``volatility`` (coverage by tercile; None without rows) and ``events`` (coverage on the days of
    those ``EVENT_GROUPS`` that have any). None for a single window. ``intervals``: of
    ``cross_validated_intervals``, where they are computed already.
    """
    intervals = cross_validated_intervals(outcomes) if intervals is None else intervals
    if intervals is None:
        return None
    rows = joined_inputs(outcomes)
    sold = [o.window.sold for o in outcomes]
    origins = [o.window.origin_date.isoformat() for o in outcomes]
    tercile = terciles(rows.matrix, volatility_cuts(rows.matrix))
    events = event_groups(rows.day, rows.matrix)
    levels = {}
    for level in ALL_LEVELS:
        by_window = [covers(s, i[level]) for s, i in zip(sold, intervals, strict=True)]
        covered = np.concatenate(by_window)
        width = np.concatenate([i[level][1] - i[level][0] for i in intervals])
        levels[level_key(level)] = {
            "coverage": float(covered.mean()),
            "width": float(np.mean(width / rows.forecast)),
            "windows": {
                origin: float(x.mean()) for origin, x in zip(origins, by_window, strict=True)
            },
            "volatility": {
                name: float(covered[tercile == t].mean()) if (tercile == t).any() else None
                for t, name in enumerate(TERCILES)
            },
            "events": {
                name: float(covered[days].mean()) for name, days in events.items() if days.any()
            },
        }
    return {"method": "each window by a table of the others", "levels": levels}


def event_groups(
    day: npt.NDArray[np.integer], matrix: FeatureMatrix
) -> dict[str, npt.NDArray[np.bool_]]:
    """By name of ``EVENT_GROUPS``, which rows (n,) are of such days; a row may be in several."""
    season = event_season(day, matrix[:, _EASTER])
    near = np.minimum(matrix[:, _SINCE_HOLIDAY], matrix[:, _TO_HOLIDAY]) <= 1
    groups = (season == 0, season == 1, near, matrix[:, _REOPENED] <= _WEEK)
    return dict(zip(EVENT_GROUPS, groups, strict=True))


def event_rows(measured: dict[str, Any]) -> list[list[str]]:
    """Coverage on days of ``EVENT_GROUPS`` as a text table: a header, then each level."""
    rows = [["band covers on days", *EVENT_GROUPS]]
    for level in REPORTED_LEVELS:
        events = measured["levels"][level_key(level)]["events"]
        rows.append([f"{level:.0%}", *(format_percent(events.get(name)) for name in EVENT_GROUPS)])
    return rows


def past_rows(past: Sequence[dict[str, Any]]) -> list[list[str]]:
    """The chain's totals of past windows as a text table: the error beside the half-widths."""
    keys = [level_key(level) for level in REPORTED_LEVELS]
    widths = [f"{level:.0%} band" for level in REPORTED_LEVELS]
    rows = [["chain total from", "age of the fit", "sold over forecast", *widths]]
    for window in past:
        error = np.expm1(window["log_error"])
        half = [f"± {format_percent(float(np.expm1(window['half_width'][key])))}" for key in keys]
        outside = [
            "" if abs(window["log_error"]) <= window["half_width"][key] else " *" for key in keys
        ]
        bands = [width + mark for width, mark in zip(half, outside, strict=True)]
        age = f"{window['age_days']} days"
        rows.append([window["origin"], age, format_percent(float(error), "+.1f"), *bands])
    return rows


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
