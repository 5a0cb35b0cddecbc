"""A validated request body as columns: parsing, then the checks that need the panel."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from rossmann.epoch_days import parse_iso_day, weekday_of
from rossmann.errors import ErrorDetail, RequestError, cut_errors
from rossmann.models.inference.forecaster import ForecastRequest
from rossmann.models.inference.row_checks import (
    as_int32,
    check_origin,
    check_stores,
    read_days,
    sort_errors,
)
from rossmann.models.inference.row_warnings import RowWarning, weekday_warnings
from rossmann.schema import STATE_HOLIDAYS, DayArray, Objective, StoreDays
from rossmann.serving.request_parsing.predict_parser import MalformedRequestError, parse_predict
from rossmann.serving.schemas.forecasts import PredictRequest, Row

if TYPE_CHECKING:
    from rossmann.data.panel.panel import Panel

_HOLIDAY_CODE: Final = {name: code for code, name in enumerate(STATE_HOLIDAYS)}


@dataclass(frozen=True, slots=True)
class PredictInputs:
    """A request as columns; ``warnings``: about what its rows say themselves."""

    request: ForecastRequest
    model_stage: str | int
    totals: tuple[str, ...]
    warnings: Sequence[RowWarning]


def parse_inputs(
    body: bytes, panel: "Panel", max_rows: int, default_objective: Objective
) -> PredictInputs:
    """Parse and check a body; raises ``RequestError`` or a subclass with every error."""
    try:
        request = parse_predict(body, max_rows)
    except MalformedRequestError as error:
        rows, texts = list(error.dates), list(error.dates.values())
        days, errors = read_days(panel, texts, rows)
        errors += check_stores(panel, error.stores)
        errors += check_origin(panel, error.as_of, dict(zip(rows, days, strict=True)))
        raise RequestError(cut_errors(sort_errors([*error.errors, *errors]))) from error
    return _to_inputs(request, panel, default_objective)


def _to_inputs(
    request: PredictRequest, panel: "Panel", default_objective: Objective
) -> PredictInputs:
    """A well-formed request as columns; raises ``RequestError`` with every error."""
    inputs = request.inputs
    store = as_int32([row["Store"] for row in inputs])
    errors: list[ErrorDetail] = []
    if np.minimum.reduce(panel.store_indices(store)) < 0:  # ``min`` takes three times as long
        errors += check_stores(panel, {row: one["Store"] for row, one in enumerate(inputs)})
    days, day_errors = read_days(panel, [row["Date"] for row in inputs])
    as_of = None if request.as_of is None else parse_iso_day(request.as_of)
    if errors or day_errors or (request.as_of is not None and as_of is None):
        origin_errors = check_origin(panel, request.as_of, dict(enumerate(days)))
        raise RequestError(cut_errors(sort_errors(errors + day_errors + origin_errors)))
    mismatches = _weekday_mismatches(inputs, days)
    return PredictInputs(
        request=ForecastRequest(
            _to_rows(inputs, store, np.array(days, np.int32)),
            as_of,
            tuple(dict.fromkeys(request.intervals or ())),
            request.objective or default_objective,
        ),
        model_stage=request.model_stage,
        totals=tuple(dict.fromkeys(request.totals or ())),
        warnings=weekday_warnings(mismatches) if mismatches else (),
    )


def _weekday_mismatches(inputs: Sequence[Row], days: Sequence[int]) -> list[int]:
    """Numbers of the rows whose DayOfWeek contradicts their Date."""
    weekdays = {day: weekday_of(day) + 1 for day in set(days)}
    given, actual = [row["DayOfWeek"] for row in inputs], [weekdays[day] for day in days]
    if given == actual:
        return []
    return [row for row, pair in enumerate(zip(given, actual, strict=True)) if pair[0] != pair[1]]


def _to_rows(inputs: Sequence[Row], store: DayArray, day: DayArray) -> StoreDays:
    flags = (
        [row["Open"] for row in inputs],
        [row["Promo"] for row in inputs],
        [_HOLIDAY_CODE[row["StateHoliday"]] for row in inputs],
        [row["SchoolHoliday"] for row in inputs],
    )
    return StoreDays(store, day, *np.array(flags, np.uint8))
