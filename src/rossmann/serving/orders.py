"""What an operator orders: a small body of JSON, or none."""

from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import from_json
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request

from rossmann.errors import Fault, RequestError
from rossmann.serving.body import read_body
from rossmann.serving.reading import decoded, faults_of

Order = TypeVar("Order", bound=BaseModel)
MOST: Final = 16_384
"""Bytes that a few words may take."""


def order_of(shape: type[Order]) -> Callable[[Request], Awaitable[Order]]:
    """A dependency that reads an order; where nothing is said, it is the usual one.

    Read by the rules of the other bodies: what FastAPI reads itself is refused in its own words,
    and may be in any encoding. Raises ``TooLarge``, ``NotUtf8``, ``RequestError``.
    """

    async def read(request: Request) -> Order:
        try:
            body = await read_body(request, MOST)
        except ClientDisconnect as error:
            raise HTTPException(400, "the body broke off") from error
        text = decoded(body)
        if not text.strip():
            return shape()
        try:
            given = from_json(text)
        except ValueError as error:
            fault = Fault(("body",), f"the body is not JSON: {error}", "json_invalid")
            raise RequestError([fault]) from error
        try:
            return shape.model_validate(given)
        except ValidationError as error:
            raise RequestError(faults_of(error, tuple(shape.model_fields))) from error

    return read
