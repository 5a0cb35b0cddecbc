"""Totals of a request's rows with their bands, as the answer tells them."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from rossmann.errors import Fault, RequestError
from rossmann.models.totals_forecast import TOTALS, Totals, forecast_totals
from rossmann.schema import STORE_TYPES, Rows
from rossmann.serving.columns import iso
from rossmann.serving.forecaster import Forecast, Forecaster


def told_totals(
    forecaster: Forecaster, rows: Rows, forecast: Forecast, by: Sequence[str]
) -> list[dict[str, Any]]:
    """Totals of the forecast rows, for each sort in ``by``, with bands of the forecast's levels.

    Raises ``RequestError`` where the version has no tables for totals, or where a store's day
    comes twice: its total would count both.
    """
    if TOTALS not in forecaster.ensemble.card:
        msg = "this version has no bands of totals: train a new one with: rossmann train"
        raise RequestError([Fault(("totals",), msg, "no_totals")])
    pairs = np.stack([rows.store, rows.day], axis=1)
    _, first = np.unique(pairs, axis=0, return_index=True)
    if len(first) < len(rows):
        again = int(np.setdiff1d(np.arange(len(rows)), first)[0])
        msg = "a store's day may come once where totals are asked for"
        raise RequestError([Fault(("inputs", again), msg, "duplicate_row")])
    levels = [band.level for band in forecast.bands]
    found = forecast_totals(
        forecaster.panel, forecaster.ensemble, rows, forecast.as_of, by, levels, forecast.objective
    )
    return [_told(one, levels) for one in found]


def _told(one: Totals, levels: Sequence[float]) -> dict[str, Any]:
    return {
        "by": one.by,
        "store": [None if store < 0 else store for store in one.store.tolist()],
        "store_type": [None if kind < 0 else STORE_TYPES[kind] for kind in one.kind],
        "first": [iso(day) for day in one.first],
        "last": [iso(day) for day in one.last],
        "rows": one.rows.tolist(),
        "sales": one.sales.tolist(),
        "intervals": [
            {"level": level, "lower": low.tolist(), "upper": high.tolist()}
            for level, (low, high) in zip(levels, one.bands, strict=True)
        ],
    }
