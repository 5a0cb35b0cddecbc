"""What ``/predict`` says of a forecast.

MERGED: Totals of a request's rows with their bands, as the answer tells them.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from rossmann.epoch_days import format_iso_day
from rossmann.errors import ErrorDetail, RequestError
from rossmann.models.inference.forecaster import Forecast, Forecaster
from rossmann.models.inference.row_warnings import RowWarning, row_warning
from rossmann.models.inference.totals import TOTALS_KEY, Totals, forecast_totals
from rossmann.schema import STORE_TYPES, StoreDays
from rossmann.serving.request_parsing.predict_inputs import PredictInputs
from rossmann.serving.runtime.version_manager import SelectedVersion


def totals_response(
    forecaster: Forecaster, rows: StoreDays, forecast: Forecast, by: Sequence[str]
) -> list[dict[str, Any]]:
    """Totals of the forecast rows, for each sort in ``by``, with bands of the forecast's levels.

    Raises ``RequestError`` where the version has no tables for totals, or where a store's day
    comes twice: its total would count both.
    """
    if TOTALS_KEY not in forecaster.ensemble.card:
        msg = "this version has no bands of totals: train a new one with: rossmann train"
        raise RequestError([ErrorDetail(("totals",), msg, "no_totals")])
    pairs = np.stack([rows.store, rows.day], axis=1)
    _, first = np.unique(pairs, axis=0, return_index=True)
    if len(first) < len(rows):
        again = int(np.setdiff1d(np.arange(len(rows)), first)[0])
        msg = "a store's day may come once where totals are asked for"
        raise RequestError([ErrorDetail(("inputs", again), msg, "duplicate_row")])
    levels = [band.level for band in forecast.bands]
    found = forecast_totals(
        forecaster.panel, forecaster.ensemble, rows, forecast.as_of, by, levels, forecast.objective
    )
    return [_told(one, levels) for one in found]


def _told(one: Totals, levels: Sequence[float]) -> dict[str, Any]:
    return {
        "by": one.by,
        "store": [None if store < 0 else store for store in one.store.tolist()],
        "store_type": [None if kind < 0 else STORE_TYPES[kind] for kind in one.store_type],
        "first": [format_iso_day(day) for day in one.first],
        "last": [format_iso_day(day) for day in one.last],
        "rows": one.rows.tolist(),
        "sales": one.sales.tolist(),
        "intervals": [
            {"level": level, "lower": low.tolist(), "upper": high.tolist()}
            for level, (low, high) in zip(levels, one.bands, strict=True)
        ],
    }


def predict_response(
    inputs: PredictInputs,
    picked: SelectedVersion,
    forecast: Forecast,
    request_id: str,
    challenger: dict[str, Any] | None,
    more: Sequence[RowWarning] = (),
) -> dict[str, Any]:
    """The fields of ``messages.PredictAnswer``; ``more``: warnings that only the caller knows of.

    A plain dictionary: to make the message and write that takes longer than a row's features.
    """
    asked = (picked.served.forecaster, inputs.rows, forecast, inputs.totals)
    warnings = [*_weekdays(inputs), *forecast.warnings, *more]
    return {
        "predictions": forecast.sales.tolist(),
        "model_version": picked.served.version,
        "model_stage": picked.stage,
        "challenger": challenger,
        "count": len(inputs.rows),
        "as_of": format_iso_day(forecast.as_of),
        "objective": forecast.objective,
        "intervals": [
            {"level": band.level, "lower": band.lower.tolist(), "upper": band.upper.tolist()}
            for band in forecast.bands
        ],
        "totals": totals_response(*asked) if inputs.totals else [],
        "warnings": [
            {"type": w.type, "msg": w.msg, "count": w.count, "rows": w.rows} for w in warnings
        ],
        "request_id": request_id,
    }


def _weekdays(inputs: PredictInputs) -> list[RowWarning]:
    if not inputs.weekday_mismatches:
        return []
    msg = "DayOfWeek contradicts Date: the Date decides"
    return [row_warning("day_of_week", msg, np.asarray(inputs.weekday_mismatches))]
