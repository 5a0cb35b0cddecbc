"""The FastAPI application: its components, their lifespan, routes, handlers and middleware."""

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
from rossmann.serving.middleware import (
    RequestContextMiddleware,
    add_base_path,
    add_security_headers,
)
from rossmann.serving.observability import tracing
from rossmann.serving.observability.access_log import AccessLog, open_access_log
from rossmann.serving.observability.gauges import StateCollector
from rossmann.serving.observability.metrics import Metrics, current_multiprocess_dir
from rossmann.serving.observability.prediction_recorder import PredictionRecorder
from rossmann.serving.prediction.handler import PredictHandler
from rossmann.serving.routes.dependencies import prioritize_direct_routes
from rossmann.serving.routes.openapi import install_openapi, restrict_static_mounts
from rossmann.serving.routes.operations import experiment_router, health_router, model_router
from rossmann.serving.routes.planning import add_file_route, add_row_routes, store_router
from rossmann.serving.runtime.cpu_affinity import pinned_core
from rossmann.serving.runtime.service import Service
from rossmann.serving.runtime.store_catalog import StoreCatalogCache
from rossmann.settings import Settings
from rossmann.web import PATH as DOCUMENTATION_PATH
from rossmann.web import DocumentationSite

_GC_THRESHOLD: Final = 25_000
"""New objects (some 3 MB) after which Python searches the youngest generation for cycles."""
_IDLE_SECONDS: Final = 10.0
"""After a start, before other processes are started."""


@dataclass(frozen=True, slots=True)
class AppComponents:
    """What lives as long as the application; the last three are None where they are off."""

    service: Service
    access_control: AccessControl
    collector: StateCollector
    predict_handler: PredictHandler
    batch_handler: BatchPredictHandler
    report: ExperimentReport
    prediction_log: PredictionLog | None
    experiment: RunningExperiment | None
    access_log: AccessLog | None

    @asynccontextmanager
    async def lifespan(
        self, reload_seconds: float, core: AbstractContextManager[object]
    ) -> AsyncIterator[None]:
        """Start all components; stop them afterwards, those that others hand work to last.

        ``core``: a block in which the event loop and its helper threads keep to one core.
        """
        self.service.versions.start_polling(reload_seconds, self.service.reload_data)
        if self.experiment is not None:
            self.experiment.start()
        # What is loaded stays: a full collection over it would block requests for some 100 ms, and
        # logged answers, which live for a second, would trigger one often.
        gc.collect()
        gc.freeze()
        # Young collections at the default of 700 objects take 5 % of a busy worker's time.
        thresholds = gc.get_threshold()
        gc.set_threshold(_GC_THRESHOLD, 20, 50)
        # Not while the service starts, which would take longer.
        warm_up = asyncio.get_running_loop().call_later(_IDLE_SECONDS, self.batch_handler.warm_up)
        with core:
            for log in (self.prediction_log, self.access_log):
                if log is not None:
                    log.start()
            async with self.collector.refreshing():
                yield
        warm_up.cancel()
        gc.set_threshold(*thresholds)
        self.service.versions.close()
        self.predict_handler.close()
        self.batch_handler.close()
        for part in (self.experiment, self.report, self.prediction_log, self.access_log):
            if part is not None:
                await asyncio.to_thread(part.close)
        await self.access_control.close()


def create_app(settings: Settings, service: Service) -> FastAPI:
    """The application over a service that is ready to answer."""
    metrics = Metrics(package_version())
    tracing_on = tracing.tracing_enabled(os.environ)
    access_log = open_access_log(settings.log_level, settings.log_format, tracing_on)
    components = _build_components(settings, service, metrics, access_log)
    # FastAPI's own page at /docs fetches its script from a CDN: blank on a closed network.
    app = FastAPIOffline(
        redoc_url=None,
        static_url="/docs/assets",
        title="Rossmann Forecasting",
        version=package_version(),
        description="Daily sales of each store for the next six weeks.",
        lifespan=lambda _: components.lifespan(
            settings.reload_seconds,
            pinned_core(settings.workers, current_multiprocess_dir(os.environ)),
        ),
        telemetry=tracing.telemetry_config(tracing_on),
    )
    add_routes(app, components)
    install_openapi(app, service.panel)
    app.add_exception_handler(RossmannError, handle_product_error)
    app.add_exception_handler(RequestValidationError, handle_validation_error)
    app.add_exception_handler(HTTPException, handle_http_error)
    app.add_exception_handler(Exception, handle_unexpected_error)
    restrict_static_mounts(app)
    app.mount(DOCUMENTATION_PATH, DocumentationSite(settings.site_dir))
    add_security_headers(app, settings, components.access_control, handle_product_error)
    # It is around all others, so it also counts and logs what they refuse.
    write = None if access_log is None else access_log.write
    app.add_middleware(RequestContextMiddleware, metrics=metrics, write_record=write)
    add_base_path(app, settings.api_base_path)
    return app


def add_routes(app: FastAPI, components: AppComponents) -> None:
    """Add every route of the OpenAPI document."""
    service, access_control = components.service, components.access_control
    add_row_routes(app, components.predict_handler)
    app.include_router(health_router(app.version, service, components.collector))
    app.include_router(model_router(service, access_control))
    catalogs = StoreCatalogCache(lambda: service.panel, service.backtest)
    app.include_router(store_router(catalogs, access_control))
    app.include_router(experiment_router(components.report, access_control))
    add_file_route(app, components.batch_handler)
    prioritize_direct_routes(app)


def _build_components(
    settings: Settings, service: Service, metrics: Metrics, access_log: AccessLog | None
) -> AppComponents:
    access_control = AccessControl(settings)
    collector = StateCollector(metrics, service)
    log = open_log(settings)
    if log is not None:
        collector.track_prediction_log(log.status)
    recorder = PredictionRecorder(log)
    experiment = build_experiment(settings, service.versions, recorder, metrics)
    return AppComponents(
        service,
        access_control,
        collector,
        PredictHandler(settings, service, access_control, metrics, recorder, experiment),
        BatchPredictHandler(settings, service, access_control, metrics, recorder),
        ExperimentReport(settings, service, experiment),
        log,
        experiment,
        access_log,
    )


def package_version() -> str:
    """The version of this release."""
    from importlib.metadata import version

    return version("rossmann")
