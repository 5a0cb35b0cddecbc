"""The text of ``GET /openapi.json``: what FastAPI knows, and the body that we read ourselves."""

from typing import Any

import numpy as np
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema

from rossmann.schema import STATE_HOLIDAYS
from rossmann.serving.columns import iso
from rossmann.serving.messages import ErrorAnswer, PredictRequest
from rossmann.serving.ports import StorePanel


def example_request(panel: StorePanel) -> dict[str, Any]:
    """A request that works: the first store on the day after history, as planned."""
    rows = panel.usual_rows(
        int(panel.store_numbers[0]), np.array([panel.last_day + 1], dtype=np.int32)
    )
    row = {
        "Store": int(rows.store[0]),
        "DayOfWeek": (int(rows.day[0]) + 3) % 7 + 1,
        "Date": iso(rows.day[0]),
        "Open": int(rows.open[0]),
        "Promo": int(rows.promo[0]),
        "StateHoliday": STATE_HOLIDAYS[rows.state_holiday[0]],
        "SchoolHoliday": int(rows.school_holiday[0]),
    }
    return {"inputs": [row], "model_stage": "Production", "intervals": [0.8, 0.95]}


def describe(app: FastAPI, panel: StorePanel) -> None:
    """Give ``app`` an OpenAPI text with the bodies of forecasts, their faults and an example."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _text(app, panel)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _text(app: FastAPI, panel: StorePanel) -> dict[str, Any]:
    text = get_openapi(
        title=app.title, version=app.version, description=app.description, routes=app.routes
    )
    _, extra = models_json_schema(
        [(PredictRequest, "validation"), (ErrorAnswer, "serialization")],
        ref_template="#/components/schemas/{model}",
    )
    schemas = text.setdefault("components", {}).setdefault("schemas", {})
    schemas.update(extra["$defs"])
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    body = {
        "schema": {"$ref": "#/components/schemas/PredictRequest"},
        "example": example_request(panel),
    }
    for path in ("/predict", "/explain"):
        text["paths"][path]["post"]["requestBody"] = {
            "required": True,
            "content": {"application/json": body},
        }
    for calls in text["paths"].values():
        for call in calls.values():
            call["responses"].pop("422", None)
            call["responses"]["4XX"] = {
                "description": "Refused, with every fault and its place",
                "content": {
                    "application/json": {"schema": {"$ref": "#/components/schemas/ErrorAnswer"}}
                },
            }
    return text
