"""Backtest errors by segment (horizon, weekday, promotion, store type, volatility), day and store.

The result is JSON, from which alone figures and pages are made.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import polars as pl

from rossmann.data.panel.panel import Panel
from rossmann.epoch_days import to_date, weekday_of
from rossmann.models.calibration.bias_correction import measure_bias
from rossmann.models.calibration.interval_coverage import (
    REPORTED_LEVELS,
    TERCILES,
    Interval,
    covers,
    cross_validated_intervals,
    leave_one_out_tables,
    level_key,
    measure_coverage,
)
from rossmann.models.calibration.totals_fit import cross_validated_totals, store_types
from rossmann.models.ensemble.prediction_intervals import terciles, volatility_cuts
from rossmann.models.evaluation.backtest import WindowForecasts, score_window, with_follow_ups
from rossmann.models.evaluation.metrics import (
    bias,
    capped_rmspe,
    dominant_rows,
    mae,
    mape,
    rmspe,
    wape,
)
from rossmann.schema import STORE_TYPES, DayArray, FloatArray

WEEKDAYS: Final = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
N_WORST: Final = 15
"""Days and stores that the report names."""
_WEEK: Final = 7

GroupIndices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class PooledRows:
    """The rows of all windows, concatenated: arrays (n,); ``tercile``: of volatility."""

    store: DayArray
    day: DayArray
    origin: npt.NDArray[np.int64]
    promo: npt.NDArray[np.uint8]
    tercile: GroupIndices
    sold: FloatArray
    forecasts: dict[str, FloatArray]
    intervals: dict[float, Interval]


def build_report_data(
    panel: Panel,
    outcomes: Sequence[WindowForecasts],
    about: Mapping[str, Any],
    chain_floor: float = 0.0,
) -> dict[str, Any]:
    """The content of a report as JSON; ``about`` (profile, data, ...) is copied into it.

    ``chain_floor``: of ``fit_totals``. Calibration is judged on the windows and their follow-ups,
    all else on the windows themselves.

    Shares are fractions (0.1 is 10 %); a measure without rows is None.
    """
    windows = with_follow_ups(outcomes)
    tables = leave_one_out_tables(windows) if len(windows) > 1 else None
    intervals = cross_validated_intervals(windows, tables=tables)
    rows = _pool_rows(outcomes, _own_intervals(outcomes, windows, intervals))
    segments = {
        name: _segment(rows, groups, labels)
        for name, (groups, labels) in _segmentations(panel, rows).items()
    }
    days = _days(rows)
    report: dict[str, Any] = {
        **about,
        "windows": [score_window(outcome).as_dict() for outcome in outcomes],
        "rows": len(rows.sold),
        "forecasters": {
            name: _measures(rows.sold, forecast) for name, forecast in rows.forecasts.items()
        },
        "coverage": measure_coverage(windows, intervals),
        "totals": cross_validated_totals(panel, windows, chain_floor, tables),
        "totals_bias": measure_bias(windows),
        "slices": segments,
        "days": days,
        "dominant_rows": _dominant_rows(rows),
        "worst_days": sorted(days, key=lambda day: -float(day["share"]))[:N_WORST],
        "worst_stores": _worst_stores(panel, rows),
    }
    without_nan: dict[str, Any] = nan_to_none(report)
    return without_nan


def nan_to_none(value: Any) -> Any:
    """JSON data with None in place of NaN and infinity, which JSON cannot express."""
    if isinstance(value, Mapping):
        return {str(name): nan_to_none(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [nan_to_none(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _pool_rows(outcomes: Sequence[WindowForecasts], intervals: dict[float, Interval]) -> PooledRows:
    windows = [outcome.window for outcome in outcomes]
    matrix = np.concatenate([window.matrix for window in windows])
    return PooledRows(
        store=np.concatenate([w.rows.store for w in windows]),
        day=np.concatenate([w.rows.day for w in windows]),
        origin=np.concatenate([np.full(len(w.rows), w.origin) for w in windows]),
        promo=np.concatenate([w.rows.promo for w in windows]),
        tercile=terciles(matrix, volatility_cuts(matrix)),
        sold=np.concatenate([w.sold for w in windows]),
        forecasts={
            name: np.concatenate([o.forecasts[name] for o in outcomes])
            for name in outcomes[0].forecasts
        },
        intervals=intervals,
    )


def _own_intervals(
    outcomes: Sequence[WindowForecasts],
    windows: Sequence[WindowForecasts],
    intervals: Sequence[Mapping[float, Interval]] | None,
) -> dict[float, Interval]:
    """By reported level the bounds of the rows of ``outcomes``, (n,); empty if not measured.

    ``windows``: those and their follow-ups, whose ``intervals`` are given.
    """
    if intervals is None:
        return {}
    own = [i for one, i in zip(windows, intervals, strict=True) if any(one is o for o in outcomes)]
    return {
        level: (
            np.concatenate([bounds[level][0] for bounds in own]),
            np.concatenate([bounds[level][1] for bounds in own]),
        )
        for level in REPORTED_LEVELS
    }


def _segmentations(panel: Panel, rows: PooledRows) -> dict[str, tuple[GroupIndices, Sequence[str]]]:
    """By name: the group of each row (n,), and the groups' labels."""
    horizon = rows.day - rows.origin
    weeks = (horizon.max() + _WEEK - 1) // _WEEK
    return {
        "horizon": (
            (horizon - 1) // _WEEK,
            [f"{_WEEK * w + 1}-{_WEEK * w + _WEEK} days" for w in range(weeks)],
        ),
        "weekday": (weekday_of(rows.day.astype(np.int64)), WEEKDAYS),
        "promotion": (rows.promo.astype(np.int64), ("without promotion", "with promotion")),
        "store_type": (store_types(panel)[panel.store_indices(rows.store)], STORE_TYPES),
        "volatility": (rows.tercile, TERCILES),
    }


def _measures(sold: FloatArray, forecast: FloatArray) -> dict[str, float]:
    return {
        "rmspe": rmspe(sold, forecast),
        "capped_rmspe": capped_rmspe(sold, forecast),
        "wape": wape(sold, forecast),
        "mape": mape(sold, forecast),
        "mae": mae(sold, forecast),
        "bias": bias(sold, forecast),
    }


def _segment(rows: PooledRows, groups: GroupIndices, labels: Sequence[str]) -> list[dict[str, Any]]:
    """The measures of each group that has rows."""
    covered = {
        level_key(level): covers(rows.sold, interval) for level, interval in rows.intervals.items()
    }
    measured = []
    for group, label in enumerate(labels):
        indices = np.nonzero(groups == group)[0]
        if len(indices):
            sold = rows.sold[indices]
            measured.append(
                {
                    "label": label,
                    "rows": len(indices),
                    **_measures(sold, rows.forecasts["ensemble"][indices]),
                    "forecasters": {k: rmspe(sold, v[indices]) for k, v in rows.forecasts.items()},
                    "coverage": {k: float(v[indices].mean()) for k, v in covered.items()},
                }
            )
    return measured


def _dominant_rows(rows: PooledRows) -> list[dict[str, Any]]:
    """By window the rows that alone make more than 5 % of its squared error."""
    forecast, found = rows.forecasts["ensemble"], []
    for origin in np.unique(rows.origin):
        inside = np.flatnonzero(rows.origin == origin)
        for number, share in dominant_rows(rows.sold[inside], forecast[inside]):
            row = inside[number]
            found.append(
                {
                    "origin": to_date(int(origin)).isoformat(),
                    "date": to_date(int(rows.day[row])).isoformat(),
                    "store": int(rows.store[row]),
                    "sold": float(rows.sold[row]),
                    "forecast": float(forecast[row]),
                    "share": share,
                }
            )
    return found


def _days(rows: PooledRows) -> list[dict[str, Any]]:
    """Sales and forecast of the chain by origin and day, with the day's errors."""
    forecast = rows.forecasts["ensemble"]
    squared = (forecast / rows.sold - 1.0) ** 2
    frame = pl.DataFrame(
        {"origin": rows.origin, "day": rows.day.astype(np.int64), "promo": rows.promo,
         "sold": rows.sold, "forecast": forecast, "squared": squared}
    )  # fmt: skip
    days = frame.group_by("origin", "day").agg(
        pl.len().alias("rows"), pl.sum("sold"), pl.sum("forecast"),
        pl.mean("promo"), pl.mean("squared"), pl.sum("squared").alias("total"),
    )  # fmt: skip
    return [
        {
            "origin": to_date(row["origin"]).isoformat(),
            "date": to_date(row["day"]).isoformat(),
            "stores": row["rows"],
            "promo": row["promo"],
            "sold": row["sold"],
            "forecast": row["forecast"],
            "rmspe": row["squared"] ** 0.5,
            "bias": row["forecast"] / row["sold"] - 1.0,
            "share": row["total"] / squared.sum() if squared.sum() else 0.0,
        }
        for row in days.sort("origin", "day").iter_rows(named=True)
    ]


def _worst_stores(panel: Panel, rows: PooledRows) -> list[dict[str, Any]]:
    """The stores with the largest shares of the squared error."""
    forecast = rows.forecasts["ensemble"]
    squared = (forecast / rows.sold - 1.0) ** 2
    indices = panel.store_indices(rows.store)
    size = len(panel.store_numbers)
    sums = {
        name: np.bincount(indices, values, size)
        for name, values in (("sold", rows.sold), ("forecast", forecast), ("squared", squared))
    }
    counts = np.bincount(indices, minlength=size)
    types = store_types(panel)
    worst = np.argsort(-sums["squared"], kind="stable")[:N_WORST]
    total = max(float(squared.sum()), np.finfo(float).tiny)
    return [
        {
            "store": int(panel.store_numbers[store]),
            "type": STORE_TYPES[types[store]],
            "days": int(counts[store]),
            "rmspe": float(np.sqrt(sums["squared"][store] / counts[store])),
            "bias": float(sums["forecast"][store] / sums["sold"][store] - 1.0),
            "share": float(sums["squared"][store] / total),
        }
        for store in worst
        if counts[store]
    ]
