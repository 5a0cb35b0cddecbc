"""What the service answered, as a message or as the error that it told.

MERGED: File transfer of the client: disk to service to disk, never whole in memory.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import httpx
from pydantic import BaseModel, TypeAdapter, ValidationError

from rossmann.errors import (
    AuthenticationError,
    ErrorDetail,
    GateRejectedError,
    ModelUnavailableError,
    PayloadTooLargeError,
    PermissionDeniedError,
    RateLimitError,
    RequestError,
    RossmannError,
    ServiceError,
    VersionNotFoundError,
)
from rossmann.schema import Objective
from rossmann.serving.schemas.forecasts import ErrorResponse, WarningMessage

ResponseModel = TypeVar("ResponseModel", bound=BaseModel)


def raise_for_error(response: httpx.Response) -> None:
    """Raise what the service refused with, if it did."""
    if response.status_code >= 400:
        raise _error_of(response)


def parse_response(response: httpx.Response, shape: type[ResponseModel]) -> ResponseModel:
    """The answer as a message; raises ``ServiceError`` where it is another program's."""
    try:
        return shape.model_validate_json(response.content)
    except ValidationError as error:
        raise _stranger(response) from error


def parse_list(
    adapter: TypeAdapter[list[ResponseModel]], response: httpx.Response
) -> list[ResponseModel]:
    """The same for a list of messages."""
    try:
        return adapter.validate_json(response.content)
    except ValidationError as error:
        raise _stranger(response) from error


def _stranger(response: httpx.Response) -> ServiceError:
    return ServiceError(f"what answers at {response.url} is not this service, or another version")


def _error_of(response: httpx.Response) -> RossmannError:
    """The error that the service told by code and ``detail``."""
    try:
        told = ErrorResponse.model_validate_json(response.content)
    except ValidationError:
        return ServiceError(f"{response.url} answered {response.status_code}")
    faults = [ErrorDetail(tuple(fault.loc), fault.msg, fault.type) for fault in told.detail]
    text = "; ".join(fault.msg for fault in faults[:5])
    match response.status_code:
        case 400 | 405 | 422:
            return RequestError(faults)
        case 409:
            return GateRejectedError(text)
        case 413:
            return PayloadTooLargeError(faults)
        case 401:
            return AuthenticationError(text)
        case 403:
            return PermissionDeniedError(text)
        case 404:
            return VersionNotFoundError(text)
        case 429:
            waits = response.headers.get("retry-after", "")
            return RateLimitError(text, int(waits) if waits.isdecimal() else 1)
        case 503:
            return (
                ModelUnavailableError(text)
                if faults and faults[0].type == "no_model"
                else ServiceError(text)
            )
        case _:
            return ServiceError(f"{response.url} answered {response.status_code}: {text}")


_BLOCK = 1 << 20
_NOTICES = TypeAdapter(list[WarningMessage])


@dataclass(frozen=True)
class FileResult:
    """What was told of a file that was forecast; ``path``: where its rows are."""

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
    intervals: Sequence[float],
    objective: Objective | None,
    date_format: str | None,
) -> dict[str, str]:
    """The query; what is not asked for is left to the service."""
    form = target.suffix.lower().removeprefix(".")
    asked = {
        "model_stage": str(stage),
        "as_of": as_of,
        "intervals": ",".join(str(float(level)) for level in intervals),
        "objective": objective,
        "date_format": date_format,
        "format": form if form in {"csv", "parquet", "xlsx"} else None,
    }
    return {name: value for name, value in asked.items() if value}


def transfer_file(
    http: httpx.Client,
    source: Path,
    target: Path,
    params: Mapping[str, str],
    timeout: httpx.Timeout,
    check: Callable[[httpx.Response], None],
) -> FileResult:
    """Send ``source`` and write the answer to ``target``, which is there only when it is whole.

    ``check`` raises for a refusal. Raises ``httpx.HTTPError`` where the answer breaks off,
    ``KeyError`` or ``ValueError`` where what answers is another service.
    """
    draft = target.with_name(f".{target.name}.draft")
    try:
        with (
            source.open("rb") as body,
            http.stream(
                "POST", "/predict/file", content=body, params=params, timeout=timeout
            ) as answer,
        ):
            if answer.status_code >= 400:
                answer.read()
                check(answer)
            told = _told(answer.headers, target)
            with draft.open("wb") as out:
                for block in answer.iter_bytes(_BLOCK):
                    out.write(block)
        draft.replace(target)
    finally:
        draft.unlink(missing_ok=True)
    return told


def _told(headers: httpx.Headers, target: Path) -> FileResult:
    return FileResult(
        path=target,
        count=int(headers["X-Rows"]),
        model_version=int(headers["X-Model-Version"]),
        model_stage=headers["X-Model-Stage"],
        as_of=headers["X-As-Of"],
        objective=headers["X-Objective"],
        warnings=_NOTICES.validate_json(headers["X-Warnings"]),
    )
