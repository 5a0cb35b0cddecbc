"""OpenTelemetry traces, switched on by its usual variables; without them, next to no cost.

FastAPI makes the span of each request; ``span`` adds one for a part of the work. The exporter is
the extra ``rossmann[tracing]``, and is imported only where traces are on.
"""

import contextvars
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from importlib.util import find_spec
from typing import Final, ParamSpec, TypeVar

from fastapi.telemetry import TelemetryConfig
from opentelemetry.trace import INVALID_SPAN, Span, get_current_span, get_tracer

from rossmann.errors import SettingsError
from rossmann.installation import install_command

P = ParamSpec("P")
T = TypeVar("T")

_ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS: Final = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_EXPORTER: Final = "opentelemetry.exporter.otlp.proto.http"
_SPOKEN: Final = "http/protobuf"
_NOTHING: Final = nullcontext()


def tracing_enabled(environment: Mapping[str, str]) -> bool:
    """Whether the environment switches traces on.

    Raises ``SettingsError`` where they cannot be exported: no traces are lost unnoticed.
    """
    off = environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
    exporter = (environment.get("OTEL_TRACES_EXPORTER") or "otlp").strip().lower()
    if off or exporter == "none" or not _first(environment, _ENDPOINTS):
        return False
    if exporter != "otlp":
        raise SettingsError(f"OTEL_TRACES_EXPORTER: only otlp and none are known, not {exporter}")
    protocol = _first(environment, _PROTOCOLS) or _SPOKEN
    if protocol != _SPOKEN:
        raise SettingsError(f"OTEL_EXPORTER_OTLP_PROTOCOL: only {_SPOKEN} is known, not {protocol}")
    if not _installed():
        raise SettingsError(
            "OTEL_EXPORTER_OTLP_ENDPOINT asks for traces, which need:"
            f" {install_command('opentelemetry-exporter-otlp-proto-http')}"
        )
    return True


def telemetry_config(on: bool) -> TelemetryConfig:
    """What FastAPI does by itself: spans when they are on; metrics and logs are ours."""
    return TelemetryConfig(
        tracing=on, metrics=False, logs=False, operation_spans=False, auto_configure=on
    )


def span(name: str) -> AbstractContextManager[Span | None]:
    """A span under the one that is open here; nothing where none is, at half a microsecond."""
    if get_current_span() is INVALID_SPAN:
        return _NOTHING
    return get_tracer("rossmann").start_as_current_span(name)


def with_current_context(work: Callable[P, T]) -> Callable[P, T]:
    """``work`` for another thread, in which the open span is still the open one."""
    if get_current_span() is INVALID_SPAN:
        return work
    context = contextvars.copy_context()

    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        return context.run(work, *args, **kwargs)

    return run


def trace_id() -> str:
    """The number of the trace that is open here, as 32 hex digits; empty where none is."""
    context = get_current_span().get_span_context()
    return f"{context.trace_id:032x}" if context.is_valid else ""


def _first(environment: Mapping[str, str], names: tuple[str, ...]) -> str:
    return next(filter(None, (environment.get(name, "").strip() for name in names)), "")


def _installed() -> bool:
    try:
        return find_spec(_EXPORTER) is not None
    except ModuleNotFoundError:
        return False
