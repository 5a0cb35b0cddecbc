"""Routes about model versions: information, loading, promotion, rollback and experiments."""

from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Depends, Path

from rossmann.models.registry.model_version import ExpectedProduction
from rossmann.schema import FEATURES, MODEL_NAME, Stage
from rossmann.serving.access.access_control import AccessControl
from rossmann.serving.access.api_keys import Permission
from rossmann.serving.experiments.report import ExperimentReport
from rossmann.serving.request_parsing.body import json_body
from rossmann.serving.routes.dependencies import (
    RequiredPermission,
    StrictInteger,
    reject_unknown_query_params,
)
from rossmann.serving.runtime.service import Service, model_data, panel_data
from rossmann.serving.schemas.models import (
    InfoData,
    LoadRequest,
    LoadResponse,
    ModelInfo,
    ModelVersionInfo,
    PromoteRequest,
    ReasonRequest,
)

if TYPE_CHECKING:
    from rossmann.models.registry.model_version import ModelVersion


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
