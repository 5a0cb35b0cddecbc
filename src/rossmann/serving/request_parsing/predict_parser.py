"""Parsing of a ``POST /predict`` body: JSON to a validated request, then to columns.

One fast pass; only a body with errors gets a second one, row by row, which lists all of them. The
checks that need the panel follow.
"""

import json
from codecs import BOM_UTF8
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails, from_json

from rossmann.epoch_days import parse_iso_day, weekday_of
from rossmann.errors import (
    MAX_REPORTED_ERRORS,
    BodyEncodingError,
    ErrorDetail,
    PayloadTooLargeError,
    RequestError,
    cut_errors,
)
from rossmann.models.inference.forecaster import ForecastRequest
from rossmann.models.inference.row_checks import (
    as_int32,
    check_origin,
    check_stores,
    format_value,
    read_days,
    sort_errors,
)
from rossmann.models.inference.row_warnings import RowWarning, weekday_warnings
from rossmann.schema import OBJECTIVES, ROW_FIELDS, STATE_HOLIDAYS, DayArray, Objective, StoreDays
from rossmann.serving.schemas.forecasts import PredictOptions, PredictRequest, Row

if TYPE_CHECKING:
    from rossmann.data.panel.panel import Panel

_HOLIDAY_CODE: Final = {name: code for code, name in enumerate(STATE_HOLIDAYS)}


class MalformedRequestError(RequestError):
    """A body of the wrong form; ``stores`` and ``dates`` hold the valid fields by row number.

    ``as_of`` is the requested origin, where it is text. The caller checks these against the panel,
    so that one response lists all errors.
    """

    def __init__(self, errors: list[ErrorDetail]) -> None:
        super().__init__(errors)
        self.stores: dict[int, int] = {}
        self.dates: dict[int, str] = {}
        self.as_of: str | None = None


_REQUEST: Final = TypeAdapter(PredictRequest)
_ROW: Final = TypeAdapter(Row)
_LARGE_BYTES: Final = 1 << 16
_MAX_FIELDS: Final = 64


def parse_predict(body: bytes, max_rows: int) -> PredictRequest:
    """Parse a body.

    Raises ``BodyEncodingError``, ``PayloadTooLargeError``, or ``MalformedRequestError`` with the
    first ``MAX_REPORTED_ERRORS`` and perhaps some more.
    """
    _check_size(body, max_rows)
    _check_objects(body)
    text = decode_utf8(body)
    try:
        request = _REQUEST.validate_json(text)
    except ValidationError as error:
        raise _list_errors(text, max_rows) from error
    if len(request.inputs) > max_rows:
        raise _too_many(max_rows)
    if text.count('"') != _expected_quotes(request):
        _reject_repeated_keys(text)
    return request


def _expected_quotes(request: PredictRequest) -> int:
    """The quotation marks of a body without repeated keys, where strings are written as usual.

    A row has seven keys and two strings. One count is a hundredth of the time of parsing.
    """
    count = 18 * len(request.inputs)
    for name in request.model_fields_set:
        value = getattr(request, name)
        texts = [value] if isinstance(value, str) else value if name == "totals" else []
        count += 2 + 2 * len(texts or [])
    return count


def _reject_repeated_keys(text: str) -> None:
    """Raise ``MalformedRequestError`` for keys that an object has twice: the last would win."""
    errors: list[ErrorDetail] = []
    row = 0

    def check(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        nonlocal row
        unique = dict(pairs)
        place = () if "inputs" in unique else ("inputs", row)
        row += 1
        if len(unique) < len(pairs) and len(errors) <= MAX_REPORTED_ERRORS:
            for name, count in Counter(name for name, _ in pairs).items():
                if count > 1:
                    msg = f"{name[:80]} is given more than once"
                    errors.append(ErrorDetail((*place, name[:80]), msg, "repeated_key"))
        return unique

    json.loads(text, object_pairs_hook=check)
    if errors:
        raise MalformedRequestError(errors)


def decode_utf8(body: bytes) -> str:
    """The text of a body; raises ``BodyEncodingError``."""
    try:
        return body.removeprefix(BOM_UTF8).decode()
    except UnicodeDecodeError as error:
        msg = f"the body is not UTF-8 (byte {error.start} is no part of a character)"
        raise BodyEncodingError([ErrorDetail(("body",), msg, "not_utf8")]) from error


def _check_size(body: bytes, max_rows: int) -> None:
    """Raise for a body with too many rows before it is parsed, which takes ten times its memory.

    A row has one brace and seven commas; twice as many are allowed, so that unknown fields are
    named by the parser.
    """
    limit = max_rows + 10
    if body.count(b"{") > limit or body.count(b",") > 14 * limit:
        raise _too_many(max_rows)


def _check_objects(body: bytes) -> None:
    """Raise ``MalformedRequestError`` for a large body with an object of very many fields.

    Pydantic keeps a copy of the object for each of its errors: gigabytes for a million fields.
    """
    if len(body) < _LARGE_BYTES:
        return
    data = np.frombuffer(body, np.uint8)
    commas, objects = (np.flatnonzero(data == ord(character)) for character in ",{")
    counts = np.diff(np.searchsorted(commas, objects), append=len(commas))
    if counts.max(initial=len(commas) if not len(objects) else 0) > _MAX_FIELDS:
        msg = f"the body has an object with more than {_MAX_FIELDS} values; a row has seven fields"
        raise MalformedRequestError([ErrorDetail(("body",), msg, "too_many_fields")])


def _too_many(max_rows: int) -> PayloadTooLargeError:
    msg = f"a request may hold at most {max_rows:,} rows: send them in parts"
    return PayloadTooLargeError([ErrorDetail(("inputs",), msg, "too_many_rows")])


def _list_errors(text: str, max_rows: int) -> MalformedRequestError:
    try:
        body = from_json(text)
    except ValueError as error:
        return MalformedRequestError(
            [ErrorDetail(("body",), f"the body is not JSON: {error}", "json_invalid")]
        )
    if not isinstance(body, dict):
        msg = 'the body must be an object such as {"inputs": [...]}'
        return MalformedRequestError([ErrorDetail(("body",), msg, "object_type")])
    malformed = MalformedRequestError(_option_errors(body))
    malformed.as_of = as_of if isinstance(as_of := body.get("as_of"), str) else None
    inputs = body.get("inputs")
    if "inputs" not in body:
        malformed.errors.append(ErrorDetail(("inputs",), "inputs is missing", "missing"))
    elif not isinstance(inputs, list):
        malformed.errors.append(
            ErrorDetail(("inputs",), "inputs must be a list of rows", "list_type")
        )
    elif not inputs:
        malformed.errors.append(
            ErrorDetail(("inputs",), "inputs must hold at least one row", "too_short")
        )
    elif len(inputs) > max_rows:
        raise _too_many(max_rows)
    else:
        _add_row_errors(inputs, malformed)
    return malformed


def _option_errors(body: dict[str, Any]) -> list[ErrorDetail]:
    options = {name: value for name, value in body.items() if name != "inputs"}
    try:
        PredictOptions.model_validate(options)
    except ValidationError as error:
        return to_error_details(error, tuple(PredictRequest.model_fields))
    return []


def to_error_details(error: ValidationError, known: tuple[str, ...]) -> list[ErrorDetail]:
    """The errors of an object with the fields ``known``, in our words, one for each field."""
    kept: dict[tuple[str | int, ...], ErrorDetail] = {}
    for detail in error.errors(include_url=False, include_context=True):
        loc = tuple(step if isinstance(step, int) else step[:80] for step in detail["loc"])
        # pydantic adds the branches of "text or number" to the location.
        loc = loc[:1] if loc[:1] == ("model_stage",) else loc
        name = ".".join(map(str, loc)) or "the body"
        kept.setdefault(
            loc, ErrorDetail(loc or ("body",), _message(name, detail, known), detail["type"])
        )
    return list(kept.values())


def _add_row_errors(inputs: list[Any], malformed: MalformedRequestError) -> None:
    for number, row in enumerate(inputs):
        if len(malformed.errors) > MAX_REPORTED_ERRORS:
            return
        invalid_fields: set[str] = set()
        try:
            _ROW.validate_python(row)
        except ValidationError as error:
            for detail in error.errors(include_url=False):
                field = str(detail["loc"][0])[:80] if detail["loc"] else ""
                invalid_fields.add(field)
                loc = ("inputs", number, field) if field else ("inputs", number)
                name = field or "a row"
                malformed.errors.append(
                    ErrorDetail(loc, _message(name, detail, ROW_FIELDS), detail["type"])
                )
        if isinstance(row, dict):
            if "Store" not in invalid_fields:
                malformed.stores[number] = row["Store"]
            if "Date" not in invalid_fields:
                malformed.dates[number] = row["Date"]


def _message(name: str, detail: ErrorDetails, known: tuple[str, ...]) -> str:
    error_type = detail["type"]
    template = _MESSAGES.get(error_type)
    if template is None:
        return f"{name}: {detail['msg']}"
    if error_type == "missing":
        return template.format(name=name)
    limits = detail.get("ctx", {})
    return template.format(
        name=name,
        got=format_value(detail.get("input")),
        known=", ".join(known),
        range=_RANGES.get(name, detail["msg"]),
        limit=limits.get("gt", limits.get("lt")),
        choices=_CHOICES.get(name, detail["msg"]),
    )


_RANGES: Final = {
    "DayOfWeek": "1 to 7",
    "Open": "0 or 1",
    "Promo": "0 or 1",
    "SchoolHoliday": "0 or 1",
}
_CHOICES: Final = {
    "StateHoliday": ", ".join(STATE_HOLIDAYS) + ", as text",
    "objective": ", ".join(OBJECTIVES),
}
_MESSAGES: Final = {
    "missing": "{name} is missing",
    "extra_forbidden": "{name} is not a field; there are: {known}",
    "int_type": "{name} must be a whole number (got {got})",
    "float_type": "{name} must be a number (got {got})",
    "finite_number": "{name} must be a finite number",
    "string_type": "{name} must be text (got {got})",
    "list_type": "{name} must be a list (got {got})",
    "model_type": "{name} must be an object with {known} (got {got})",
    "dict_type": "{name} must be an object with " + ", ".join(ROW_FIELDS),
    "literal_error": "{name} must be one of {choices} (got {got})",
    "greater_than_equal": "{name} must be {range} (got {got})",
    "less_than_equal": "{name} must be {range} (got {got})",
    "greater_than": "{name} must be more than {limit} (got {got})",
    "less_than": "{name} must be less than {limit} (got {got})",
}
"""Message template of each pydantic error type."""


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
            tuple(dict.fromkeys(request.quantiles or ())),
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
