"""What ``/predict`` says of a forecast."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from rossmann.serving.columns import Inputs, iso
from rossmann.serving.doubts import Warned, warned
from rossmann.serving.forecaster import Forecast
from rossmann.serving.totals import told_totals
from rossmann.serving.versions import Picked


def told_answer(
    inputs: Inputs,
    picked: Picked,
    forecast: Forecast,
    request_id: str,
    challenger: dict[str, Any] | None,
    more: Sequence[Warned] = (),
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
        "as_of": iso(forecast.as_of),
        "objective": forecast.objective,
        "intervals": [
            {"level": band.level, "lower": band.lower.tolist(), "upper": band.upper.tolist()}
            for band in forecast.bands
        ],
        "totals": told_totals(*asked) if inputs.totals else [],
        "warnings": [
            {"type": w.type, "msg": w.msg, "count": w.count, "rows": w.rows} for w in warnings
        ],
        "request_id": request_id,
    }


def _weekdays(inputs: Inputs) -> list[Warned]:
    if not inputs.weekday_off:
        return []
    msg = "DayOfWeek contradicts Date: the Date decides"
    return [warned("day_of_week", msg, np.asarray(inputs.weekday_off))]
