"""Errors over HTTP: the body of an error response, and the one table of errors and status codes.

The table is used by the exception handlers, the OpenAPI document and the HTTP client.
"""

from typing import Annotated, Final

from pydantic import BaseModel, Field

from rossmann import errors
from rossmann.errors import RossmannError


class ErrorDetailMessage(BaseModel):
    """One fault: where, what, and its kind."""

    loc: Annotated[
        list[str | int], Field(description="place: field, row number, header or parameter")
    ]
    msg: Annotated[str, Field(description="text for people")]
    type: Annotated[str, Field(description="a stable word")]


class ErrorResponse(BaseModel):
    """The one shape of every error."""

    detail: Annotated[list[ErrorDetailMessage], Field(description="every error")]
    request_id: Annotated[str, Field(description="id of the request")]


STATUS_BY_ERROR: Final[tuple[tuple[type[RossmannError], int, str], ...]] = (
    (errors.BodyEncodingError, 400, "not_utf8"),
    (errors.PayloadTooLargeError, 413, "too_large"),
    (errors.MediaTypeError, 415, "media_type"),
    (errors.RequestError, 422, "refused"),
    (errors.AuthenticationError, 401, "no_key"),
    (errors.HostNotAllowedError, 403, "unknown_host"),
    (errors.CrossSiteError, 403, "cross_site"),
    (errors.PermissionDeniedError, 403, "no_right"),
    (errors.VersionNotFoundError, 404, "unknown_version"),
    (errors.ModelUnavailableError, 503, "no_model"),
    (errors.CorruptModelError, 503, "damaged_model"),
    (errors.GateRejectedError, 409, "gate_failed"),
    (errors.ModelError, 409, "model_refused"),
    (errors.RateLimitError, 429, "over_rate"),
    (errors.ServiceBusyError, 503, "busy"),
    (errors.NotInstalledError, 501, "not_installed"),
    (errors.ServiceError, 503, "away"),
    (errors.DataError, 503, "no_data"),
)
"""Error class, status code and ``type``; the first match decides, so subclasses come first."""

_CLIENT_ERRORS: Final[dict[int, type[RossmannError]]] = {
    **{status: error for error, status, _ in reversed(STATUS_BY_ERROR)},
    400: errors.RequestError,
    403: errors.PermissionDeniedError,
    405: errors.RequestError,
    503: errors.ServiceError,
}
"""The class that the client raises for a status: the first of the table, but for these codes."""

STATUS_DESCRIPTIONS: Final = {
    400: "The body is not UTF-8, or broke off",
    401: "No key, or a wrong one",
    403: "A key without the right; without keys, a call from a page of another site or by a name"
    " that is not known",
    404: "No such version or stage; it names those there are",
    409: "The gate refuses the version, or another has come before it",
    408: "The body did not come in time",
    413: "Too many rows or bytes; send them in parts",
    415: "The body is sent as something else than JSON",
    422: "Refused, with every fault and its place",
    429: "Over the rate; Retry-After says when to come again",
    501: "This installation has no libraries for it",
    503: "What it takes is away for now: a model, the registry, or who knows the keys",
}
"""Descriptions of error responses in the OpenAPI document."""


def status_of(error: RossmannError) -> tuple[int, str]:
    """Status code and ``type`` of an error response."""
    return next(
        ((status, name) for kind, status, name in STATUS_BY_ERROR if isinstance(error, kind)),
        (500, "internal"),
    )


def client_error(status: int, error_type: str) -> type[RossmannError] | None:
    """The class that the client raises for an error response; None for an unknown status."""
    if (status, error_type) == (503, "no_model"):
        return errors.ModelUnavailableError
    return _CLIENT_ERRORS.get(status)
