"""A backtest cut into slices: by horizon, weekday, promotion, store; and its worst days and stores.

Everything here ends as JSON; pictures and pages are drawn from that alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import polars as pl

from rossmann.data.panel.panel import Panel
from rossmann.epoch_days import to_date
from rossmann.models.calibration.bias_correction import measure_bias
from rossmann.models.calibration.interval_coverage import (
    REPORTED_LEVELS,
    TERCILES,
    Interval,
    covers,
    cross_validated_intervals,
    level_key,
    measure_coverage,
)
from rossmann.models.calibration.totals_fit import cross_validated_totals, store_types
from rossmann.models.ensemble.prediction_intervals import terciles, volatility_cuts
from rossmann.models.evaluation.backtest import score_window
from rossmann.models.evaluation.metrics import bias, mae, mape, rmspe
from rossmann.models.evaluation.windows import WindowForecasts
from rossmann.schema import STORE_TYPES, DayArray, FloatArray

WEEKDAYS: Final = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
N_WORST: Final = 15
"""Days and stores that the report names."""
_WEEK: Final = 7

Group = npt.NDArray[np.int64]


@dataclass(frozen=True)
class PooledRows:
    """The rows of all windows, one after the other: arrays (n,); ``tercile``: of volatility."""

    store: DayArray
    day: DayArray
    origin: npt.NDArray[np.int64]
    promo: npt.NDArray[np.uint8]
    tercile: Group
    sold: FloatArray
    forecasts: dict[str, FloatArray]
    bands: dict[float, Interval]


def build_report_data(
    panel: Panel, outcomes: Sequence[WindowForecasts], about: Mapping[str, Any]
) -> dict[str, Any]:
    """All that a report shows, as JSON; ``about`` (profile, data, ...) goes in as it is.

    Shares are shares (0.1 is 10 %); a measure that has no rows is None.
    """
    pool = _pool(outcomes)
    slices = {
        name: _slice(pool, group, labels)
        for name, (group, labels) in _groupings(panel, pool).items()
    }
    found = {
        **about,
        "windows": [score_window(outcome).as_dict() for outcome in outcomes],
        "rows": len(pool.sold),
        "forecasters": {
            name: _measures(pool.sold, forecast) for name, forecast in pool.forecasts.items()
        },
        "coverage": measure_coverage(outcomes),
        "totals": cross_validated_totals(panel, outcomes),
        "totals_bias": measure_bias(outcomes),
        "slices": slices,
        "days": _days(pool),
        "worst_days": _worst_days(pool),
        "worst_stores": _worst_stores(panel, pool),
    }
    cleaned: dict[str, Any] = _without_nan(found)
    return cleaned


def _pool(outcomes: Sequence[WindowForecasts]) -> PooledRows:
    windows = [o.window for o in outcomes]
    matrix = np.concatenate([w.matrix for w in windows])
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
        bands=cross_validated_intervals(outcomes, REPORTED_LEVELS) or {},
    )


def _groupings(panel: Panel, pool: PooledRows) -> dict[str, tuple[Group, Sequence[str]]]:
    """Each slicing: the group of each row (n,), and the groups' names."""
    horizon = pool.day - pool.origin
    weeks = (horizon.max() + _WEEK - 1) // _WEEK
    return {
        "horizon": (
            (horizon - 1) // _WEEK,
            [f"{_WEEK * w + 1}-{_WEEK * w + _WEEK} days" for w in range(weeks)],
        ),
        "weekday": ((pool.day.astype(np.int64) + 3) % 7, WEEKDAYS),  # 1970-01-01 was a Thursday
        "promotion": (pool.promo.astype(np.int64), ("without promotion", "with promotion")),
        "store_type": (store_types(panel)[panel.store_indices(pool.store)], STORE_TYPES),
        "volatility": (pool.tercile, TERCILES),
    }


def _measures(sold: FloatArray, forecast: FloatArray) -> dict[str, float]:
    return {
        "rmspe": rmspe(sold, forecast),
        "mape": mape(sold, forecast),
        "mae": mae(sold, forecast),
        "bias": bias(sold, forecast),
    }


def _slice(pool: PooledRows, group: Group, labels: Sequence[str]) -> list[dict[str, Any]]:
    """The measures of each group that has rows."""
    inside = {level: covers(pool.sold, band) for level, band in pool.bands.items()}
    out = []
    for g, label in enumerate(labels):
        mine = np.nonzero(group == g)[0]
        if len(mine):
            sold = pool.sold[mine]
            out.append(
                {
                    "label": label,
                    "rows": len(mine),
                    **_measures(sold, pool.forecasts["ensemble"][mine]),
                    "forecasters": {k: rmspe(sold, v[mine]) for k, v in pool.forecasts.items()},
                    "coverage": {
                        level_key(level): float(x[mine].mean()) for level, x in inside.items()
                    },
                }
            )
    return out


def _days(pool: PooledRows) -> list[dict[str, Any]]:
    """The chain by origin and day: what was sold, and what the ensemble said."""
    forecast = pool.forecasts["ensemble"]
    squared = (forecast / pool.sold - 1.0) ** 2
    frame = pl.DataFrame(
        {"origin": pool.origin, "day": pool.day.astype(np.int64), "promo": pool.promo,
         "sold": pool.sold, "forecast": forecast, "squared": squared}
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


def _worst_days(pool: PooledRows) -> list[dict[str, Any]]:
    """The days that hold the largest shares of the squared error."""
    return sorted(_days(pool), key=lambda day: -float(day["share"]))[:N_WORST]


def _worst_stores(panel: Panel, pool: PooledRows) -> list[dict[str, Any]]:
    """The stores that hold the largest shares of the squared error."""
    forecast = pool.forecasts["ensemble"]
    squared = (forecast / pool.sold - 1.0) ** 2
    places = panel.store_indices(pool.store)
    size = len(panel.store_numbers)
    sums = {
        name: np.bincount(places, values, size)
        for name, values in (("sold", pool.sold), ("forecast", forecast), ("squared", squared))
    }
    rows = np.bincount(places, minlength=size)
    types = store_types(panel)
    worst = np.argsort(-sums["squared"], kind="stable")[:N_WORST]
    total = max(float(squared.sum()), np.finfo(float).tiny)
    return [
        {
            "store": int(panel.store_numbers[place]),
            "type": STORE_TYPES[types[place]],
            "days": int(rows[place]),
            "rmspe": float(np.sqrt(sums["squared"][place] / rows[place])),
            "bias": float(sums["forecast"][place] / sums["sold"][place] - 1.0),
            "share": float(sums["squared"][place] / total),
        }
        for place in worst
        if rows[place]
    ]


def _without_nan(value: Any) -> Any:
    """The same with None for what is no number: JSON has no NaN."""
    if isinstance(value, Mapping):
        return {str(name): _without_nan(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(one) for one in value]
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value
