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
from rossmann.serving.access.access_control import AccessControl
from rossmann.serving.batch_prediction.handler import BatchPredictHandler
from rossmann.serving.error_handlers import (
    handle_http_error,
    handle_product_error,
    handle_unexpected_error,
    handle_validation_error,
)
from rossmann.serving.experiments.report import ExperimentReport
from rossmann.serving.experiments.shadow import RunningExperiment, build_experiment
from rossmann.serving.middleware.request_context import RequestContextMiddleware
from rossmann.serving.middleware.security_headers import add_security_headers
from rossmann.serving.observability import tracing
from rossmann.serving.observability.access_log import AccessLog, open_access_log
from rossmann.serving.observability.gauges import StateCollector
from rossmann.serving.observability.metrics import Metrics, current_multiprocess_dir
from rossmann.serving.observability.prediction_recorder import PredictionRecorder
from rossmann.serving.prediction.handler import PredictHandler
from rossmann.serving.routes.dependencies import prioritize_direct_routes
from rossmann.serving.routes.file_options_openapi import add_file_route
from rossmann.serving.routes.openapi import install_openapi, restrict_static_mounts
from rossmann.serving.routes.routes import add_routes
from rossmann.serving.runtime.cpu_affinity import pinned_core
from rossmann.serving.runtime.service import Service
from rossmann.serving.runtime.store_catalog import StoreCatalogCache
from rossmann.settings import Settings

_OBJECTS: Final = 25_000
"""New objects (some 3 MB) after which Python looks for those that only name each other."""


@dataclass(frozen=True, slots=True)
class AppComponents:
    """What lives as long as the application; the last three are None where they are off."""

    service: Service
    guard: AccessControl
    gauges: StateCollector
    predictor: PredictHandler
    files: BatchPredictHandler
    report: ExperimentReport
    log: PredictionLog | None
    trial: RunningExperiment | None
    lines: AccessLog | None

    @asynccontextmanager
    async def lifespan(
        self, reload_seconds: float, core: AbstractContextManager[object]
    ) -> AsyncIterator[None]:
        """Begin all; end them when the block ends, those that others hand work to last.

        ``core``: within it the loop may keep to one, and threads that take turns with it.
        """
        self.service.versions.start_polling(reload_seconds, self.service.reload_data)
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
            async with self.gauges.refreshing():
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
    traced = tracing.tracing_enabled(os.environ)
    lines = open_access_log(settings.log_level, settings.log_format, traced)
    parts = _make_parts(settings, service, metrics, lines)
    # FastAPI's own page at /docs fetches its script from a CDN: blank on a closed network.
    app = FastAPIOffline(
        redoc_url=None,
        static_url="/docs/assets",
        title="Rossmann Forecasting",
        version=package_version(),
        description="Daily sales of each store for the next six weeks.",
        lifespan=lambda _: parts.lifespan(
            settings.reload_seconds,
            pinned_core(settings.workers, current_multiprocess_dir(os.environ)),
        ),
        telemetry=tracing.telemetry_config(traced),
    )
    books = StoreCatalogCache(lambda: service.panel)
    add_routes(
        app, settings, service, books, parts.guard, parts.predictor, parts.gauges, parts.report
    )
    add_file_route(app, parts.files)
    prioritize_direct_routes(app)
    install_openapi(app, service.panel)
    app.add_exception_handler(RossmannError, handle_product_error)
    app.add_exception_handler(RequestValidationError, handle_validation_error)
    app.add_exception_handler(HTTPException, handle_http_error)
    app.add_exception_handler(Exception, handle_unexpected_error)
    restrict_static_mounts(app)
    add_security_headers(app, settings, parts.guard)
    # The last one added is outermost: what the others refuse is counted and told too.
    app.add_middleware(
        RequestContextMiddleware, metrics=metrics, tell=None if lines is None else lines.write
    )
    return app


def _make_parts(
    settings: Settings, service: Service, metrics: Metrics, lines: AccessLog | None
) -> AppComponents:
    guard = AccessControl.from_settings(settings)
    gauges = StateCollector(metrics, service)
    log = open_log(settings)
    if log is not None:
        gauges.track_prediction_log(log.state)
    journal = PredictionRecorder(log)
    trial = build_experiment(settings, service.versions, journal, metrics)
    return AppComponents(
        service,
        guard,
        gauges,
        PredictHandler(settings, service, guard, metrics, journal, trial),
        BatchPredictHandler(settings, service, guard, metrics, journal),
        ExperimentReport(settings, service, trial),
        log,
        trial,
        lines,
    )


def package_version() -> str:
    """The version of this release."""
    from importlib.metadata import version

    return version("rossmann")
