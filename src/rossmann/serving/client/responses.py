"""Responses of the service: parsed into schemas, raised as errors, or streamed into a file."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

import httpx
from pydantic import BaseModel, TypeAdapter, ValidationError

from rossmann.errors import ErrorDetail, RateLimitError, RequestError, RossmannError, ServiceError
from rossmann.filesystem.atomic_write import atomic_path
from rossmann.schema import Objective
from rossmann.serving.schemas.errors import ErrorResponse, client_error
from rossmann.serving.schemas.forecasts import WarningMessage

ResponseModel = TypeVar("ResponseModel", bound=BaseModel)
_BLOCK_BYTES: Final = 1 << 20
_WARNINGS: Final = TypeAdapter(list[WarningMessage])


def raise_for_error(response: httpx.Response) -> None:
    """Raise the error that the response stands for, if it is one."""
    if response.status_code >= 400:
        raise _parse_error(response)


def parse_response(response: httpx.Response, model: type[ResponseModel]) -> ResponseModel:
    """The body as ``model``; raises ``ServiceError`` where it is another program's."""
    try:
        return model.model_validate_json(response.content)
    except ValidationError as error:
        raise _unexpected_body(response) from error


def parse_list(
    adapter: TypeAdapter[list[ResponseModel]], response: httpx.Response
) -> list[ResponseModel]:
    """The body as a list of models; raises ``ServiceError`` where it is another program's."""
    try:
        return adapter.validate_json(response.content)
    except ValidationError as error:
        raise _unexpected_body(response) from error


def _unexpected_body(response: httpx.Response) -> ServiceError:
    return ServiceError(f"what answers at {response.url} is not this service, or another version")


def _parse_error(response: httpx.Response) -> RossmannError:
    """The error by the status code and the ``detail`` of the response."""
    status = response.status_code
    try:
        body = ErrorResponse.model_validate_json(response.content)
    except ValidationError:
        return ServiceError(f"{response.url} answered {status}")
    details = [ErrorDetail(tuple(detail.loc), detail.msg, detail.type) for detail in body.detail]
    text = "; ".join(detail.msg for detail in details[:5])
    error = client_error(status, details[0].type if details else "")
    if error is None:
        return ServiceError(f"{response.url} answered {status}: {text}")
    if issubclass(error, RequestError):
        return error(details)
    if issubclass(error, RateLimitError):
        seconds = response.headers.get("retry-after", "")
        return error(text, int(seconds) if seconds.isdecimal() else 1)
    return error(text)


@dataclass(frozen=True)
class FileResult:
    """Summary of a file that was forecast; ``path``: the file with its rows."""

    path: Path
    count: int
    model_version: int
    model_stage: str
    as_of: str
    objective: str
    warnings: list[WarningMessage]


def file_options(
    target: Path,
    stage: str | int,
    as_of: str | None,
    objective: Objective | None,
    date_format: str | None,
) -> dict[str, str]:
    """Query parameters; for those left out, the service's defaults hold."""
    file_format = target.suffix.lower().removeprefix(".")
    options = {
        "model_stage": str(stage),
        "as_of": as_of,
        "objective": objective,
        "date_format": date_format,
        "format": file_format if file_format in {"csv", "parquet", "xlsx"} else None,
    }
    return {name: value for name, value in options.items() if value}


def number_lists(**lists: Sequence[float]) -> dict[str, str]:
    """Query parameters that hold numbers with commas between; empty lists are left out."""
    return {
        name: ",".join(str(float(number)) for number in numbers)
        for name, numbers in lists.items()
        if numbers
    }


def transfer_file(
    http: httpx.Client,
    source: Path,
    target: Path,
    params: Mapping[str, str],
    timeout: httpx.Timeout,
) -> FileResult:
    """Stream ``source`` to the service and the response to ``target``, replaced at its end.

    Raises the error that the response stands for, ``httpx.HTTPError`` where it breaks off,
    ``KeyError`` or ``ValueError`` where it is another service's.
    """
    with (
        atomic_path(target) as staging,
        source.open("rb") as body,
        http.stream(
            "POST", "/predict/file", content=body, params=params, timeout=timeout
        ) as response,
    ):
        if response.status_code >= 400:
            response.read()
            raise_for_error(response)
        result = _parse_headers(response.headers, target)
        with staging.open("wb") as file:
            for block in response.iter_bytes(_BLOCK_BYTES):
                file.write(block)
    return result


def _parse_headers(headers: httpx.Headers, target: Path) -> FileResult:
    return FileResult(
        path=target,
        count=int(headers["X-Rows"]),
        model_version=int(headers["X-Model-Version"]),
        model_stage=headers["X-Model-Stage"],
        as_of=headers["X-As-Of"],
        objective=headers["X-Objective"],
        warnings=_WARNINGS.validate_json(headers["X-Warnings"]),
    )
