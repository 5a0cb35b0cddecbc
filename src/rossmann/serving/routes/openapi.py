"""The text of ``GET /openapi.json``: what FastAPI knows, and the body that we read ourselves.

MERGED: The files of the page at /docs, by name: no path of a client reaches the file system.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.responses import FileResponse
from starlette.routing import Mount
from starlette.types import Receive, Scope, Send

from rossmann.epoch_days import format_iso_day
from rossmann.schema import STATE_HOLIDAYS
from rossmann.serving.schemas.forecasts import ErrorResponse, PredictRequest
from rossmann.serving.schemas.models import LoadRequest, PromoteRequest, ReasonRequest

if TYPE_CHECKING:
    from rossmann.data.panel.panel import Panel


_FILES: Final = "/predict/file"
_FORECASTS: Final = ("/predict", "/explain", _FILES)
_FOR_ANYONE: Final = ("/", "/health", "/health/live", "/health/ready", "/metrics")
_CODES: Final = {
    400: "The body is not UTF-8, or broke off",
    401: "No key, or a wrong one",
    403: "A key without the right, or an order from a page of another site",
    404: "No such version or stage; it names those there are",
    409: "The gate refuses the version, or another has come before it",
    408: "Nothing came for a minute",
    413: "Too many rows or bytes; send them in parts",
    422: "Refused, with every fault and its place",
    429: "Over the rate; Retry-After says when to come again",
    503: "What it takes is away for now: a model, the registry, or who knows the keys",
}
_ORDERS: Final[dict[str, tuple[type[BaseModel], dict[str, Any]]]] = {
    "/model/load": (LoadRequest, {"model_stage": "Production"}),
    "/models/{version}/promote": (PromoteRequest, {"reason": "better in the last six weeks"}),
    "/models/rollback": (ReasonRequest, {"reason": "its Sundays were too high"}),
}
"""What operators send, with an example."""
_KEYS: Final = {
    "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
    "bearer": {"type": "http", "scheme": "bearer"},
}
_REFUSED: Final = {
    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/ErrorAnswer"}}}
}


_PUBLISHED_NAMES: Final = {
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
    """A request that works: the first store on the day after history, as planned."""
    rows = panel.store_schedule(
        int(panel.store_numbers[0]), np.array([panel.last_day + 1], dtype=np.int32)
    )
    row = {
        "Store": int(rows.store[0]),
        "DayOfWeek": (int(rows.day[0]) + 3) % 7 + 1,
        "Date": format_iso_day(rows.day[0]),
        "Open": int(rows.open[0]),
        "Promo": int(rows.promo[0]),
        "StateHoliday": STATE_HOLIDAYS[rows.state_holiday[0]],
        "SchoolHoliday": int(rows.school_holiday[0]),
    }
    return {"inputs": [row], "model_stage": "Production", "intervals": [0.8, 0.95]}


def install_openapi(app: FastAPI, panel: "Panel") -> None:
    """Give ``app`` an OpenAPI text with the bodies of forecasts, their faults and an example."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _text(app, panel)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _text(app: FastAPI, panel: "Panel") -> dict[str, Any]:
    text = get_openapi(
        title=app.title, version=app.version, description=app.description, routes=app.routes
    )
    _, extra = models_json_schema(
        [
            (PredictRequest, "validation"),
            (ErrorResponse, "serialization"),
            *((shape, "validation") for shape, _ in _ORDERS.values()),
        ],
        ref_template="#/components/schemas/{model}",
    )
    schemas = text.setdefault("components", {}).setdefault("schemas", {})
    schemas.update(extra["$defs"])
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    text["components"]["securitySchemes"] = _KEYS
    example = example_request(panel)
    for path in ("/predict", "/explain"):
        text["paths"][path]["post"]["requestBody"] = _body(PredictRequest, example, needed=True)
    for path, (shape, order) in _ORDERS.items():
        text["paths"][path]["post"]["requestBody"] = _body(shape, order, needed=False)
    for path, calls in text["paths"].items():
        for method, call in calls.items():
            has_input = call["responses"].pop("422", None) is not None
            if path not in _FOR_ANYONE:
                # an empty one: where no keys were made, none is asked for
                call["security"] = [{name: []} for name in _KEYS] + [{}]
            for code in _refusals(path, method, has_input):
                call["responses"].setdefault(str(code), _REFUSED | {"description": _CODES[code]})
    return _with_published_names(text)


def _with_published_names(text: dict[str, Any]) -> dict[str, Any]:
    content = json.dumps(text)
    for name, published in _PUBLISHED_NAMES.items():
        content = content.replace(f'"{name}"', f'"{published}"')
        content = content.replace(f'schemas/{name}"', f'schemas/{published}"')
    document: dict[str, Any] = json.loads(content)
    return document


def _body(shape: type[BaseModel], example: dict[str, Any], needed: bool) -> dict[str, Any]:
    schema = {"$ref": f"#/components/schemas/{shape.__name__}"}
    content = {"application/json": {"schema": schema, "example": example}}
    return {"required": needed, "content": content}


def _refusals(path: str, method: str, has_input: bool) -> set[int]:
    """The codes with which a call may be refused."""
    if path in _FOR_ANYONE:
        return set()
    codes = {401, 403, 429, 503}
    if path in _FORECASTS:
        codes.add(404)
    if path.startswith(("/model/load", "/models/")):
        codes |= {404, 409}
    if method == "post":
        codes |= {400, 413, 422}
    if path == _FILES:
        codes.add(408)
    return codes | ({404, 422} if has_input else set())


class StaticFileMap:
    """Answers ``/<name>`` for each file of a folder, which is listed once."""

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
    """Put ``Assets`` in the place of each folder that is served by path."""
    for route in app.routes:
        folder = getattr(getattr(route, "app", None), "directory", None)
        if isinstance(route, Mount) and folder is not None:
            route.app = StaticFileMap(Path(folder))
