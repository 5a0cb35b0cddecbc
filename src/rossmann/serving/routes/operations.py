"""Routes to operate the service: health checks, metrics, model versions, promotion and experiments.

A plain ``def`` runs in a thread: it may query the registry or read the panel.
"""

import time
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Depends, Path, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import PlainTextResponse

from rossmann.installation import without_local_details
from rossmann.models.ensemble.ensemble import DAY_KINDS, FILTER_WEIGHTS_KEY
from rossmann.models.registry.model_version import ExpectedProduction
from rossmann.schema import FEATURES, MODEL_NAME, Stage
from rossmann.serving.access.access_control import AccessControl
from rossmann.serving.access.api_keys import Permission
from rossmann.serving.experiments.report import ExperimentReport
from rossmann.serving.observability.gauges import StateCollector
from rossmann.serving.request_parsing.body import json_body
from rossmann.serving.routes.dependencies import (
    RequiredPermission,
    StrictInteger,
    reject_unknown_query_params,
)
from rossmann.serving.runtime.service import Service, model_data, panel_data
from rossmann.serving.schemas.models import (
    Health,
    InfoData,
    LoadRequest,
    LoadResponse,
    ModelInfo,
    ModelVersionInfo,
    PromoteRequest,
    ReasonRequest,
)
from rossmann.web import PATH

if TYPE_CHECKING:
    from rossmann.models.registry.model_version import ModelVersion


def health_router(version: str, service: Service, collector: StateCollector) -> APIRouter:
    """``/``, ``/health``, ``/health/live``, ``/health/ready`` and ``/metrics``."""
    router = APIRouter(tags=["state"])
    started = time.monotonic()

    @router.get("/", summary="What this is, and where to find things")
    def root(request: Request) -> dict[str, object]:
        return _root(version, request.scope.get("root_path", ""))

    @router.head("/health", include_in_schema=False)
    @router.get("/health", summary="State of the service, with the reason when it is degraded")
    def health() -> Health:
        production, reason = service.versions.production, service.degraded_reason
        return Health(
            status="degraded" if reason else "healthy",
            reason=without_local_details(reason),
            registry="away" if service.versions.registry_unreachable else "reachable",
            model_loaded=production is not None,
            model_version=None if production is None else production.version,
            model_stage=None if production is None else Stage.PRODUCTION,
            data=panel_data(service.panel),
            version=version,
            uptime_seconds=time.monotonic() - started,
        )

    _add_probes(router, service)

    @router.get("/metrics", summary="For Prometheus", response_class=PlainTextResponse)
    def prometheus() -> Response:
        return Response(collector.render(), media_type=CONTENT_TYPE_LATEST)

    return router


def _root(version: str, base_path: str) -> dict[str, object]:
    paths = {
        "docs": "/docs",
        "documentation": f"{PATH}/",
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
    return {
        "name": "Rossmann Forecasting",
        "version": version,
        **{name: f"{base_path}{path}" for name, path in paths.items()},
    }


def _add_probes(router: APIRouter, service: Service) -> None:
    @router.head("/health/live", include_in_schema=False)
    @router.get("/health/live", summary="Whether the process runs")
    async def live() -> dict[str, str]:
        return {"status": "alive"}

    @router.head("/health/ready", include_in_schema=False)
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


def model_router(service: Service, access_control: AccessControl) -> APIRouter:
    """``/model/info``, ``/model/load``, ``/models`` and the moves of Production."""
    router = APIRouter(tags=["models"], dependencies=[Depends(reject_unknown_query_params)])
    viewer = Depends(RequiredPermission(access_control, Permission.PREDICT))
    operator = Depends(RequiredPermission(access_control, Permission.OPERATE))
    versions = service.versions

    @router.get(
        "/model/info",
        dependencies=[viewer],
        summary="Versions in use, and the data that they come from",
    )
    def info() -> ModelInfo:
        return model_info(service)

    @router.post("/model/load", dependencies=[operator], summary="Load a version (operators)")
    def load(body: Annotated[LoadRequest, Depends(json_body(LoadRequest))]) -> LoadResponse:
        versions.poll()
        version = versions.load(body.model_stage)
        return LoadResponse(
            model_version=version.served.version, model_stage=version.stage, model_loaded=True
        )

    @router.get("/models", dependencies=[operator], summary="Every version (operators)")
    def models() -> list[ModelVersionInfo]:
        return [version_info(version) for version in service.registry.versions()]

    _add_promotion_routes(router, service, operator)
    return router


def _add_promotion_routes(router: APIRouter, service: Service, operator: Any) -> None:
    Operator = Annotated[str, operator]  # noqa: N806 -- a type
    versions, registry = service.versions, service.registry

    @router.post("/models/{version}/promote", summary="Make a version Production (operators)")
    def promote(
        version: Annotated[int, StrictInteger, Path(ge=1, lt=2**31, description="version number")],
        caller: Operator,
        body: Annotated[PromoteRequest, Depends(json_body(PromoteRequest))],
    ) -> ModelVersionInfo:
        expected: ExpectedProduction = "any" if body.force else service.run_gate(version)
        promoted = registry.promote(version, body.reason, caller, expected)
        versions.poll()
        return version_info(promoted)

    @router.post("/models/rollback", summary="Go back to the version before (operators)")
    def rollback(
        caller: Operator, body: Annotated[ReasonRequest, Depends(json_body(ReasonRequest))]
    ) -> ModelVersionInfo:
        restored = registry.rollback(body.reason, caller)
        versions.poll()
        return version_info(restored)


def experiment_router(report: ExperimentReport, access_control: AccessControl) -> APIRouter:
    """``/experiments/current``."""
    router = APIRouter(tags=["models"], dependencies=[Depends(reject_unknown_query_params)])
    router.add_api_route(
        "/experiments/current",
        report.current_state,
        methods=["GET"],
        dependencies=[Depends(RequiredPermission(access_control, Permission.PREDICT))],
        summary="The challenger of Production, and its accuracy",
        operation_id="experiments_current",
    )
    return router


def model_info(service: Service) -> ModelInfo:
    """The response of ``GET /model/info``."""
    production, snapshot = service.versions.production, service.versions.snapshot
    card = production.forecaster.ensemble.card if production else {}
    weights = {str(name): float(weight) for name, weight in card.get("weights", {}).items()}
    return ModelInfo(
        production_version=production.version if production else None,
        staging_version=snapshot.version_in_stage(Stage.STAGING),
        registered_models=[MODEL_NAME],
        loaded_versions=service.versions.loaded,
        profile=str(card.get("profile", "")),
        features=len(FEATURES),
        members=list(weights),
        weights=weights,
        filter_weights={
            kind: float(card.get(FILTER_WEIGHTS_KEY, {}).get(kind, 0.0)) for kind in DAY_KINDS
        },
        levels=card.get("intervals", {}).get("levels", []),
        metrics=card.get("metrics", {}),
        data=InfoData(model=model_data(card), panel=panel_data(service.panel)),
    )


def version_info(version: "ModelVersion") -> ModelVersionInfo:
    """A registered version as the response model."""
    return ModelVersionInfo(
        version=version.version,
        stage=version.stage,
        run_id=version.run_id,
        created=version.created,
        tags=version.tags,
    )
