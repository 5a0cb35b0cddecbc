"""A validated request body as columns: parsing, then the checks that need the panel."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from rossmann.epoch_days import parse_iso_day, weekday_of
from rossmann.errors import ErrorDetail, RequestError
from rossmann.models.inference.forecaster import ForecastRequest
from rossmann.models.inference.row_checks import (
    as_int32,
    check_origin,
    check_stores,
    read_days,
    sort_errors,
)
from rossmann.schema import STATE_HOLIDAYS, DayArray, Objective, StoreDays
from rossmann.serving.request_parsing.predict_parser import MalformedRequestError, parse_predict
from rossmann.serving.schemas.forecasts import PredictRequest, Row

if TYPE_CHECKING:
    from rossmann.data.panel.panel import Panel

_HOLIDAY_CODE: Final = {name: code for code, name in enumerate(STATE_HOLIDAYS)}


@dataclass(frozen=True, slots=True)
class PredictInputs:
    """A request as columns.

    ``as_of`` in epoch days; ``weekday_mismatches``: numbers of the rows whose DayOfWeek
    contradicts their Date.
    """

    rows: StoreDays
    model_stage: str | int
    as_of: int | None
    levels: tuple[float, ...]
    objective: Objective | None
    weekday_mismatches: Sequence[int]
    totals: tuple[str, ...] = ()

    def to_request(self, default_objective: Objective) -> ForecastRequest:
        """The forecaster's part of the request."""
        return ForecastRequest(
            self.rows, self.as_of, self.levels, self.objective or default_objective
        )


def parse_inputs(body: bytes, panel: "Panel", max_rows: int) -> PredictInputs:
    """Parse and check a body; raises ``RequestError`` or a subclass with every error."""
    try:
        request = parse_predict(body, max_rows)
    except MalformedRequestError as error:
        rows, texts = list(error.dates), list(error.dates.values())
        days, errors = read_days(panel, texts, rows)
        errors += check_stores(panel, error.stores)
        errors += check_origin(panel, error.as_of, dict(zip(rows, days, strict=True)))
        raise RequestError(sort_errors([*error.errors, *errors])) from error
    return inputs_from_request(request, panel)


def inputs_from_request(request: PredictRequest, panel: "Panel") -> PredictInputs:
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
        raise RequestError(sort_errors(errors + day_errors + origin_errors))
    return PredictInputs(
        rows=_to_rows(inputs, store, np.array(days, np.int32)),
        model_stage=request.model_stage,
        as_of=as_of,
        levels=tuple(dict.fromkeys(request.intervals or ())),
        objective=request.objective,
        weekday_mismatches=_weekday_mismatches(inputs, days),
        totals=tuple(dict.fromkeys(request.totals or ())),
    )


def _weekday_mismatches(inputs: Sequence[Row], days: Sequence[int]) -> list[int]:
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
