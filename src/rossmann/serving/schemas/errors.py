"""Errors over HTTP: the body of a response, the table of status codes, the catalogue of types.

The table of errors and status codes is the only one: exception handlers, the OpenAPI document and
the HTTP client use it. A type is a stable word that programs may compare; the catalogue has the
status code of each, its meaning, and what to do.
"""

from typing import Annotated, Final, NamedTuple

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


class ErrorType(NamedTuple):
    """What an error of one type means, and what its caller can do."""

    status: int
    meaning: str
    action: str


ERROR_TYPES: Final[dict[str, ErrorType]] = {
    # the call
    "not_installed": ErrorType(
        501, "The service has no libraries for this", "Ask one with all packages"
    ),
    "not_utf8": ErrorType(400, "The body is not text in UTF-8, or broke off", "Send UTF-8"),
    "no_key": ErrorType(401, "No key or token, or an unknown one", "Send a valid `X-API-Key`"),
    "no_right": ErrorType(403, "The key lacks the right", "Use a key with the right to operate"),
    "unknown_host": ErrorType(
        403, "An open service is called by an unknown host name", "Add it to `allowed_hosts`"
    ),
    "cross_site": ErrorType(
        403, "A browser sent the call for a page of another site", "Add the site to `cors_origins`"
    ),
    "not_found": ErrorType(404, "No such path", "See the paths in `GET /docs`"),
    "unknown_version": ErrorType(
        404, "No such stage or version", "Name one that the message lists"
    ),
    "method_not_allowed": ErrorType(405, "The path has no such method", "See `GET /docs`"),
    "refused": ErrorType(408, "The request did not come in time", "Send it faster, or in parts"),
    "gate_failed": ErrorType(
        409, "The gate rejects the version", "Read the table in the message; or use `force`"
    ),
    "model_refused": ErrorType(
        409,
        "The registry cannot do this now: a rival promotion, or no earlier version",
        "Read the message; try again",
    ),
    "too_large": ErrorType(413, "The request is too large", "Send it in parts"),
    "too_many_bytes": ErrorType(
        413, "The body or the file has too many bytes (431: the headers)", "Send it in parts"
    ),
    "too_many_rows": ErrorType(
        413,
        "Too many rows; 422 where a workbook's sheet cannot hold the answer",
        "Send them in parts; ask for CSV or Parquet",
    ),
    "gzip_ratio": ErrorType(
        413, "The gzip body unpacks to far more than it holds", "Send it plain"
    ),
    "media_type": ErrorType(
        415, "The Content-Type is not JSON's", "Send `Content-Type: application/json`"
    ),
    "over_rate": ErrorType(
        429, "The caller has used up calls or rows", "Wait for the seconds in `Retry-After`"
    ),
    "internal": ErrorType(500, "A fault of the program", "Report it with the `request_id`"),
    "no_model": ErrorType(503, "No version is in Production, or none can be had", "Promote one"),
    "damaged_model": ErrorType(
        503, "The version's files are damaged, or of other features", "Roll back, or train anew"
    ),
    "busy": ErrorType(
        503, "More large requests than are taken at once", "Wait for the seconds in `Retry-After`"
    ),
    "away": ErrorType(
        503,
        "The registry, a provider of keys or another service does not answer",
        "Try again later",
    ),
    "no_data": ErrorType(503, "The tables or their arrays cannot be used", "Read the message"),
    # the body
    "json_invalid": ErrorType(422, "The body is not JSON", "Correct it at the named place"),
    "object_type": ErrorType(422, "The body is no object", "Send an object with `inputs`"),
    "too_many_fields": ErrorType(422, "The body has far more fields than rows need", "Remove them"),
    "content_encoding": ErrorType(
        422, "Content-Encoding is unknown, or the body does not fit it", "Send it plain or in gzip"
    ),
    "form": ErrorType(422, "The form with a file cannot be read", "Send one field named `file`"),
    "empty": ErrorType(422, "The file is empty", "Send a table"),
    "no_table": ErrorType(422, "The file is not a table that can be read", "Read the message"),
    "several_sheets": ErrorType(422, "Several sheets hold a table", "Name one by `sheet`"),
    "ambiguous_dates": ErrorType(422, "Dates can be read two ways", "Name the `date_format`"),
    "ambiguous_numbers": ErrorType(
        422, "Numbers can be read two ways", "Name the mark by `decimal`"
    ),
    # fields and options
    "missing": ErrorType(422, "A field is missing or empty", "Add it"),
    "extra_forbidden": ErrorType(422, "An unknown field or option", "Remove it"),
    "repeated_key": ErrorType(422, "A field or option is given twice", "Give it once"),
    "string_type": ErrorType(422, "Not a text", "Send text"),
    "string_too_long": ErrorType(422, "A text that is too long", "Shorten it"),
    "int_type": ErrorType(422, "Not a whole number", "Send a whole number"),
    "int_parsing": ErrorType(422, "Not a whole number in digits", "Send digits only"),
    "float_type": ErrorType(422, "Not a number", "Send a number"),
    "finite_number": ErrorType(422, "NaN or infinity", "Send a finite number"),
    "bool_type": ErrorType(422, "Neither true nor false", "Send true or false"),
    "list_type": ErrorType(422, "Not a list", "Send a list"),
    "dict_type": ErrorType(422, "A row is no object", "Send the seven fields"),
    "model_type": ErrorType(422, "Not an object", "Send an object"),
    "literal_error": ErrorType(422, "Not one of the allowed values", "Use one of the message"),
    "greater_than": ErrorType(422, "A number that is too small", "See the limit in the message"),
    "greater_than_equal": ErrorType(
        422, "A number that is too small", "See the limit in the message"
    ),
    "less_than": ErrorType(422, "A number that is too large", "See the limit in the message"),
    "less_than_equal": ErrorType(422, "A number that is too large", "See the limit in the message"),
    "too_short": ErrorType(422, "`inputs` has no row", "Send at least one row"),
    "too_long": ErrorType(422, "A list with too many values", "Shorten it"),
    "level_range": ErrorType(
        422,
        "A level beyond those that the version is calibrated for",
        "Use a level between the two of the message",
    ),
    "quantile_range": ErrorType(
        422, "A quantile outside .01 to .99", "Use one between the two of the message"
    ),
    "no_correction": ErrorType(
        422, "The version has no unbiased objective", "Use `accuracy`, or train anew"
    ),
    "no_totals": ErrorType(
        422, "The version has no intervals of totals", "Ask without totals, or train anew"
    ),
    # rows
    "unknown_store": ErrorType(422, "The store is not in the tables", "See `GET /stores`"),
    "store_number": ErrorType(422, "`Store` is not a number from 1 on", "Correct the value"),
    "flag": ErrorType(422, "Neither 0 nor 1", "Correct the value"),
    "state_holiday": ErrorType(422, "None of `0`, `a`, `b`, `c`", "Correct the value"),
    "date_format": ErrorType(422, "Not a real date in its format", "Write YYYY-MM-DD"),
    "date_range": ErrorType(
        422,
        "The day of a store's plan or history is out of range",
        "Use a day within the range of the message",
    ),
    "date_before_history": ErrorType(422, "The day is before history", "Use a later day"),
    "date_too_far": ErrorType(422, "More than a year after history", "Use an earlier day"),
    "date_not_after_as_of": ErrorType(422, "The day is not after `as_of`", "Change one of the two"),
    "as_of_range": ErrorType(422, "No sales are known up to `as_of`", "Use a day of history"),
    "duplicate_row": ErrorType(422, "A store's day comes twice in totals", "Remove one"),
    "more_faults": ErrorType(422, "Further errors are not listed", "Correct those that are"),
}
"""By type, as ``detail[].type`` of an error response has it."""
