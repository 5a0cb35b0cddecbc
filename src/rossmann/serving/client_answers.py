"""What the service answered, as a message or as the error that it told."""

from typing import TypeVar

import httpx
from pydantic import BaseModel, TypeAdapter, ValidationError

from rossmann.errors import (
    Fault,
    GateFailed,
    NoKey,
    NoModel,
    NoRight,
    OverRate,
    RequestError,
    RossmannError,
    ServiceError,
    TooLarge,
    UnknownVersion,
)
from rossmann.serving.messages import ErrorAnswer

Answer = TypeVar("Answer", bound=BaseModel)


def refuse(response: httpx.Response) -> None:
    """Raise what the service refused with, if it did."""
    if response.status_code >= 400:
        raise _error_of(response)


def read_answer(response: httpx.Response, shape: type[Answer]) -> Answer:
    """The answer as a message; raises ``ServiceError`` where it is another program's."""
    try:
        return shape.model_validate_json(response.content)
    except ValidationError as error:
        raise _stranger(response) from error


def read_list(adapter: TypeAdapter[list[Answer]], response: httpx.Response) -> list[Answer]:
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
        told = ErrorAnswer.model_validate_json(response.content)
    except ValidationError:
        return ServiceError(f"{response.url} answered {response.status_code}")
    faults = [Fault(tuple(fault.loc), fault.msg, fault.type) for fault in told.detail]
    text = "; ".join(fault.msg for fault in faults[:5])
    match response.status_code:
        case 400 | 405 | 422:
            return RequestError(faults)
        case 409:
            return GateFailed(text)
        case 413:
            return TooLarge(faults)
        case 401:
            return NoKey(text)
        case 403:
            return NoRight(text)
        case 404:
            return UnknownVersion(text)
        case 429:
            waits = response.headers.get("retry-after", "")
            return OverRate(text, int(waits) if waits.isdecimal() else 1)
        case 503:
            return NoModel(text) if faults and faults[0].type == "no_model" else ServiceError(text)
        case _:
            return ServiceError(f"{response.url} answered {response.status_code}: {text}")
