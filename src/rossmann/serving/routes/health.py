"""Routes about the service itself: root, health checks and metrics.

A plain ``def`` runs in a thread: it may query the registry or read the panel.
"""

import time

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import PlainTextResponse

from rossmann.installation import without_local_details
from rossmann.schema import Stage
from rossmann.serving.observability.gauges import StateCollector
from rossmann.serving.runtime.service import Service, panel_data
from rossmann.serving.schemas.models import Health
from rossmann.web import PATH


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
