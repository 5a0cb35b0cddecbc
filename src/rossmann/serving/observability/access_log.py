"""One line a request: JSON when collected, plain on a terminal; written to stderr.

The general logger takes ten times as long as this, which is much where an answer takes half a
millisecond. A thread writes the lines, a tenth of a second of them at once: a write takes longer
than wording the line, and one that waits for a reader who is slow must hold up no answer.
"""

import logging
import sys
import threading
from collections import deque
from dataclasses import dataclass
from typing import Final, TextIO

from starlette.requests import Request

from rossmann.logging_config import (
    LogFormat,
    LogLevel,
    NonFailingStream,
    TimestampFormatter,
    get_logger,
    json_line,
    uses_json,
)
from rossmann.serving.observability.tracing import trace_id

REQUEST_RECORD_KEY: Final = "line"


@dataclass(slots=True)
class RequestRecord:
    """What is told of one request; whoever answers it fills in what only they know."""

    request_id: str
    method: str
    path: str
    route: str | None = None
    code: int = 500
    seconds: float = 0.0
    bytes: int = 0
    """Of the answer's body."""
    rows: int = 0
    model_version: int = 0
    caller: str = ""
    """The name of a key, never the key."""


def request_record(request: Request) -> RequestRecord:
    """The line of the request that is being answered, to fill in."""
    line: RequestRecord = request.scope["state"][REQUEST_RECORD_KEY]
    return line


_LONGEST: Final = 256
"""Characters of a path that are kept: it is the caller's text."""
_TOGETHER: Final = 0.1
"""Seconds whose lines are written at once."""
_MOST: Final = 100_000
"""Lines that wait for a slow reader: some 40 MB."""
_PATIENCE: Final = 2.0
"""Seconds that the end waits for one."""


class AccessLog:
    """Tells of requests; ``start`` and ``close`` begin and end its thread.

    Before and after, lines are written at once.
    """

    def __init__(self, form: LogFormat, traced: bool = False, stream: TextIO | None = None) -> None:
        self._worded = _as_json if uses_json(form) else _as_text
        self._trace = trace_id if traced else str
        self._stream = NonFailingStream(stream or sys.stderr)
        self._clock = TimestampFormatter()
        self._lines: deque[str] = deque()
        self._some = threading.Event()
        self._ending = threading.Event()
        self._thread: threading.Thread | None = None
        self._lost = 0

    def write(self, line: RequestRecord) -> None:
        """Write a request's line, soon; waits for nothing while the thread runs."""
        text = self._worded(line, self._clock(), self._trace())
        if self._thread is None:
            self._stream.write(text)
        elif len(self._lines) >= _MOST:
            self._lost += 1
        else:
            self._lines.append(text)
            if not self._some.is_set():
                self._some.set()

    def start(self) -> None:
        """From now on a thread writes."""
        self._ending.clear()
        self._thread = threading.Thread(target=self._run, name="request-log", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Write what waits, unless nobody reads it, and end the thread."""
        thread, self._thread = self._thread, None
        self._ending.set()
        self._some.set()
        if thread is not None:
            thread.join(_PATIENCE)

    def _run(self) -> None:
        while not self._ending.is_set():
            self._some.wait()
            self._ending.wait(_TOGETHER)
            self._some.clear()
            self._write()

    def _write(self) -> None:
        lines, lost = self._lines, self._lost
        self._stream.write("".join(lines.popleft() for _ in range(len(lines))))
        self._stream.flush()
        if lost and not self._lines:
            self._lost -= lost
            get_logger("request_log").error("lines were lost: who reads them is slow", lines=lost)


def open_access_log(
    level: LogLevel, form: LogFormat, traced: bool = False, stream: TextIO | None = None
) -> AccessLog | None:
    """What writes a request's line; None where the level leaves it out."""
    if logging.getLevelNamesMapping()[level.upper()] > logging.INFO:
        return None
    return AccessLog(form, traced, stream)


def _as_json(line: RequestRecord, time: str, trace: str) -> str:
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


def _as_text(line: RequestRecord, time: str, trace: str) -> str:
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
