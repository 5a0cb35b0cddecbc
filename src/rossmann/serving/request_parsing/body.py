"""What an operator orders: a small body of JSON, or none.

MERGED: A request's body, taken in up to a length.

MERGED: What stands in the address of a call: whole numbers, and the names of its options.
"""

import re
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from pydantic import BaseModel, BeforeValidator, ValidationError
from pydantic_core import PydanticCustomError, from_json
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request

from rossmann.errors import ErrorDetail, PayloadTooLargeError, RequestError
from rossmann.serving.request_parsing.predict_parser import decode_utf8, to_error_details


async def read_body(request: Request, most: int) -> bytes:
    """The body; raises ``TooLarge`` as soon as it is known to be longer than ``most`` bytes, and
    ``ClientDisconnect`` where the caller went away.
    """
    for name, told in request.scope["headers"]:
        if name == b"content-length" and told.isdigit() and (len(told) > 18 or int(told) > most):
            raise _too_long(most)
    parts: list[bytes] = []
    size, more = 0, True
    # ``request.stream`` gives the same through a generator: a twentieth of an answer's time.
    while more:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        part = message.get("body", b"")
        size += len(part)
        if size > most:
            raise _too_long(most)
        parts.append(part)
        more = message.get("more_body", False)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _too_long(most: int) -> PayloadTooLargeError:
    room = f"{most // 2**20} MB: send the rows in parts" if most >= 2**20 else f"{most:,} bytes"
    msg = f"a body may hold at most {room}"
    return PayloadTooLargeError([ErrorDetail(("body",), msg, "too_many_bytes")])


BodyModel = TypeVar("BodyModel", bound=BaseModel)
MAX_BODY_BYTES: Final = 16_384
"""Bytes that a few words may take."""


def json_body(shape: type[BodyModel]) -> Callable[[Request], Awaitable[BodyModel]]:
    """A dependency that reads an order; where nothing is said, it is the usual one.

    Read by the rules of the other bodies: what FastAPI reads itself is refused in its own words,
    and may be in any encoding. Raises ``TooLarge``, ``NotUtf8``, ``RequestError``.
    """

    async def read(request: Request) -> BodyModel:
        try:
            body = await read_body(request, MAX_BODY_BYTES)
        except ClientDisconnect as error:
            raise HTTPException(400, "the body broke off") from error
        text = decode_utf8(body)
        if not text.strip():
            return shape()
        try:
            given = from_json(text)
        except ValueError as error:
            fault = ErrorDetail(("body",), f"the body is not JSON: {error}", "json_invalid")
            raise RequestError([fault]) from error
        try:
            return shape.model_validate(given)
        except ValidationError as error:
            raise RequestError(to_error_details(error, tuple(shape.model_fields))) from error

    return read


_WHOLE: Final = re.compile(r"-?[0-9]+")


def _digits(given: object) -> object:
    """Python itself would take 1_0 for ten, and a blank before it, or .0 after it, for nothing."""
    if isinstance(given, str) and not _WHOLE.fullmatch(given):
        raise PydanticCustomError("int_parsing", "must be a whole number, in digits")
    return given


StrictInteger: Final = BeforeValidator(_digits)
"""Whole numbers as JSON writes them. Put it into an ``Annotated`` type of a path or a query."""


async def reject_unknown_query_params(request: Request) -> None:
    """A dependency: raises ``RequestError`` for options in the query that the call does not have.

    An option that is spelled wrong would else be left out, and the usual answer be taken for the
    one that was asked for.
    """
    there = [field.alias for field in request.scope["route"].dependant.query_params]
    choice = f"there are: {', '.join(there)}" if there else "there are none"
    faults = [
        ErrorDetail(
            ("query", name[:80]), f"{name[:80]} is not an option; {choice}", "extra_forbidden"
        )
        for name in request.query_params
        if name not in there
    ]
    if faults:
        raise RequestError(faults)
