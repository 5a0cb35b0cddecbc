"""Logging for every process: one line per event, readable on a terminal, JSON when collected.

Our own events and, where a process wants it, those of libraries leave through one renderer.
"""

import logging
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Final, Literal, TextIO

import structlog
from pydantic_core import to_json
from structlog.typing import EventDict, Processor, WrappedLogger

LogLevel = Literal["debug", "info", "warning", "error"]
LogFormat = Literal["auto", "console", "json"]

_FIRST: Final = ("time", "level", "event")
"""The names that a line begins with."""


def configure_logging(level: LogLevel = "info", form: LogFormat = "auto") -> None:
    """Send our events to stderr: ``auto`` is for people on a terminal, else JSON lines."""
    structlog.configure(
        processors=[*_before(), *_renderers(form)],
        wrapper_class=structlog.make_filtering_bound_logger(_number(level)),
        logger_factory=structlog.WriteLoggerFactory(NonFailingStream(sys.stderr)),  # type: ignore[arg-type]
        cache_logger_on_first_use=False,
    )


def configure_library_logging(level: LogLevel = "info", form: LogFormat = "auto") -> None:
    """Send what libraries say (and Python's warnings) the same way.

    They log their progress below ``warning``: it is shown at level ``debug`` only.
    """
    root = logging.getLogger()
    for old in [known for known in root.handlers if isinstance(known, _Ours)]:
        root.removeHandler(old)
    ours = _Ours(sys.stderr)
    after = [structlog.stdlib.ProcessorFormatter.remove_processors_meta, *_renderers(form)]
    ours.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*_before(), _add_part], processors=after
        )
    )
    root.addHandler(ours)
    root.setLevel(logging.DEBUG if level == "debug" else max(_number(level), logging.WARNING))
    logging.captureWarnings(True)


def uses_json(form: LogFormat) -> bool:
    """Whether events are written as JSON lines."""
    return form == "json" or (form == "auto" and not sys.stderr.isatty())


def get_logger(name: str) -> structlog.typing.FilteringBoundLogger:
    """A logger whose events carry the name of the part that speaks."""
    logger: structlog.typing.FilteringBoundLogger = structlog.get_logger(part=name)
    return logger


class TimestampFormatter:
    """The time of an event: UTC, ISO 8601, milliseconds. A second is worded once."""

    def __init__(self) -> None:
        # One object, replaced whole: threads may share a clock.
        self._worded = (0, "")

    def __call__(self) -> str:
        """The time as of now."""
        now = time.time()
        whole = int(now)
        second, text = self._worded
        if second != whole:
            text = datetime.fromtimestamp(whole, UTC).strftime("%Y-%m-%dT%H:%M:%S")
            self._worded = (whole, text)
        return f"{text}.{int((now - whole) * 1000):03d}+00:00"


def json_line(event: Mapping[str, Any]) -> str:
    """An event as one line without its end; what JSON has no word for becomes text."""
    return to_json(event, fallback=repr, inf_nan_mode="strings").decode()


class NonFailingStream:
    """A stream that never fails: a full disk must fail no request."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        """Write the text, or lose it."""
        try:  # `suppress` would take as long as the rest
            self._stream.write(text)
        except (OSError, ValueError):  # full, gone, or closed
            return

    def flush(self) -> None:
        """Send what was written, or lose it."""
        with suppress(OSError, ValueError):
            self._stream.flush()


class _Ours(logging.StreamHandler[Any]):
    """Known by its kind, so that it can be replaced and no other is."""


def _number(level: LogLevel) -> int:
    return logging.getLevelNamesMapping()[level.upper()]


def _before() -> list[Processor]:
    clock = TimestampFormatter()

    def add_time(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
        event["time"] = clock()
        return event

    merge = structlog.contextvars.merge_contextvars
    return [merge, structlog.processors.add_log_level, add_time]


def _renderers(form: LogFormat) -> list[Processor]:
    if uses_json(form):
        return [structlog.processors.format_exc_info, _render]
    return [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), timestamp_key="time")]


def _render(_: WrappedLogger, __: str, event: EventDict) -> str:
    first = {name: event.pop(name) for name in _FIRST if name in event}
    return json_line({**first, **event})


def _add_part(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    event["part"] = event["_record"].name
    return event
