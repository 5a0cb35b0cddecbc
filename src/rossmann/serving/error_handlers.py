"""Exception handlers: the one table from the product's errors to HTTP status codes."""

from collections.abc import Sequence
from typing import Final

from fastapi.exceptions import RequestValidationError
from pydantic_core import to_json
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from rossmann import errors
from rossmann.errors import ErrorDetail, RequestError, RossmannError
from rossmann.logging_config import get_logger
from rossmann.serving.middleware.security_headers import DEFAULT_HEADERS

STATUS_BY_ERROR: Final[tuple[tuple[type[RossmannError], int, str], ...]] = (
    (errors.BodyEncodingError, 400, "not_utf8"),
    (errors.PayloadTooLargeError, 413, "too_large"),
    (errors.RequestError, 422, "refused"),
    (errors.AuthenticationError, 401, "no_key"),
    (errors.PermissionDeniedError, 403, "no_right"),
    (errors.VersionNotFoundError, 404, "unknown_version"),
    (errors.ModelUnavailableError, 503, "no_model"),
    (errors.CorruptModelError, 503, "damaged_model"),
    (errors.GateRejectedError, 409, "gate_failed"),
    (errors.ModelError, 409, "model_refused"),
    (errors.RateLimitError, 429, "over_rate"),
    (errors.ServiceBusyError, 503, "busy"),
    (errors.ServiceError, 503, "away"),
    (errors.DataError, 503, "no_data"),
)
"""The first that fits decides: a kind stands before what it is a kind of."""

_HEADERS: Final = {401: {"WWW-Authenticate": "Bearer"}, 413: {"Connection": "close"}}
_PLACES: Final[dict[str, tuple[str | int, ...]]] = {
    "unknown_version": ("model_stage",),
    "no_key": ("header", "X-API-Key"),
    "no_right": ("header", "X-API-Key"),
}


def _answer(
    request: Request,
    code: int,
    faults: Sequence[ErrorDetail],
    headers: dict[str, str] | None = None,
) -> Response:
    # Faults go in as they are: there may be some for each of 100,000 rows.
    content = {"detail": faults, "request_id": _request_id(request)}
    return Response(to_json(content), code, headers, "application/json")


def _request_id(request: Request) -> str:
    return str(request.scope.get("state", {}).get("request_id", ""))


def handle_product_error(request: Request, error: Exception) -> Response:
    """An error that the product raised on purpose."""
    code, word = next(
        ((code, word) for kind, code, word in STATUS_BY_ERROR if isinstance(error, kind)),
        (500, "internal"),
    )
    if isinstance(error, RequestError):
        faults = error.faults
    else:
        faults = [ErrorDetail(_PLACES.get(word, ()), str(error), word)]
    if code >= 500:
        get_logger("api").warning(
            "cannot answer", request_id=_request_id(request), reason=str(error)
        )
    headers = _HEADERS.get(code)
    if isinstance(error, errors.RateLimitError | errors.ServiceBusyError):
        headers = {"Retry-After": str(error.seconds)}
    return _answer(request, code, faults, headers)


def handle_validation_error(request: Request, error: Exception) -> Response:
    """A path, a query or a small body that FastAPI has read for us."""
    assert isinstance(error, RequestValidationError)
    faults = [
        ErrorDetail(tuple(detail["loc"]), str(detail["msg"]), str(detail["type"]))
        for detail in error.errors()
    ]
    return _answer(request, 422, faults)


def handle_http_error(request: Request, error: Exception) -> Response:
    """No such path, or not with this method."""
    assert isinstance(error, HTTPException)
    words = {
        400: ("the body is not UTF-8", "not_utf8"),
        404: ("no such path; GET /docs lists those there are", "not_found"),
        405: (f"{request.method} is not allowed here", "method_not_allowed"),
    }
    msg, word = words.get(error.status_code, (str(error.detail), "refused"))
    headers = dict(error.headers or {}) | _HEADERS.get(error.status_code, {})
    place = "body" if error.status_code in {400, 413} else "path"
    return _answer(request, error.status_code, [ErrorDetail((place,), msg, word)], headers)


def handle_unexpected_error(request: Request, error: Exception) -> Response:
    """A fault of ours: the log has all of it, the caller its number."""
    request_id = _request_id(request)
    get_logger("api").error("unexpected error", request_id=request_id, exc_info=error)
    fault = ErrorDetail((), "internal error: the log has more", "internal")
    # It is made outside of what dresses the others.
    return _answer(request, 500, [fault], {**DEFAULT_HEADERS, "X-Request-ID": request_id})
