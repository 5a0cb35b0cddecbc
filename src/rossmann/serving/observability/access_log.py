"""Access log: one line a request to stderr, as JSON, or as text on a terminal.

The general logger takes ten times as long, which is much for a response of half a millisecond. A
thread writes the lines of a tenth of a second at once, so that a slow reader delays no response.
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

REQUEST_RECORD_KEY: Final = "record"


@dataclass(slots=True)
class RequestRecord:
    """One request in the access log; its handler fills in rows, version and caller."""

    request_id: str
    method: str
    path: str
    route: str | None = None
    code: int = 500
    seconds: float = 0.0
    bytes: int = 0
    """Of the response body."""
    rows: int = 0
    model_version: int = 0
    caller: str = ""
    """The name of a key, never the key."""


def request_record(request: Request) -> RequestRecord:
    """The record of a request that is being answered."""
    record: RequestRecord = request.scope["state"][REQUEST_RECORD_KEY]
    return record


_MAX_PATH_LENGTH: Final = 256
_FLUSH_SECONDS: Final = 0.1
_MAX_LINES: Final = 100_000
"""Buffered lines while the reader is slow: some 40 MB."""
_CLOSE_TIMEOUT: Final = 2.0


class AccessLog:
    """Writes request records; between ``start`` and ``close`` by a thread, else at once."""

    def __init__(
        self, log_format: LogFormat, traced: bool = False, stream: TextIO | None = None
    ) -> None:
        self._format = _as_json if uses_json(log_format) else _as_text
        self._trace = trace_id if traced else str
        self._stream = NonFailingStream(stream or sys.stderr)
        self._clock = TimestampFormatter()
        self._lines: deque[str] = deque()
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._lost = 0

    def write(self, record: RequestRecord) -> None:
        """Write a record; does not block while the thread runs."""
        text = self._format(record, self._clock(), self._trace())
        if self._thread is None:
            self._stream.write(text)
        elif len(self._lines) >= _MAX_LINES:
            self._lost += 1
        else:
            self._lines.append(text)
            if not self._wake.is_set():
                self._wake.set()

    def start(self) -> None:
        """Start the writing thread."""
        self._stop.clear()
        self._thread = threading.Thread(target=self._run, name="request-log", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Write the buffered lines, unless the pipe is closed, and end the thread."""
        thread, self._thread = self._thread, None
        self._stop.set()
        self._wake.set()
        if thread is not None:
            thread.join(_CLOSE_TIMEOUT)

    def _run(self) -> None:
        while not self._stop.is_set():
            self._wake.wait()
            self._stop.wait(_FLUSH_SECONDS)
            self._wake.clear()
            self._write()

    def _write(self) -> None:
        lines, lost = self._lines, self._lost
        self._stream.write("".join(lines.popleft() for _ in range(len(lines))))
        self._stream.flush()
        if lost and not self._lines:
            self._lost -= lost
            get_logger("request_log").error("lines were lost: who reads them is slow", lines=lost)


def open_access_log(
    level: LogLevel, log_format: LogFormat, traced: bool = False, stream: TextIO | None = None
) -> AccessLog | None:
    """The access log; None where the log level excludes it."""
    if logging.getLevelNamesMapping()[level.upper()] > logging.INFO:
        return None
    return AccessLog(log_format, traced, stream)


def _as_json(record: RequestRecord, time: str, trace: str) -> str:
    fields: dict[str, object] = {
        "time": time,
        "level": "error" if record.code >= 500 else "info",
        "event": "request",
        "request_id": record.request_id,
        "method": record.method,
        "route": record.route,
        "path": record.path[:_MAX_PATH_LENGTH],
        "code": record.code,
        "ms": round(record.seconds * 1000, 3),
        "rows": record.rows,
        "model_version": record.model_version or None,
        "caller": record.caller or None,
        "bytes": record.bytes,
    }
    if trace:
        fields["trace_id"] = trace
    return json_line(fields) + "\n"


def _as_text(record: RequestRecord, time: str, trace: str) -> str:
    # Escaped: a path with a line end or a colour code could fake a log line.
    path = record.path[:_MAX_PATH_LENGTH].encode("unicode_escape").decode()
    start = f"{time} {record.method} {path} {record.code} {record.seconds * 1000:.1f} ms"
    more = (
        ("rows", record.rows),
        ("model_version", record.model_version),
        ("caller", record.caller),
        ("bytes", record.bytes),
        ("request_id", record.request_id),
        ("trace_id", trace),
    )
    return " ".join([start, *(f"{name}={value}" for name, value in more if value)]) + "\n"
