"""Every call but the forecast itself: health, versions, stores, metrics.

A plain ``def`` runs in a thread: these may ask the registry or read the panel.
"""

import time
from collections.abc import Awaitable, Callable
from typing import Annotated

from fastapi import APIRouter, Depends, FastAPI, Path, Query, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import PlainTextResponse

from rossmann.models.registry.model_version import ExpectedProduction
from rossmann.schema import Stage
from rossmann.serving.access.access_control import AccessControl
from rossmann.serving.access.api_keys import Permission
from rossmann.serving.experiments.report import ExperimentReport
from rossmann.serving.observability.gauges import StateCollector
from rossmann.serving.prediction.handler import PredictHandler
from rossmann.serving.request_parsing.body import (
    StrictInteger,
    json_body,
    reject_unknown_query_params,
)
from rossmann.serving.routes.dependencies import DirectRoute
from rossmann.serving.routes.models import model_info, version_info
from rossmann.serving.runtime.service import Service, panel_data
from rossmann.serving.runtime.store_catalog import StoreCatalogCache
from rossmann.serving.schemas.forecasts import ExplainResponse, PredictResponse
from rossmann.serving.schemas.models import (
    Health,
    LoadRequest,
    LoadResponse,
    ModelInfo,
    ModelVersionInfo,
    PromoteRequest,
    ReasonRequest,
)
from rossmann.serving.schemas.stores import StoreHistory, StorePlan, StoreSummary
from rossmann.settings import Settings

Days = Annotated[int, StrictInteger, Query(ge=1, le=1100, description="how many days")]
Number = Annotated[int, StrictInteger]
Day = Annotated[str | None, Query(description="YYYY-MM-DD")]


def add_routes(
    app: FastAPI,
    settings: Settings,
    service: Service,
    books: StoreCatalogCache,
    guard: AccessControl,
    predictor: PredictHandler,
    gauges: StateCollector,
    report: ExperimentReport,
) -> None:
    """Put every route on ``app``, the busiest first."""
    app.router.add_api_route(
        "/predict",
        predictor.handle,
        route_class_override=DirectRoute,
        methods=["POST"],
        response_model=None,
        responses={200: {"model": PredictResponse}},
        summary="Forecast the sales of each row, in the order sent",
        description="One bad row fails the request; the answer lists every fault of every row.",
        operation_id="predict",
        tags=["forecast"],
    )
    app.add_api_route(
        "/explain",
        predictor.handle_explain,
        methods=["POST"],
        response_model=None,
        responses={200: {"model": ExplainResponse}},
        summary="Forecast each row, with what drove it",
        description="Takes what /predict takes. A row's baseline times its drivers' factors is its"
        " forecast. It takes some 25 ms a row, so a request may hold fewer rows.",
        operation_id="explain",
        tags=["forecast"],
    )
    app.include_router(_state_routes(app.version, service, gauges))
    app.include_router(_model_routes(service, guard))
    app.include_router(_store_routes(books, guard))
    app.add_api_route(
        "/experiments/current",
        report.current_state,
        methods=["GET"],
        dependencies=[Depends(require_permission(guard, Permission.PREDICT))],
        summary="The challenger beside Production, and how it does",
        operation_id="experiments_current",
        tags=["models"],
    )


def _state_routes(version: str, service: Service, gauges: StateCollector) -> APIRouter:
    router = APIRouter(tags=["state"])
    begun = time.monotonic()

    @router.get("/", summary="What this is, and where to find things")
    def root() -> dict[str, object]:
        return {
            "name": "Rossmann Forecasting",
            "version": version,
            "docs": "/docs",
            "openapi": "/openapi.json",
            "health": "/health",
            "predict": "/predict",
            "predict_file": "/predict/file",
            "explain": "/explain",
            "model": "/model/info",
            "stores": "/stores",
            "experiments": "/experiments/current",
            "metrics": "/metrics",
        }

    @router.get("/health", summary="State of the service, with the reason when it is degraded")
    def health() -> Health:
        now, reason = service.versions.production, service.degraded_reason
        return Health(
            status="degraded" if reason else "healthy",
            reason=reason,
            registry="away" if service.versions.registry_unreachable else "reachable",
            model_loaded=now is not None,
            model_version=None if now is None else now.version,
            model_stage=None if now is None else Stage.PRODUCTION,
            data=panel_data(service.panel),
            version=version,
            uptime_seconds=time.monotonic() - begun,
        )

    @router.get("/health/live", summary="Whether the process runs")
    async def live() -> dict[str, str]:
        return {"status": "alive"}

    @router.get(
        "/health/ready",
        summary="200 when it can answer, else 503",
        responses={503: {"description": "Not ready", "model": dict[str, str]}},
    )
    async def ready(response: Response) -> dict[str, str]:
        if service.versions.production is None:
            response.status_code = 503
            return {"status": "not ready"}
        return {"status": "ready"}

    @router.get("/metrics", summary="For Prometheus", response_class=PlainTextResponse)
    def prometheus() -> Response:
        return Response(gauges.render(), media_type=CONTENT_TYPE_LATEST)

    return router


def _model_routes(service: Service, guard: AccessControl) -> APIRouter:
    router = APIRouter(tags=["models"])
    viewer = Depends(require_permission(guard, Permission.PREDICT))
    operator = Depends(require_permission(guard, Permission.OPERATE))
    Operator = Annotated[str, operator]  # noqa: N806 -- a type
    versions, registry = service.versions, service.registry

    @router.get(
        "/model/info",
        dependencies=[viewer],
        summary="Versions in use, and the data that they come from",
    )
    def info() -> ModelInfo:
        return model_info(service)

    @router.post(
        "/model/load",
        dependencies=[operator],
        summary="Load a version (operators)",
    )
    def load(order: Annotated[LoadRequest, Depends(json_body(LoadRequest))]) -> LoadResponse:
        versions.poll()
        picked = versions.load(order.model_stage)
        return LoadResponse(
            model_version=picked.served.version, model_stage=picked.stage, model_loaded=True
        )

    @router.get("/models", dependencies=[operator], summary="Every version (operators)")
    def models() -> list[ModelVersionInfo]:
        return [version_info(version) for version in registry.versions()]

    @router.post("/models/{version}/promote", summary="Make a version Production (operators)")
    def promote(
        version: Annotated[int, StrictInteger, Path(ge=1, lt=2**31)],
        who: Operator,
        order: Annotated[PromoteRequest, Depends(json_body(PromoteRequest))],
    ) -> ModelVersionInfo:
        expected: ExpectedProduction = "any" if order.force else service.run_gate(version)
        found = registry.promote(version, order.reason, who, expected)
        versions.poll()
        return version_info(found)

    @router.post("/models/rollback", summary="Go back to the version before (operators)")
    def rollback(
        who: Operator, why: Annotated[ReasonRequest, Depends(json_body(ReasonRequest))]
    ) -> ModelVersionInfo:
        found = registry.rollback(why.reason, who)
        versions.poll()
        return version_info(found)

    return router


def _store_routes(books: StoreCatalogCache, guard: AccessControl) -> APIRouter:
    rules = [
        Depends(require_permission(guard, guard.stores_right)),
        Depends(reject_unknown_query_params),
    ]
    router = APIRouter(prefix="/stores", tags=["stores"], dependencies=rules)

    @router.get("", summary="Every store, with what it sold lately")
    def stores() -> list[StoreSummary]:
        return books.now().list()

    @router.get("/{store}", summary="One store")
    def store(store: Number) -> StoreSummary:
        return books.now().get(store)

    @router.get("/{store}/history", summary="A store's past days")
    def history(store: Number, days: Days = 90, until: Day = None) -> StoreHistory:
        return books.now().history(store, days, until)

    @router.get("/{store}/plan", summary="A store's plan: openings, promotions, holidays")
    def plan(store: Number, days: Days = 48, start: Day = None) -> StorePlan:
        return books.now().plan(store, start, days)

    return router


def require_permission(
    guard: AccessControl, right: Permission
) -> Callable[[Request], Awaitable[str]]:
    """A dependency that lets only callers with that right pass, and tells who calls."""

    async def check(request: Request) -> str:
        return (await guard.authorize(request, right)).who

    return check
