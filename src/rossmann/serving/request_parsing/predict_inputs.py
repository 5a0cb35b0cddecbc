"""From a request's body to columns, with the checks that need the panel at hand."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from rossmann.epoch_days import parse_iso_day
from rossmann.errors import ErrorDetail, RequestError
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
    """A request as columns; ``weekday_off``: the rows whose DayOfWeek contradicts their Date."""

    rows: StoreDays
    model_stage: str | int
    as_of: int | None
    levels: tuple[float, ...]
    objective: Objective | None
    weekday_mismatches: Sequence[int]
    totals: tuple[str, ...] = ()


def parse_inputs(body: bytes, panel: "Panel", max_rows: int) -> PredictInputs:
    """Read and check a body; raises ``RequestError`` or one of its kinds with every fault."""
    try:
        request = parse_predict(body, max_rows)
    except MalformedRequestError as error:
        rows, texts = list(error.dates), list(error.dates.values())
        days, found = read_days(panel, texts, rows)
        found += check_stores(panel, error.stores)
        found += check_origin(panel, error.as_of, dict(zip(rows, days, strict=True)))
        raise RequestError(sort_errors([*error.faults, *found])) from error
    return inputs_from_request(request, panel)


def inputs_from_request(request: PredictRequest, panel: "Panel") -> PredictInputs:
    """A well-formed request as columns; raises ``RequestError`` with every fault."""
    inputs = request.inputs
    store = as_int32([row["Store"] for row in inputs])
    faults: list[ErrorDetail] = []
    if np.minimum.reduce(panel.store_indices(store)) < 0:  # its method takes three times as long
        faults += check_stores(panel, {row: one["Store"] for row, one in enumerate(inputs)})
    days, bad = read_days(panel, [row["Date"] for row in inputs])
    as_of = None if request.as_of is None else parse_iso_day(request.as_of)
    if faults or bad or (request.as_of is not None and as_of is None):
        more = check_origin(panel, request.as_of, dict(enumerate(days)))
        raise RequestError(sort_errors(faults + bad + more))
    off: list[int] = []
    # 1970-01-01 was a Thursday.
    weekday = {day: (day + 3) % 7 + 1 for day in set(days)}
    told = [row["DayOfWeek"] for row in inputs]
    if told != (known := [weekday[day] for day in days]):
        off = [i for i, (one, other) in enumerate(zip(told, known, strict=True)) if one != other]
    levels = tuple(dict.fromkeys(request.intervals or ()))
    asked = (request.model_stage, as_of, levels, request.objective)
    totals = tuple(dict.fromkeys(request.totals or ()))
    return PredictInputs(_to_rows(inputs, store, np.array(days, np.int32)), *asked, off, totals)


def _to_rows(inputs: Sequence[Row], store: DayArray, day: DayArray) -> StoreDays:
    flags = (
        [row["Open"] for row in inputs],
        [row["Promo"] for row in inputs],
        [_HOLIDAY_CODE[row["StateHoliday"]] for row in inputs],
        [row["SchoolHoliday"] for row in inputs],
    )
    return StoreDays(store, day, *np.array(flags, np.uint8))
