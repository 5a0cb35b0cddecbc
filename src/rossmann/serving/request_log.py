"""One line a request: JSON when collected, plain on a terminal; written straight to stderr.

The general logger takes ten times as long as this, which is much where an answer takes half a
millisecond.
"""

import logging
import sys
from collections.abc import Callable
from typing import Final, TextIO

from rossmann.logs import Clock, Format, Level, Steady, json_line, writes_json
from rossmann.serving.tracing import trace_id
from rossmann.serving.watch import Line

_LONGEST: Final = 256
"""Characters of a path that are kept: it is the caller's text."""


def request_log(
    level: Level, form: Format, traced: bool = False, stream: TextIO | None = None
) -> Callable[[Line], None] | None:
    """What writes a request's line; None where the level leaves it out."""
    if logging.getLevelNamesMapping()[level.upper()] > logging.INFO:
        return None
    worded = _as_json if writes_json(form) else _as_text
    trace = trace_id if traced else str
    write = Steady(stream or sys.stderr).write
    clock = Clock()

    def tell(line: Line) -> None:
        write(worded(line, clock(), trace()))

    return tell


def _as_json(line: Line, time: str, trace: str) -> str:
    told: dict[str, object] = {
        "time": time,
        "level": "error" if line.code >= 500 else "info",
        "event": "request",
        "request_id": line.request_id,
        "method": line.method,
        "route": line.route,
        "path": line.path[:_LONGEST],
        "code": line.code,
        "ms": round(line.seconds * 1000, 3),
        "rows": line.rows,
        "model_version": line.model_version or None,
        "caller": line.caller or None,
        "bytes": line.bytes,
    }
    if trace:
        told["trace_id"] = trace
    return json_line(told) + "\n"


def _as_text(line: Line, time: str, trace: str) -> str:
    # Escaped: a path with a line end or a colour in it would look like a line of ours.
    path = line.path[:_LONGEST].encode("unicode_escape").decode()
    told = f"{time} {line.method} {path} {line.code} {line.seconds * 1000:.1f} ms"
    more = (
        ("rows", line.rows),
        ("model_version", line.model_version),
        ("caller", line.caller),
        ("bytes", line.bytes),
        ("request_id", line.request_id),
        ("trace_id", trace),
    )
    return " ".join([told, *(f"{name}={value}" for name, value in more if value)]) + "\n"
