"""The application: routes, and the one table from our errors to HTTP codes."""

import os
from collections.abc import Sequence
from typing import Final

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi_offline import FastAPIOffline
from pydantic_core import to_json
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from rossmann import errors
from rossmann.errors import Fault, RequestError, RossmannError
from rossmann.logs import get_logger
from rossmann.monitoring.prediction_log import open_log
from rossmann.serving import tracing
from rossmann.serving.assets import close_assets
from rossmann.serving.bare_route import put_first
from rossmann.serving.experiment_report import ExperimentReport
from rossmann.serving.file_openapi import add_file_route
from rossmann.serving.file_route import FilePredictor
from rossmann.serving.gauges import Gauges
from rossmann.serving.journal import Journal
from rossmann.serving.lifetime import Parts
from rossmann.serving.metrics import Metrics
from rossmann.serving.metrics_folder import shared_folder
from rossmann.serving.openapi import describe
from rossmann.serving.own_core import own_core
from rossmann.serving.predict import Predictor
from rossmann.serving.request_log import RequestLog, request_log
from rossmann.serving.routes import add_routes
from rossmann.serving.runtime import Service
from rossmann.serving.security import Guard
from rossmann.serving.security_headers import PLAIN, add_headers
from rossmann.serving.stores import Books
from rossmann.serving.trial import open_trial
from rossmann.serving.watch import Watch
from rossmann.settings import Settings

CODES: Final[tuple[tuple[type[RossmannError], int, str], ...]] = (
    (errors.NotUtf8, 400, "not_utf8"),
    (errors.TooLarge, 413, "too_large"),
    (errors.RequestError, 422, "refused"),
    (errors.NoKey, 401, "no_key"),
    (errors.NoRight, 403, "no_right"),
    (errors.UnknownVersion, 404, "unknown_version"),
    (errors.NoModel, 503, "no_model"),
    (errors.DamagedModel, 503, "damaged_model"),
    (errors.GateFailed, 409, "gate_failed"),
    (errors.ModelError, 409, "model_refused"),
    (errors.OverRate, 429, "over_rate"),
    (errors.Busy, 503, "busy"),
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


def create_app(settings: Settings, service: Service) -> FastAPI:
    """The application over a service that is ready to answer."""
    metrics = Metrics(package_version())
    traced = tracing.wanted(os.environ)
    lines = request_log(settings.log_level, settings.log_format, traced)
    parts = _make_parts(settings, service, metrics, lines)
    # FastAPI's own page at /docs fetches its script from a CDN: blank on a closed network.
    app = FastAPIOffline(
        redoc_url=None,
        static_url="/docs/assets",
        title="Rossmann Forecasting",
        version=package_version(),
        description="Daily sales of each store for the next six weeks.",
        lifespan=lambda _: parts.running(
            settings.reload_seconds, own_core(settings.workers, shared_folder(os.environ))
        ),
        telemetry=tracing.telemetry(traced),
    )
    books = Books(lambda: service.panel)
    add_routes(
        app, settings, service, books, parts.guard, parts.predictor, parts.gauges, parts.report
    )
    add_file_route(app, parts.files)
    put_first(app)
    describe(app, service.panel)
    app.add_exception_handler(RossmannError, _on_ours)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(Exception, _on_surprise)
    close_assets(app)
    add_headers(app, settings, parts.guard)
    # The last one added is outermost: what the others refuse is counted and told too.
    app.add_middleware(Watch, metrics=metrics, tell=None if lines is None else lines.tell)
    return app


def _make_parts(
    settings: Settings, service: Service, metrics: Metrics, lines: RequestLog | None
) -> Parts:
    guard = Guard.from_settings(settings)
    gauges = Gauges(metrics, service)
    log = open_log(settings)
    if log is not None:
        gauges.watch_log(log.state)
    journal = Journal(log)
    trial = open_trial(settings, service.versions, journal, metrics)
    return Parts(
        service,
        guard,
        gauges,
        Predictor(settings, service, guard, metrics, journal, trial),
        FilePredictor(settings, service, guard, metrics, journal),
        ExperimentReport(settings, service, trial),
        log,
        trial,
        lines,
    )


def _answer(
    request: Request, code: int, faults: Sequence[Fault], headers: dict[str, str] | None = None
) -> Response:
    # Faults go in as they are: there may be some for each of 100,000 rows.
    content = {"detail": faults, "request_id": _request_id(request)}
    return Response(to_json(content), code, headers, "application/json")


def _request_id(request: Request) -> str:
    return str(request.scope.get("state", {}).get("request_id", ""))


def _on_ours(request: Request, error: Exception) -> Response:
    """An error that the product raised on purpose."""
    code, word = next(
        ((code, word) for kind, code, word in CODES if isinstance(error, kind)), (500, "internal")
    )
    if isinstance(error, RequestError):
        faults = error.faults
    else:
        faults = [Fault(_PLACES.get(word, ()), str(error), word)]
    if code >= 500:
        get_logger("api").warning(
            "cannot answer", request_id=_request_id(request), reason=str(error)
        )
    headers = _HEADERS.get(code)
    if isinstance(error, errors.OverRate | errors.Busy):
        headers = {"Retry-After": str(error.seconds)}
    return _answer(request, code, faults, headers)


def _on_invalid(request: Request, error: Exception) -> Response:
    """A path, a query or a small body that FastAPI has read for us."""
    assert isinstance(error, RequestValidationError)
    faults = [
        Fault(tuple(detail["loc"]), str(detail["msg"]), str(detail["type"]))
        for detail in error.errors()
    ]
    return _answer(request, 422, faults)


def _on_http(request: Request, error: Exception) -> Response:
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
    return _answer(request, error.status_code, [Fault((place,), msg, word)], headers)


def _on_surprise(request: Request, error: Exception) -> Response:
    """A fault of ours: the log has all of it, the caller its number."""
    request_id = _request_id(request)
    get_logger("api").error("unexpected error", request_id=request_id, exc_info=error)
    fault = Fault((), "internal error: the log has more", "internal")
    # It is made outside of what dresses the others.
    return _answer(request, 500, [fault], {**PLAIN, "X-Request-ID": request_id})


def package_version() -> str:
    """The version of this release."""
    from importlib.metadata import version

    return version("rossmann")
