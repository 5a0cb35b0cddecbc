"""The OpenAPI document with the bodies that handlers read themselves; static files of /docs."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from fastapi import APIRouter, FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.responses import FileResponse
from starlette.routing import BaseRoute, Mount
from starlette.types import Receive, Scope, Send

from rossmann.epoch_days import format_iso_day, weekday_of
from rossmann.schema import STATE_HOLIDAYS
from rossmann.serving.access.api_keys import Permission
from rossmann.serving.routes.dependencies import RequiredPermission
from rossmann.serving.schemas.errors import STATUS_DESCRIPTIONS, ErrorResponse
from rossmann.serving.schemas.forecasts import PredictRequest
from rossmann.serving.schemas.models import LoadRequest, PromoteRequest, ReasonRequest

if TYPE_CHECKING:
    from rossmann.data.panel.panel import Panel


_FILE_PATH: Final = "/predict/file"
_FORECASTS: Final = ("/predict", "/explain", _FILE_PATH)
_OPEN_PATHS: Final = ("/", "/health", "/health/live", "/health/ready", "/metrics")
_OPERATOR_BODIES: Final[dict[str, tuple[type[BaseModel], dict[str, Any]]]] = {
    "/model/load": (LoadRequest, {"model_stage": "Production"}),
    "/models/{version}/promote": (PromoteRequest, {"reason": "better in the last six weeks"}),
    "/models/rollback": (ReasonRequest, {"reason": "its Sundays were too high"}),
}
"""Body models of operators' calls, with an example."""
_SECURITY_SCHEMES: Final = {
    "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
    "bearer": {"type": "http", "scheme": "bearer"},
}
_ERROR_CONTENT: Final = {
    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/ErrorAnswer"}}}
}


PUBLISHED_NAMES: Final = {
    "RoleRowCount": "RoleRows",
    "Comparison": "Compared",
    "VersionScore": "SideScore",
    "ActualsComparison": "KnownSales",
    "WarningMessage": "Notice",
    "TotalsResponse": "TotalsAnswer",
    "PredictResponse": "PredictAnswer",
    "ExplainResponse": "ExplainAnswer",
    "ErrorResponse": "ErrorAnswer",
    "ErrorDetailMessage": "FaultMessage",
    "LoadRequest": "LoadOrder",
    "PromoteRequest": "PromoteOrder",
    "LoadResponse": "Loaded",
    "ReasonRequest": "Reason",
}
"""Names of components in the OpenAPI document, which generated clients rely on, by class name."""


def example_request(panel: "Panel") -> dict[str, Any]:
    """A valid request: the first store on the day after history, as scheduled."""
    rows = panel.store_schedule(
        int(panel.store_numbers[0]), np.array([panel.last_day + 1], dtype=np.int32)
    )
    row = {
        "Store": int(rows.store[0]),
        "DayOfWeek": weekday_of(int(rows.day[0])) + 1,
        "Date": format_iso_day(rows.day[0]),
        "Open": int(rows.open[0]),
        "Promo": int(rows.promo[0]),
        "StateHoliday": STATE_HOLIDAYS[rows.state_holiday[0]],
        "SchoolHoliday": int(rows.school_holiday[0]),
    }
    return {"inputs": [row], "model_stage": "Production", "intervals": [0.8, 0.95]}


def install_openapi(app: FastAPI, panel: "Panel") -> None:
    """Give ``app`` an OpenAPI document with request bodies, error responses and an example."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = openapi_document(app, example_request(panel))
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def openapi_document(app: FastAPI, example: dict[str, Any]) -> dict[str, Any]:
    """The document of the routes of ``app``, with ``example`` as the body of a forecast request."""
    document = get_openapi(
        title=app.title, version=app.version, description=app.description, routes=app.routes
    )
    _, extra = models_json_schema(
        [
            (PredictRequest, "validation"),
            (ErrorResponse, "serialization"),
            *((model, "validation") for model, _ in _OPERATOR_BODIES.values()),
        ],
        ref_template="#/components/schemas/{model}",
    )
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    schemas.update(extra["$defs"])
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    document["components"]["securitySchemes"] = _SECURITY_SCHEMES
    for path in ("/predict", "/explain"):
        document["paths"][path]["post"]["requestBody"] = _request_body(
            PredictRequest, example, required=True
        )
    for path, (model, body) in _OPERATOR_BODIES.items():
        document["paths"][path]["post"]["requestBody"] = _request_body(model, body, required=False)
    for path, calls in document["paths"].items():
        for method, call in calls.items():
            has_input = call["responses"].pop("422", None) is not None
            if path not in _OPEN_PATHS:
                # {}: without any configured key, none is required
                call["security"] = [{name: []} for name in _SECURITY_SCHEMES] + [{}]
            for code in _error_codes(path, method, has_input):
                call["responses"].setdefault(
                    str(code), _ERROR_CONTENT | {"description": STATUS_DESCRIPTIONS[code]}
                )
    return _with_published_names(document)


def _with_published_names(document: dict[str, Any]) -> dict[str, Any]:
    content = json.dumps(document)
    for name, published in PUBLISHED_NAMES.items():
        content = content.replace(f'"{name}"', f'"{published}"')
        content = content.replace(f'schemas/{name}"', f'schemas/{published}"')
    published_document: dict[str, Any] = json.loads(content)
    return published_document


def _request_body(
    model: type[BaseModel], example: dict[str, Any], required: bool
) -> dict[str, Any]:
    schema = {"$ref": f"#/components/schemas/{model.__name__}"}
    content = {"application/json": {"schema": schema, "example": example}}
    return {"required": required, "content": content}


def _error_codes(path: str, method: str, has_input: bool) -> set[int]:
    """The error codes of a route."""
    if path in _OPEN_PATHS:
        return set()
    codes = {401, 403, 429, 503}
    if path in _FORECASTS:
        codes.add(404)
    if path == "/explain":
        codes.add(501)
    if path.startswith(("/model/load", "/models/")):
        codes |= {404, 409}
    if method == "post":
        codes |= {400, 408, 413, 422}
    if method == "post" and path != _FILE_PATH:
        codes.add(415)
    return codes | ({404, 422} if has_input else set())


def required_rights(app: FastAPI) -> dict[str, str]:
    """The right that each path of the document needs, by path: anyone, predict or operate."""
    rights = {}
    for route in _api_routes(app.routes):
        needed = [
            dependency.call.permission
            for dependency in route.dependant.dependencies
            if isinstance(dependency.call, RequiredPermission)
        ]
        # Handlers of forecasts authorize by themselves.
        of_handler = Permission.PREDICT if route.path in _FORECASTS else Permission.ANYONE
        rights[route.path] = max([*needed, of_handler]).label
    return rights


def _api_routes(routes: Iterable[BaseRoute]) -> Iterator[APIRoute]:
    """Routes with a place in the document, also those of routers that FastAPI keeps apart."""
    for route in routes:
        router = getattr(route, "original_router", None)
        if isinstance(router, APIRouter):
            yield from _api_routes(router.routes)
        elif isinstance(route, APIRoute) and route.include_in_schema:
            yield route


class StaticFileMap:
    """ASGI app that serves the files of a folder by name; no path reaches the file system."""

    def __init__(self, folder: Path) -> None:
        self._files = {f"/{path.name}": path for path in folder.iterdir() if path.is_file()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the file; raises ``HTTPException`` (404, 405)."""
        file = self._files.get(scope["path"].removeprefix(scope.get("root_path", "")))
        if file is None:
            raise HTTPException(404)
        if scope["method"] not in {"GET", "HEAD"}:
            raise HTTPException(405, headers={"Allow": "GET, HEAD"})
        await FileResponse(file)(scope, receive, send)


def restrict_static_mounts(app: Starlette) -> None:
    """Replace each mounted static folder by a ``StaticFileMap``."""
    for route in app.routes:
        folder = getattr(getattr(route, "app", None), "directory", None)
        if isinstance(route, Mount) and folder is not None:
            route.app = StaticFileMap(Path(folder))
