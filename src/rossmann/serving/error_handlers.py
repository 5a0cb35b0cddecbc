"""Exception handlers: error responses for the product's and the framework's errors."""

from collections.abc import Sequence
from typing import Final

from fastapi.exceptions import RequestValidationError
from pydantic_core import to_json
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from rossmann import errors
from rossmann.errors import ErrorDetail, RequestError, RossmannError
from rossmann.installation import without_local_details
from rossmann.logging_config import get_logger
from rossmann.serving.middleware import DEFAULT_HEADERS
from rossmann.serving.schemas.errors import status_of

_HEADERS: Final = {
    401: {"WWW-Authenticate": "Bearer"},
    408: {"Connection": "close"},
    413: {"Connection": "close"},
}
_LOCATIONS: Final[dict[str, tuple[str | int, ...]]] = {
    "unknown_version": ("model_stage",),
    "no_key": ("header", "X-API-Key"),
    "no_right": ("header", "X-API-Key"),
    "unknown_host": ("header", "Host"),
    "cross_site": ("header", "Origin"),
}


def handle_product_error(request: Request, error: Exception) -> Response:
    """The response to a ``RossmannError``."""
    assert isinstance(error, RossmannError)
    status, error_type = status_of(error)
    if isinstance(error, RequestError):
        details = error.errors
    else:
        msg = without_local_details(str(error)) if status >= 500 else str(error)
        details = [ErrorDetail(_LOCATIONS.get(error_type, ()), msg, error_type)]
    if status >= 500:
        get_logger("api").warning(
            "cannot answer", request_id=_request_id(request), reason=str(error)
        )
    headers = _HEADERS.get(status)
    if isinstance(error, errors.RetryLaterError):
        headers = {"Retry-After": str(error.seconds)}
    return _error_response(request, status, details, headers)


def handle_validation_error(request: Request, error: Exception) -> Response:
    """The response to a path, query or small body that FastAPI's own validation refuses."""
    assert isinstance(error, RequestValidationError)
    details = [
        ErrorDetail(tuple(detail["loc"]), str(detail["msg"]), str(detail["type"]))
        for detail in error.errors()
    ]
    return _error_response(request, 422, details)


def handle_http_error(request: Request, error: Exception) -> Response:
    """The response to an unknown path, or to a method that it does not have."""
    assert isinstance(error, HTTPException)
    messages = {
        400: ("the body is not UTF-8", "not_utf8"),
        404: ("no such path; GET /docs lists those there are", "not_found"),
        405: (f"{request.method} is not allowed here", "method_not_allowed"),
    }
    msg, error_type = messages.get(error.status_code, (str(error.detail), "refused"))
    headers = dict(error.headers or {}) | _HEADERS.get(error.status_code, {})
    location = "body" if error.status_code in {400, 408, 413} else "path"
    details = [ErrorDetail((location,), msg, error_type)]
    return _error_response(request, error.status_code, details, headers)


def handle_unexpected_error(request: Request, error: Exception) -> Response:
    """The response to a bug: the log gets the traceback, the caller the request id."""
    request_id = _request_id(request)
    get_logger("api").error("unexpected error", request_id=request_id, exc_info=error)
    detail = ErrorDetail((), "internal error: the log has more", "internal")
    # This handler runs outside of the middleware that adds headers to other responses.
    return _error_response(request, 500, [detail], {**DEFAULT_HEADERS, "X-Request-ID": request_id})


def _error_response(
    request: Request,
    status: int,
    details: Sequence[ErrorDetail],
    headers: dict[str, str] | None = None,
) -> Response:
    # Dumped without a pydantic model: there may be some errors for each of 100,000 rows.
    content = {"detail": details, "request_id": _request_id(request)}
    return Response(to_json(content), status, headers, "application/json")


def _request_id(request: Request) -> str:
    return str(request.scope.get("state", {}).get("request_id", ""))
