"""From a body to a request: one fast pass, and a second, row by row, only where it has a fault.

The second pass is what lets an answer list every fault of every row.
"""

from typing import Any, Final

from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails, from_json

from rossmann.errors import BodyEncodingError, ErrorDetail, PayloadTooLargeError, RequestError
from rossmann.models.inference.row_checks import format_value
from rossmann.schema import OBJECTIVES, ROW_FIELDS, STATE_HOLIDAYS
from rossmann.serving.schemas.forecasts import PredictOptions, PredictRequest, Row


class MalformedRequestError(RequestError):
    """A body of the wrong form; ``stores`` and ``dates`` hold the good fields by row number.

    ``as_of`` is the origin that was asked for, where it is text.

    What can only be told with the panel at hand (is there such a store?) is checked on those, so
    that one answer lists everything.
    """

    def __init__(self, faults: list[ErrorDetail]) -> None:
        super().__init__(faults)
        self.stores: dict[int, int] = {}
        self.dates: dict[int, str] = {}
        self.as_of: str | None = None


_REQUEST: Final = TypeAdapter(PredictRequest)
_ROW: Final = TypeAdapter(Row)


def parse_predict(body: bytes, max_rows: int) -> PredictRequest:
    """Read a body; raises ``NotUtf8``, ``TooLarge``, or ``FormFaults`` with every fault."""
    _refuse_crowds(body, max_rows)
    text = decode_utf8(body)
    try:
        request = _REQUEST.validate_json(text)
    except ValidationError as error:
        raise _list_faults(text, max_rows) from error
    if len(request.inputs) > max_rows:
        raise _too_many(max_rows)
    return request


def decode_utf8(body: bytes) -> str:
    """The text of a body; raises ``NotUtf8``."""
    try:
        return body.decode()
    except UnicodeDecodeError as error:
        msg = f"the body is not UTF-8 (byte {error.start} is no part of a character)"
        raise BodyEncodingError([ErrorDetail(("body",), msg, "not_utf8")]) from error


def _refuse_crowds(body: bytes, max_rows: int) -> None:
    """Refuse what must hold too many rows before it is parsed, which would take ten times its size.

    A row takes one brace and, with what parts it from the next, seven commas; twice as many where
    it has fields that there are not, so that these are named.
    """
    room = max_rows + 10
    if body.count(b"{") > room or body.count(b",") > 14 * room:
        raise _too_many(max_rows)


def _too_many(max_rows: int) -> PayloadTooLargeError:
    msg = f"a request may hold at most {max_rows:,} rows: send them in parts"
    return PayloadTooLargeError([ErrorDetail(("inputs",), msg, "too_many_rows")])


def _list_faults(text: str, max_rows: int) -> MalformedRequestError:
    try:
        body = from_json(text)
    except ValueError as error:
        return MalformedRequestError(
            [ErrorDetail(("body",), f"the body is not JSON: {error}", "json_invalid")]
        )
    if not isinstance(body, dict):
        msg = 'the body must be an object such as {"inputs": [...]}'
        return MalformedRequestError([ErrorDetail(("body",), msg, "object_type")])
    found = MalformedRequestError(_option_faults(body))
    found.as_of = as_of if isinstance(as_of := body.get("as_of"), str) else None
    inputs = body.get("inputs")
    if "inputs" not in body:
        found.faults.append(ErrorDetail(("inputs",), "inputs is missing", "missing"))
    elif not isinstance(inputs, list):
        found.faults.append(ErrorDetail(("inputs",), "inputs must be a list of rows", "list_type"))
    elif not inputs:
        found.faults.append(
            ErrorDetail(("inputs",), "inputs must hold at least one row", "too_short")
        )
    elif len(inputs) > max_rows:
        raise _too_many(max_rows)
    else:
        _row_faults(inputs, found)
    return found


def _option_faults(body: dict[str, Any]) -> list[ErrorDetail]:
    options = {name: value for name, value in body.items() if name != "inputs"}
    try:
        PredictOptions.model_validate(options)
    except ValidationError as error:
        return to_error_details(error, tuple(PredictRequest.model_fields))
    return []


def to_error_details(error: ValidationError, known: tuple[str, ...]) -> list[ErrorDetail]:
    """The faults of an object with the fields ``known``, in our words, each field's once."""
    kept: dict[tuple[str | int, ...], ErrorDetail] = {}
    for detail in error.errors(include_url=False, include_context=True):
        loc = tuple(step if isinstance(step, int) else step[:80] for step in detail["loc"])
        # The arms of "text or number" come as further steps of the place.
        loc = loc[:1] if loc[:1] == ("model_stage",) else loc
        name = ".".join(map(str, loc)) or "the body"
        kept.setdefault(
            loc, ErrorDetail(loc or ("body",), _wording(name, detail, known), detail["type"])
        )
    return list(kept.values())


def _row_faults(inputs: list[Any], found: MalformedRequestError) -> None:
    for number, row in enumerate(inputs):
        bad: set[str] = set()
        try:
            _ROW.validate_python(row)
        except ValidationError as error:
            for detail in error.errors(include_url=False):
                field = str(detail["loc"][0])[:80] if detail["loc"] else ""
                bad.add(field)
                loc = ("inputs", number, field) if field else ("inputs", number)
                name = field or "a row"
                found.faults.append(
                    ErrorDetail(loc, _wording(name, detail, ROW_FIELDS), detail["type"])
                )
        if isinstance(row, dict):
            if "Store" not in bad:
                found.stores[number] = row["Store"]
            if "Date" not in bad:
                found.dates[number] = row["Date"]


def _wording(name: str, detail: ErrorDetails, known: tuple[str, ...]) -> str:
    kind = detail["type"]
    words = _WORDS.get(kind)
    if words is None:
        return f"{name}: {detail['msg']}"
    if kind == "missing":  # the commonest, and it has nothing more to say
        return words.format(name=name)
    limits = detail.get("ctx", {})
    return words.format(
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
_WORDS: Final = {
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
"""Our words for each kind of fault."""
