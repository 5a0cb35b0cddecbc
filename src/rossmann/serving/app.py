"""The application: routes, and the one table from our errors to HTTP codes.

MERGED: The parts that a running service is made of: begun together, ended in turn.
"""

import asyncio
import gc
import os
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Final

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi_offline import FastAPIOffline
from starlette.exceptions import HTTPException

from rossmann.errors import RossmannError
from rossmann.prediction_log.writing.log import PredictionLog, open_log
from rossmann.serving.access.access_control import Guard
from rossmann.serving.batch_prediction.handler import FilePredictor
from rossmann.serving.error_handlers import (
    handle_http_error,
    handle_product_error,
    handle_unexpected_error,
    handle_validation_error,
)
from rossmann.serving.experiments.report import ExperimentReport
from rossmann.serving.experiments.shadow import Trial, open_trial
from rossmann.serving.middleware.request_context import Watch
from rossmann.serving.middleware.security_headers import add_headers
from rossmann.serving.observability import tracing
from rossmann.serving.observability.access_log import RequestLog, request_log
from rossmann.serving.observability.gauges import Gauges
from rossmann.serving.observability.metrics import Metrics, shared_folder
from rossmann.serving.observability.prediction_recorder import Journal
from rossmann.serving.prediction.handler import Predictor
from rossmann.serving.routes.dependencies import put_first
from rossmann.serving.routes.file_options_openapi import add_file_route
from rossmann.serving.routes.openapi import close_assets, describe
from rossmann.serving.routes.routes import add_routes
from rossmann.serving.runtime.cpu_affinity import own_core
from rossmann.serving.runtime.service import Service
from rossmann.serving.runtime.store_catalog import Books
from rossmann.settings import Settings

_OBJECTS: Final = 25_000
"""New objects (some 3 MB) after which Python looks for those that only name each other."""


@dataclass(frozen=True, slots=True)
class Parts:
    """What lives as long as the application; the last three are None where they are off."""

    service: Service
    guard: Guard
    gauges: Gauges
    predictor: Predictor
    files: FilePredictor
    report: ExperimentReport
    log: PredictionLog | None
    trial: Trial | None
    lines: RequestLog | None

    @asynccontextmanager
    async def running(
        self, reload_seconds: float, core: AbstractContextManager[object]
    ) -> AsyncIterator[None]:
        """Begin all; end them when the block ends, those that others hand work to last.

        ``core``: within it the loop may keep to one, and threads that take turns with it.
        """
        self.service.versions.follow(reload_seconds, self.service.refresh)
        if self.trial is not None:
            self.trial.start()
        # What is loaded stays: a full collection that walks over it would hold up requests (some
        # 100 ms), and each logged answer, which lives for a second, brings one nearer.
        gc.collect()
        gc.freeze()
        # The same for the small ones: at 700 objects they are a twentieth of a busy worker's time.
        before = gc.get_threshold()
        gc.set_threshold(_OBJECTS, 20, 50)
        with core:
            for part in (self.log, self.lines):
                if part is not None:
                    part.start()
            async with self.gauges.keeping():
                yield
        gc.set_threshold(*before)
        self.service.versions.close()
        self.predictor.close()
        self.files.close()
        for ending in (self.trial, self.report, self.log, self.lines):
            if ending is not None:
                await asyncio.to_thread(ending.close)
        await self.guard.close()


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
    app.add_exception_handler(RossmannError, handle_product_error)
    app.add_exception_handler(RequestValidationError, handle_validation_error)
    app.add_exception_handler(HTTPException, handle_http_error)
    app.add_exception_handler(Exception, handle_unexpected_error)
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


def package_version() -> str:
    """The version of this release."""
    from importlib.metadata import version

    return version("rossmann")
