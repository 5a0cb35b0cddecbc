"""The response body of ``POST /predict`` and ``POST /explain``."""

from collections.abc import Callable, Sequence
from typing import Any

from rossmann.epoch_days import format_iso_day
from rossmann.errors import ErrorDetail, RequestError
from rossmann.installation import shell_command
from rossmann.models.inference.forecaster import Forecast, Forecaster, ForecastRequest
from rossmann.models.inference.row_warnings import RowWarning
from rossmann.models.inference.totals import TOTALS_KEY, Totals, forecast_totals
from rossmann.schema import STORE_TYPES
from rossmann.serving.observability.prediction_recorder import PredictCall
from rossmann.serving.request_parsing.predict_inputs import PredictInputs


def predict_response(
    call: PredictCall,
    inputs: PredictInputs,
    forecast: Forecast,
    challenger: dict[str, Any] | None,
    more_warnings: Sequence[RowWarning] = (),
    check: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """The fields of ``schemas.forecasts.PredictResponse``.

    A plain dictionary: to build and dump the pydantic model takes longer than a row's features.
    ``check`` is called between parts of the work, and may raise to end it.
    """
    warnings = [*inputs.warnings, *forecast.warnings, *more_warnings]
    served = call.version.served
    return {
        "predictions": forecast.sales.tolist(),
        "model_version": served.version,
        "model_stage": call.version.stage,
        "challenger": challenger,
        "count": len(inputs.request.rows),
        "as_of": format_iso_day(forecast.as_of),
        "objective": forecast.objective,
        "intervals": [
            {"level": i.level, "lower": i.lower.tolist(), "upper": i.upper.tolist()}
            for i in forecast.intervals
        ],
        "totals": _totals(served.forecaster, inputs, forecast, check) if inputs.totals else [],
        "warnings": [warning.as_dict() for warning in warnings],
        "request_id": call.record.request_id,
    }


def _totals(
    forecaster: Forecaster, inputs: PredictInputs, forecast: Forecast, check: Callable[[], None]
) -> list[dict[str, Any]]:
    """Totals of the forecast rows with intervals of the forecast's levels.

    Raises ``RequestError`` where the version has no tables for totals, and for duplicate rows.
    """
    if TOTALS_KEY not in forecaster.ensemble.card:
        msg = f"this version has no bands of totals: train a new one with: {shell_command('train')}"
        raise RequestError([ErrorDetail(("totals",), msg, "no_totals")])
    levels = tuple(interval.level for interval in forecast.intervals)
    request = ForecastRequest(inputs.request.rows, forecast.as_of, levels, forecast.objective)
    totals = forecast_totals(forecaster, request, forecast.as_of, inputs.totals, check)
    return [_totals_record(one, levels) for one in totals]


def _totals_record(totals: Totals, levels: Sequence[float]) -> dict[str, Any]:
    return {
        "by": totals.by,
        "store": [None if store < 0 else store for store in totals.store.tolist()],
        "store_type": [None if code < 0 else STORE_TYPES[code] for code in totals.store_type],
        "first": [format_iso_day(day) for day in totals.first],
        "last": [format_iso_day(day) for day in totals.last],
        "rows": totals.rows.tolist(),
        "sales": totals.sales.tolist(),
        "intervals": [
            {"level": level, "lower": lower.tolist(), "upper": upper.tolist()}
            for level, (lower, upper) in zip(levels, totals.intervals, strict=True)
        ],
    }
