"""The request of ``POST /predict/file``: query options, and the body streamed to disk."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.exceptions import HTTPException
from starlette.requests import Request

from rossmann.data.uploads.file_formats import FileFormat
from rossmann.data.uploads.value_formats import DATE_FORMATS, DECIMAL_MARKS, DecimalMark
from rossmann.epoch_days import parse_iso_day
from rossmann.errors import ErrorDetail, PayloadTooLargeError, RequestError, ServiceError
from rossmann.models.inference.row_checks import format_value
from rossmann.schema import Objective
from rossmann.serving.batch_prediction.upload_limits import TransferDeadline
from rossmann.serving.request_parsing.predict_parser import to_error_details
from rossmann.serving.schemas.forecasts import PredictOptions

_BLOCK: Final = 1 << 20
_FIRST_BLOCK: Final = 1 << 16
_FORM: Final = "multipart/form-data"


class MultipartFileReader:
    """Extracts the one file of a multipart form, as a browser or ``curl -F file=@x`` sends it."""

    def __init__(self, content_type: str) -> None:
        _, options = parse_options_header(content_type)
        boundary = options.get(b"boundary")
        if not boundary:
            raise _form_error("the Content-Type of a form must name its boundary")
        self._data: list[bytes] = []
        self._header = b""
        self._value = b""
        self._in_file = False
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
            raise _form_error(str(error)) from error

    def feed(self, data: bytes) -> bytes:
        """The bytes of the file in ``data``; raises ``RequestError`` for an invalid form."""
        try:
            self._parser.write(data)
        except FormParserError as error:
            raise _form_error(f"the form cannot be read: {error}") from error
        content = b"".join(self._data)
        self._data.clear()
        return content

    def end(self) -> None:
        """Finish parsing; raises ``RequestError`` for a form without a whole file."""
        try:
            self._parser.finalize()
        except FormParserError as error:
            raise _form_error(f"the form cannot be read: {error}") from error
        if not self._files:
            raise _form_error("the form holds no file: curl -F file=@sales.csv sends one")

    def _begin(self) -> None:
        self._in_file = False

    def _on_field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _on_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _on_header(self) -> None:
        if self._header.lower() == b"content-disposition":
            _, options = parse_options_header(self._value)
            if b"filename" in options:
                self._files += 1
                self._in_file = True
                if self._files > 1:
                    raise _form_error("the form holds more than one file: send one at a time")
            else:
                raise _form_error("the form holds more than a file: options belong into the query")
        self._header = self._value = b""

    def _on_data(self, data: bytes, start: int, end: int) -> None:
        if self._in_file:
            self._data.append(data[start:end])


def _form_error(msg: str) -> RequestError:
    return RequestError([ErrorDetail(("body",), msg, "form")])


async def save_upload(first: bytes, blocks: AsyncIterator[bytes], path: Path) -> None:
    """Write the blocks of an upload to ``path``.

    Raises ``RequestError`` for an empty file, ``ServiceError`` where the disk is full, and what
    ``upload_blocks`` raises.
    """
    if not first:
        raise RequestError([ErrorDetail(("body",), "the file is empty", "empty")])
    try:
        with await asyncio.to_thread(path.open, "wb", buffering=0) as file:
            await asyncio.to_thread(file.write, first)
            async for block in blocks:
                await asyncio.to_thread(file.write, block)
    except OSError as error:
        raise ServiceError(
            f"the file cannot be kept for its forecasts: {error.strerror}"
        ) from error


async def upload_blocks(
    request: Request, max_bytes: int, deadline: TransferDeadline
) -> AsyncGenerator[bytes]:
    """The body, or the one file of a form, in blocks of about a megabyte; the first is smaller.

    Raises ``PayloadTooLargeError`` as soon as the length exceeds ``max_bytes``, ``RequestError``
    for a form without a file, ``HTTPException`` (408) where it comes too slowly, and
    ``ClientDisconnect``.
    """
    length = request.headers.get("content-length", "0")
    content_type = request.headers.get("content-type", "")
    is_form = content_type.lower().startswith(_FORM)
    form = MultipartFileReader(content_type) if is_form else None
    # A form may hold anything before and after its file.
    limit = max_bytes if form is None else max_bytes + _BLOCK
    if length.isdecimal() and (len(length) > 18 or int(length) > limit):
        raise _too_long(max_bytes)
    parts: list[bytes] = []
    size = total = received = 0
    enough = _FIRST_BLOCK
    async for part in _parts(request, deadline):
        content = form.feed(part) if form else part
        parts.append(content)
        size += len(content)
        total += len(content)
        received += len(part)
        if total > max_bytes or received > max_bytes + _BLOCK:
            raise _too_long(max_bytes)
        if size >= enough:
            yield b"".join(parts)
            parts, size, enough = [], 0, _BLOCK
    if form is not None:
        form.end()
    if size:
        yield b"".join(parts)


async def _parts(request: Request, deadline: TransferDeadline) -> AsyncIterator[bytes]:
    stream = aiter(request.stream())
    while True:
        try:
            part = await deadline.wait(anext(stream, None))
        except TimeoutError as error:
            raise HTTPException(408, "the file came too slowly") from error
        if part is None:
            return
        deadline.moved(len(part))
        yield part


def _too_long(max_bytes: int) -> PayloadTooLargeError:
    msg = f"a file may hold at most {max_bytes // 2**20} MB: send the rows in parts"
    return PayloadTooLargeError([ErrorDetail(("body",), msg, "too_many_bytes")])


FILE_FORMATS: Final[tuple[FileFormat, ...]] = ("csv", "parquet", "xlsx")
_TEXT_OPTIONS: Final = ("date_format", "decimal", "sheet", "format")
_NUMBER_LISTS: Final = ("intervals", "quantiles")
OPTION_NAMES: Final = (
    *("model_stage", "as_of", "intervals", "quantiles", "objective"),
    *_TEXT_OPTIONS,
)


@dataclass(frozen=True, slots=True)
class BatchOptions:
    """Query options; ``as_of`` in epoch days, ``file_format`` None for the upload's own.

    ``date_format``, ``decimal`` (the decimal mark) and ``sheet`` decide where the file does not.
    """

    model_stage: str | int
    as_of: int | None
    levels: tuple[float, ...]
    quantiles: tuple[float, ...]
    objective: Objective
    date_format: str | None
    decimal: DecimalMark | None
    sheet: str | None
    file_format: FileFormat | None


def read_options(
    query: Iterable[tuple[str, str]], default_objective: Objective = "accuracy"
) -> BatchOptions:
    """Parse the query; raises ``RequestError`` with every error."""
    values, errors = _query_values(query)
    date_format, decimal, sheet, file_format = (values.pop(n, None) for n in _TEXT_OPTIONS)
    options = PredictOptions()
    try:
        options = PredictOptions.model_validate(values)
    except ValidationError as error:
        errors += to_error_details(error, OPTION_NAMES)
    as_of = None if options.as_of is None else parse_iso_day(options.as_of)
    if options.as_of is not None and as_of is None:
        msg = f"as_of must be a real date written YYYY-MM-DD (got {format_value(options.as_of)})"
        errors.append(ErrorDetail(("as_of",), msg, "date_format"))
    chosen_dates = _choice("date_format", date_format, DATE_FORMATS, errors)
    chosen_format = _choice("format", file_format, FILE_FORMATS, errors)
    chosen_mark = _choice("decimal", decimal, DECIMAL_MARKS, errors)
    if errors:
        raise RequestError(errors)
    return BatchOptions(
        options.model_stage,
        as_of,
        tuple(dict.fromkeys(options.intervals or ())),
        tuple(dict.fromkeys(options.quantiles or ())),
        options.objective or default_objective,
        chosen_dates,
        next((mark for mark in DECIMAL_MARKS if mark == chosen_mark), None),
        sheet,
        next((name for name in FILE_FORMATS if name == chosen_format), None),
    )


def _query_values(query: Iterable[tuple[str, str]]) -> tuple[dict[str, Any], list[ErrorDetail]]:
    """The options that are not empty, and an error for each unknown and each repeated one."""
    values: dict[str, Any] = {}
    errors: list[ErrorDetail] = []
    for name, text in query:
        if name not in OPTION_NAMES:
            msg = f"{name[:80]} is not an option; there are: {', '.join(OPTION_NAMES)}"
            errors.append(ErrorDetail((name[:80],), msg, "extra_forbidden"))
        elif name in _NUMBER_LISTS:
            parts = [part.strip() for part in text.split(",")]
            values.setdefault(name, []).extend(_number(part) for part in parts if part)
        elif name in values:
            errors.append(ErrorDetail((name,), f"{name} is given more than once", "repeated_key"))
        else:
            values[name] = text
    return {name: value for name, value in values.items() if value != ""}, errors


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text  # the model refuses it with the message of every other number


def _choice(
    name: str, text: str | None, choices: tuple[str, ...], errors: list[ErrorDetail]
) -> str | None:
    if text is None:
        return None
    for choice in choices:
        if choice.casefold() == text.strip().casefold():
            return choice
    msg = f"{name} must be one of {', '.join(choices)} (got {format_value(text)})"
    errors.append(ErrorDetail((name,), msg, "literal_error"))
    return None
