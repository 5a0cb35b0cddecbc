"""Page of errors, warnings and exit codes, and page of the types of errors."""

from rossmann.documentation.reference.markdown import (
    block,
    code,
    page,
    prose,
    section,
    sentence,
    table,
)
from rossmann.errors import EXIT_CODES
from rossmann.models.inference.row_warnings import WARNING_TYPES
from rossmann.serving.schemas.error_types import ERROR_TYPES
from rossmann.serving.schemas.errors import STATUS_DESCRIPTIONS, client_error

_CALL = """curl -s http://127.0.0.1:8000/predict -H 'Content-Type: application/json' -d '{
  "inputs": [{"Store": 5000, "DayOfWeek": 6, "Date": "2015-08-01", "Open": 1, "Promo": 0,
    "StateHoliday": "0", "SchoolHoliday": 0}]}'"""
_SHAPE = """{"detail": [{"loc": ["inputs", 0, "Store"], "msg": "Store must be between 1 and 1115 (got 5000)", "type": "unknown_store"}],
 "request_id": "c53889d7190e45f4ec9496bbe05b77a0"}"""  # noqa: E501


def error_pages() -> dict[str, str]:
    """``errors.md`` and ``error-types.md``."""
    return {"errors.md": _errors_page(), "error-types.md": _types_page()}


def _errors_page() -> str:
    introduction = (
        "Use this page when a call, a forecast or a command tells you that something is wrong."
        " It lists the status codes of the HTTP API, the warnings of a forecast, and the exit"
        " codes of the command line. The `type` of each error is on the page"
        " [Error types](error-types.md)."
    )
    return page("Errors and warnings", introduction, _statuses(), _warnings(), _exit_codes())


def _statuses() -> str:
    rows = []
    for status, text in sorted(STATUS_DESCRIPTIONS.items()):
        error = client_error(status, "")
        rows.append(
            (str(status), sentence(text), code(error.__name__ if error else "ServiceError"))
        )
    text = (
        "Every error response has one shape. `detail` lists each error with its place (`loc`), a"
        " text for people (`msg`) and a stable word (`type`). Compare `type` in programs, never"
        " `msg`. `request_id` finds the call in the logs. The [Python client](python-client.md)"
        " raises the exception of the last column."
    )
    example = block("json", _SHAPE, "response")
    call = block("bash", _CALL)
    return section(
        "Error responses", text, call, example, table(("status", "meaning", "exception"), rows)
    )


def _warnings() -> str:
    text = (
        "A warning is a reason to use a forecast with care; it is never an error. A response has"
        " it in `warnings`, with its `type`, a text, the number of rows and the first of them. A"
        " file has it in the column `warnings` and in the header `X-Warnings`."
    )
    rows = [
        (code(name), sentence(warning.meaning), sentence(warning.action))
        for name, warning in WARNING_TYPES.items()
    ]
    return section("Warnings", text, table(("type", "meaning", "what to do"), rows))


def _exit_codes() -> str:
    rows = [(code(name), prose(text)) for name, text in EXIT_CODES.items()]
    return section("Exit codes", table(("exit code", "meaning"), rows))


def _types_page() -> str:
    introduction = (
        "Use this page to look up the `type` of an error response: its status code, what it means,"
        " and what to do. [Errors and warnings](errors.md) shows the shape of the response."
    )
    parts: dict[str, list[tuple[str, ...]]] = {"Types of a call": [], "Types of invalid input": []}
    for name, error in ERROR_TYPES.items():
        title = "Types of invalid input" if error.status == 422 else "Types of a call"
        row = (code(name), str(error.status), sentence(error.meaning), sentence(error.action))
        parts[title].append(row)
    header = ("type", "status", "meaning", "what to do")
    sections = [section(title, table(header, rows)) for title, rows in parts.items()]
    return page("Error types", introduction, *sections)
