"""A file from a request's body to disk, as it arrives; never more of it in memory than a block.

MERGED: What a file is asked to be forecast with: the query of ``POST /predict/file``.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.exceptions import HTTPException
from starlette.requests import Request

from rossmann.data.uploads.fields import DATE_FORMATS
from rossmann.data.uploads.table_chunks import FileFormat
from rossmann.epoch_days import parse_iso_day
from rossmann.errors import ErrorDetail, PayloadTooLargeError, RequestError, ServiceError
from rossmann.models.inference.row_checks import format_value
from rossmann.schema import Objective
from rossmann.serving.request_parsing.predict_parser import to_error_details
from rossmann.serving.schemas.forecasts import PredictOptions

_BLOCK: Final = 1 << 20
_PATIENCE: Final = 60.0
"""Seconds that a client may send nothing."""
_FORM: Final = "multipart/form-data"


class MultipartFileReader:
    """Takes the one file out of a form, as a browser or ``curl -F file=@x`` sends it."""

    def __init__(self, content_type: str) -> None:
        _, options = parse_options_header(content_type)
        boundary = options.get(b"boundary")
        if not boundary:
            raise _no_form("the Content-Type of a form must name its boundary")
        self._found: list[bytes] = []
        self._header = b""
        self._value = b""
        self._takes = False
        self._files = 0
        calls = {
            "on_part_begin": self._begin,
            "on_header_field": self._on_field,
            "on_header_value": self._on_value,
            "on_header_end": self._on_header,
            "on_part_data": self._on_data,
        }
        try:
            self._parser = MultipartParser(boundary, calls)  # type: ignore[arg-type]
        except FormParserError as error:
            raise _no_form(str(error)) from error

    def feed(self, data: bytes) -> bytes:
        """What ``data`` holds of the file; raises ``RequestError`` for what is no such form."""
        try:
            self._parser.write(data)
        except FormParserError as error:
            raise _no_form(f"the form cannot be read: {error}") from error
        found = b"".join(self._found)
        self._found.clear()
        return found

    def end(self) -> None:
        """Nothing follows; raises ``RequestError`` where there was no file, or half of one."""
        try:
            self._parser.finalize()
        except FormParserError as error:
            raise _no_form(f"the form cannot be read: {error}") from error
        if not self._files:
            raise _no_form("the form holds no file: curl -F file=@sales.csv sends one")

    def _begin(self) -> None:
        self._takes = False

    def _on_field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _on_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _on_header(self) -> None:
        if self._header.lower() == b"content-disposition":
            _, options = parse_options_header(self._value)
            if b"filename" in options:
                self._files += 1
                self._takes = True
                if self._files > 1:
                    raise _no_form("the form holds more than one file: send one at a time")
            else:
                raise _no_form("the form holds more than a file: options belong into the query")
        self._header = self._value = b""

    def _on_data(self, data: bytes, start: int, end: int) -> None:
        if self._takes:
            self._found.append(data[start:end])


def _no_form(msg: str) -> RequestError:
    return RequestError([ErrorDetail(("body",), msg, "form")])


async def save_upload(request: Request, path: Path, most: int) -> int:
    """Write the body, or the one file in its form, to ``path``: the bytes written.

    Raises ``TooLarge`` as soon as it is known to be longer than ``most`` bytes, ``RequestError``
    for a form without a file and for an empty file, ``ServiceError`` where the disk is full,
    ``ClientDisconnect``.
    """
    told = request.headers.get("content-length", "0")
    kind = request.headers.get("content-type", "")
    form = MultipartFileReader(kind) if kind.lower().startswith(_FORM) else None
    # A form's own lines come on top.
    room = most if form is None else most + _BLOCK
    if told.isdecimal() and (len(told) > 18 or int(told) > room):
        raise _too_long(most)
    size = 0
    try:
        with await asyncio.to_thread(path.open, "wb", buffering=0) as file:
            async for block in _blocks(request, form.feed if form else bytes, most):
                size += len(block)
                await asyncio.to_thread(file.write, block)
    except OSError as error:
        raise ServiceError(
            f"the file cannot be kept for its forecasts: {error.strerror}"
        ) from error
    if form is not None:
        form.end()
    if not size:
        raise RequestError([ErrorDetail(("body",), "the file is empty", "empty")])
    return size


async def _blocks(
    request: Request, taken: Callable[[bytes], bytes], most: int
) -> AsyncIterator[bytes]:
    """The body in blocks of about a megabyte; raises ``TooLarge`` beyond ``most`` bytes."""
    parts: list[bytes] = []
    size = total = came = 0
    stream = aiter(request.stream())
    while True:
        try:
            async with asyncio.timeout(_PATIENCE):
                part = await anext(stream, None)
        except TimeoutError as error:
            raise HTTPException(408, f"nothing came for {_PATIENCE:.0f} seconds") from error
        if part is None:
            break
        found = taken(part)
        parts.append(found)
        size += len(found)
        total += len(found)
        came += len(part)
        # A form may hold anything before and after its file.
        if total > most or came > most + _BLOCK:
            raise _too_long(most)
        if size >= _BLOCK:
            yield b"".join(parts)
            parts, size = [], 0
    if size:
        yield b"".join(parts)


def _too_long(most: int) -> PayloadTooLargeError:
    msg = f"a file may hold at most {most // 2**20} MB: send the rows in parts"
    return PayloadTooLargeError([ErrorDetail(("body",), msg, "too_many_bytes")])


FILE_FORMATS: Final[tuple[FileFormat, ...]] = ("csv", "parquet", "xlsx")
OPTION_NAMES: Final = ("model_stage", "as_of", "intervals", "objective", "date_format", "format")


@dataclass(frozen=True, slots=True)
class BatchOptions:
    """The options; ``as_of`` in days since 1970-01-01, ``form`` None for the file's own."""

    model_stage: str | int
    as_of: int | None
    levels: tuple[float, ...]
    objective: Objective | None
    date_format: str | None
    form: FileFormat | None


def read_options(query: Iterable[tuple[str, str]]) -> BatchOptions:
    """Read the query's pairs; raises ``RequestError`` with every fault."""
    given: dict[str, Any] = {}
    faults: list[ErrorDetail] = []
    for name, text in query:
        if name not in OPTION_NAMES:
            msg = f"{name[:80]} is not an option; there are: {', '.join(OPTION_NAMES)}"
            faults.append(ErrorDetail((name[:80],), msg, "extra_forbidden"))
        elif name == "intervals":
            parts = [part.strip() for part in text.split(",")]
            given.setdefault(name, []).extend(_number(part) for part in parts if part)
        elif text:
            given[name] = text
    date_format, form = given.pop("date_format", None), given.pop("format", None)
    options = PredictOptions()
    try:
        options = PredictOptions.model_validate(given)
    except ValidationError as error:
        faults += to_error_details(error, OPTION_NAMES)
    as_of = None if options.as_of is None else parse_iso_day(options.as_of)
    if options.as_of is not None and as_of is None:
        msg = f"as_of must be a real date written YYYY-MM-DD (got {format_value(options.as_of)})"
        faults.append(ErrorDetail(("as_of",), msg, "date_format"))
    chosen = _chosen("date_format", date_format, DATE_FORMATS, faults)
    wanted = _chosen("format", form, FILE_FORMATS, faults)
    if faults:
        raise RequestError(faults)
    levels = tuple(dict.fromkeys(options.intervals or ()))
    known = next((kind for kind in FILE_FORMATS if kind == wanted), None)
    return BatchOptions(options.model_stage, as_of, levels, options.objective, chosen, known)


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text  # so that it is refused in the words of every other number


def _chosen(
    name: str, text: str | None, choices: tuple[str, ...], faults: list[ErrorDetail]
) -> str | None:
    if text is None:
        return None
    for choice in choices:
        if choice.casefold() == text.strip().casefold():
            return choice
    msg = f"{name} must be one of {', '.join(choices)} (got {format_value(text)})"
    faults.append(ErrorDetail((name,), msg, "literal_error"))
    return None
