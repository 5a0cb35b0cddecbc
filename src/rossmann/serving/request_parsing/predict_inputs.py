"""From a request's body to columns, with the checks that need the panel at hand."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from rossmann.epoch_days import read_day
from rossmann.errors import Fault, RequestError
from rossmann.models.inference.protocols import Calendar
from rossmann.models.inference.row_checks import (
    as_int32,
    in_order,
    origin_faults,
    read_days,
    store_faults,
)
from rossmann.schema import STATE_HOLIDAYS, DayArray, Objective, Rows
from rossmann.serving.request_parsing.predict_parser import FormFaults, parse_predict
from rossmann.serving.schemas.forecasts import PredictRequest, Row

_HOLIDAY_CODE: Final = {name: code for code, name in enumerate(STATE_HOLIDAYS)}


@dataclass(frozen=True, slots=True)
class Inputs:
    """A request as columns; ``weekday_off``: the rows whose DayOfWeek contradicts their Date."""

    rows: Rows
    model_stage: str | int
    as_of: int | None
    levels: tuple[float, ...]
    objective: Objective | None
    weekday_off: Sequence[int]
    totals: tuple[str, ...] = ()


def read_inputs(body: bytes, panel: Calendar, max_rows: int) -> Inputs:
    """Read and check a body; raises ``RequestError`` or one of its kinds with every fault."""
    try:
        request = parse_predict(body, max_rows)
    except FormFaults as error:
        rows, texts = list(error.dates), list(error.dates.values())
        days, found = read_days(panel, texts, rows)
        found += store_faults(panel, error.stores)
        found += origin_faults(panel, error.as_of, dict(zip(rows, days, strict=True)))
        raise RequestError(in_order([*error.faults, *found])) from error
    return to_inputs(request, panel)


def to_inputs(request: PredictRequest, panel: Calendar) -> Inputs:
    """A well-formed request as columns; raises ``RequestError`` with every fault."""
    inputs = request.inputs
    store = as_int32([row["Store"] for row in inputs])
    faults: list[Fault] = []
    if np.minimum.reduce(panel.locate(store)) < 0:  # its method takes three times as long
        faults += store_faults(panel, {row: one["Store"] for row, one in enumerate(inputs)})
    days, bad = read_days(panel, [row["Date"] for row in inputs])
    as_of = None if request.as_of is None else read_day(request.as_of)
    if faults or bad or (request.as_of is not None and as_of is None):
        more = origin_faults(panel, request.as_of, dict(enumerate(days)))
        raise RequestError(in_order(faults + bad + more))
    off: list[int] = []
    # 1970-01-01 was a Thursday.
    weekday = {day: (day + 3) % 7 + 1 for day in set(days)}
    told = [row["DayOfWeek"] for row in inputs]
    if told != (known := [weekday[day] for day in days]):
        off = [i for i, (one, other) in enumerate(zip(told, known, strict=True)) if one != other]
    levels = tuple(dict.fromkeys(request.intervals or ()))
    asked = (request.model_stage, as_of, levels, request.objective)
    totals = tuple(dict.fromkeys(request.totals or ()))
    return Inputs(_to_rows(inputs, store, np.array(days, np.int32)), *asked, off, totals)


def _to_rows(inputs: Sequence[Row], store: DayArray, day: DayArray) -> Rows:
    flags = (
        [row["Open"] for row in inputs],
        [row["Promo"] for row in inputs],
        [_HOLIDAY_CODE[row["StateHoliday"]] for row in inputs],
        [row["SchoolHoliday"] for row in inputs],
    )
    return Rows(store, day, *np.array(flags, np.uint8))
