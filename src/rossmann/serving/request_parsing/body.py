"""Reading of request bodies: raw bytes up to a limit, and small JSON bodies as models."""

import re
import zlib
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import from_json
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.types import Message

from rossmann.errors import (
    ErrorDetail,
    MediaTypeError,
    PayloadTooLargeError,
    RequestError,
    ServiceBusyError,
)
from rossmann.serving.request_parsing.predict_parser import decode_utf8, to_error_details

JSON_TYPE_KEY: Final = "json_type"
"""Key in a request's state: true where a Content-Type must be that of JSON."""
_JSON_TYPE: Final = re.compile(rb"(application/([\w.!#$&^-]+\+)?|text/)json", re.IGNORECASE)

_JSON: Final = b"application/json"
_MAX_RATIO: Final = 200
"""Plain bytes for each byte of gzip; rows of a chain have 40 to 75, the format allows 1,000."""
_UNPACKED_ANYWAY: Final = 2**20
"""Bytes that a body may have unpacked, whatever its ratio."""

LATE_KEY: Final = "late"
"""Key in a request's state: the seconds in which its body should have come, once they are over."""
_HELD_KEY: Final = "body_bytes"
_NOT_COUNTED: Final = 65_536
"""Bytes of a body that are in hand anyway: small requests are answered while large ones wait."""
_RETRY_AFTER: Final = 5
"""Seconds after which a body that found no room may be sent again."""


class BodyBudget:
    """Bytes of all bodies in hand: received in part, or waiting to be parsed.

    A caller may hold half of them, or one body of the largest size. One for each process, used on
    its event loop.
    """

    def __init__(self, max_bytes: int, max_body_bytes: int) -> None:
        self._free = max(max_bytes, max_body_bytes)
        self._share = max(max_bytes // 2, max_body_bytes)
        self._held: dict[str, int] = {}

    def hold(self, request: Request, caller: str, size: int) -> None:
        """Count the body of a caller's request at ``size``; raises ``ServiceBusyError``."""
        if size <= _NOT_COUNTED:
            return
        state = request.scope["state"]
        more = size - state.get(_HELD_KEY, 0)
        held = self._held.get(caller, 0) + more
        if more > self._free or held > self._share:
            raise ServiceBusyError(
                "large bodies of other requests are being received: send this one again, or the"
                " rows in smaller parts",
                _RETRY_AFTER,
            )
        self._free -= more
        self._held[caller] = held
        state[_HELD_KEY] = size

    def release(self, request: Request, caller: str) -> None:
        """Count the body of a request no longer."""
        size = request.scope["state"].pop(_HELD_KEY, 0)
        if size:
            self._free += size
            self._held[caller] -= size
            if not self._held[caller]:
                del self._held[caller]


def reject_query(request: Request) -> None:
    """Raise ``RequestError`` for query parameters of a route whose options are in its body."""
    msg = "is not read here: options belong into the body"
    errors = [
        ErrorDetail(("query", name[:80]), f"{name[:80]} {msg}", "extra_forbidden")
        for name in request.query_params
    ]
    if errors:
        raise RequestError(errors)


async def read_body(
    request: Request, max_bytes: int, hold: Callable[[int], object] | None = None
) -> bytes:
    """The body.

    Raises ``MediaTypeError`` for a Content-Type other than JSON's, where the service is open to
    all: forms and plain text are what a browser sends for any page. None at all is accepted.
    Raises ``PayloadTooLargeError`` as soon as its length or the bytes received exceed
    ``max_bytes``, what ``hold`` raises for the bytes in hand, ``HTTPException`` (408) where it does
    not come in time, and ``ClientDisconnect`` where the client went away.
    """
    encoding = b""
    for name, value in request.scope["headers"]:
        if name == b"content-length":
            if value.isdigit() and (len(value) > 18 or int(value) > max_bytes):
                raise _too_long(max_bytes)
        elif name == b"content-encoding":
            encoding = value.strip().lower()
        elif name == b"content-type" and value != _JSON and JSON_TYPE_KEY in request.scope["state"]:
            _check_type(value)
    message = await request.receive()
    if message.get("more_body") or message["type"] == "http.disconnect":
        body = await _receive(request, message, max_bytes, hold)
    else:
        body = message.get("body", b"")
        if len(body) > max_bytes:
            raise _too_long(max_bytes)
        if hold is not None:
            hold(len(body))
    if encoding in {b"", b"identity"}:
        return body
    plain = _decoded(body, encoding, max_bytes)
    if hold is not None:
        hold(len(plain))
    return plain


async def _receive(
    request: Request, message: Message, max_bytes: int, hold: Callable[[int], object] | None
) -> bytes:
    """A body that comes in parts, of which ``message`` has the first."""
    state = request.scope["state"]
    parts: list[bytes] = []
    size = 0
    # ``request.stream`` does the same by a generator, which takes 5 % of a response's time.
    while True:
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        part = message.get("body", b"")
        size += len(part)
        if size > max_bytes:
            raise _too_long(max_bytes)
        if hold is not None:
            hold(size)
        parts.append(part)
        if not message.get("more_body", False):
            return b"".join(parts)
        if LATE_KEY in state:
            raise HTTPException(408, f"the body did not come within {state[LATE_KEY]:g} seconds")
        message = await request.receive()


def _check_type(content_type: bytes) -> None:
    name = content_type.partition(b";")[0].strip()
    if name and not _JSON_TYPE.fullmatch(name):
        msg = (
            f"the body is sent as {name[:60].decode('latin-1')}: send it with the header"
            " Content-Type: application/json (curl: -H 'Content-Type: application/json')"
        )
        raise MediaTypeError([ErrorDetail(("header", "Content-Type"), msg, "media_type")])


def _decoded(body: bytes, encoding: bytes, max_bytes: int) -> bytes:
    """A body without its Content-Encoding; raises ``RequestError`` or ``PayloadTooLargeError``."""
    if encoding not in {b"gzip", b"x-gzip"}:
        name = encoding[:20].decode("latin-1")
        msg = f"Content-Encoding {name} is not known: send the body plain or with gzip"
        raise RequestError([ErrorDetail(("body",), msg, "content_encoding")])
    limit = min(max_bytes, max(_UNPACKED_ANYWAY, _MAX_RATIO * len(body)))
    unpacker = zlib.decompressobj(16 + zlib.MAX_WBITS)
    try:
        plain = unpacker.decompress(body, limit + 1)
    except zlib.error as error:
        msg = f"the body is not gzip, as Content-Encoding says: {error}"
        raise RequestError([ErrorDetail(("body",), msg, "content_encoding")]) from error
    if len(plain) > limit:
        raise _too_long(max_bytes) if limit == max_bytes else _too_dense()
    if not unpacker.eof:
        msg = "the gzip body is cut short"
        raise RequestError([ErrorDetail(("body",), msg, "content_encoding")])
    return plain


def _too_dense() -> PayloadTooLargeError:
    msg = f"the gzip body unpacks to more than {_MAX_RATIO} times its size: send it plain"
    return PayloadTooLargeError([ErrorDetail(("body",), msg, "gzip_ratio")])


def _too_long(max_bytes: int) -> PayloadTooLargeError:
    megabytes = max_bytes // 2**20
    limit = f"{megabytes} MB: send the rows in parts" if megabytes else f"{max_bytes:,} bytes"
    msg = f"a body may hold at most {limit}"
    return PayloadTooLargeError([ErrorDetail(("body",), msg, "too_many_bytes")])


BodyModel = TypeVar("BodyModel", bound=BaseModel)
MAX_BODY_BYTES: Final = 16_384
"""Length limit of a small JSON body."""


def json_body(model: type[BodyModel]) -> Callable[[Request], Awaitable[BodyModel]]:
    """A dependency that reads a small JSON body; an empty body gives the model's defaults.

    The same rules as for other bodies: FastAPI's own reading has other messages and accepts other
    encodings. Raises ``PayloadTooLargeError``, ``BodyEncodingError``, ``RequestError``.
    """

    async def read(request: Request) -> BodyModel:
        try:
            body = await read_body(request, MAX_BODY_BYTES)
        except ClientDisconnect as error:
            raise HTTPException(400, "the body broke off") from error
        text = decode_utf8(body)
        if not text:
            return model()
        try:
            content = from_json(text)
        except ValueError as error:
            detail = ErrorDetail(("body",), f"the body is not JSON: {error}", "json_invalid")
            raise RequestError([detail]) from error
        try:
            return model.model_validate(content)
        except ValidationError as error:
            raise RequestError(to_error_details(error, tuple(model.model_fields))) from error

    return read
