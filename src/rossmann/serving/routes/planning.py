"""Routes to plan with: ``POST /predict``, ``/explain``, ``/predict/file``, and those about stores.

The forecast handlers read the request themselves; what the OpenAPI document says of files is
written here.
"""

from typing import Any, Final

from fastapi import APIRouter, Depends, FastAPI, Response

from rossmann.data.prepare_predictions import template_csv
from rossmann.data.uploads.result_files import MEDIA_TYPES
from rossmann.data.uploads.value_formats import DATE_FORMATS, DECIMAL_MARKS
from rossmann.schema import OBJECTIVES
from rossmann.serving.access.access_control import AccessControl
from rossmann.serving.batch_prediction.handler import BatchPredictHandler
from rossmann.serving.batch_prediction.upload import FILE_FORMATS
from rossmann.serving.prediction.handler import PredictHandler
from rossmann.serving.routes.dependencies import (
    DayCount,
    DirectRoute,
    FromDay,
    RequiredPermission,
    StoreNumber,
    UntilDay,
    reject_unknown_query_params,
)
from rossmann.serving.runtime.store_catalog import StoreCatalogCache
from rossmann.serving.schemas.forecasts import ExplainResponse, PredictResponse
from rossmann.serving.schemas.stores import StoreHistory, StorePlan, StoreSummary

_STRING: Final = {"type": "string"}
_BINARY: Final = {"type": "string", "format": "binary"}
_TABLES: Final = tuple(media.partition(";")[0] for media in MEDIA_TYPES.values())


def add_row_routes(app: FastAPI, handler: PredictHandler) -> None:
    """Add ``POST /predict`` and ``POST /explain``."""
    app.router.add_api_route(
        "/predict",
        handler.handle,
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
        handler.handle_explain,
        methods=["POST"],
        response_model=None,
        responses={200: {"model": ExplainResponse}},
        summary="Forecast each row, with what drove it",
        description="Takes what /predict takes. A row's baseline times its drivers' factors is its"
        " forecast. It takes some 25 ms a row, so a request may hold fewer rows.",
        operation_id="explain",
        tags=["forecast"],
    )


def add_file_route(app: FastAPI, handler: BatchPredictHandler) -> None:
    """Add ``POST /predict/file``."""
    app.add_api_route(
        "/predict/file",
        handler.handle,
        methods=["POST"],
        response_model=None,
        response_class=Response,  # of no media type of its own: the document lists those of tables
        responses={200: _file_response()},
        summary="Forecast every row of a table: CSV, Parquet or Excel in, the same rows out",
        description="The body is the file, or a form with it. Any number of rows: they come back in"
        " their order with forecast, bounds, quantiles, model_version, as_of and warnings, while"
        " the last are still being forecast. One bad row refuses the file, with the faults of its"
        " rows, before the answer begins. docs/deployment/files.md has more.",
        operation_id="predict_file",
        tags=["forecast"],
        openapi_extra={"parameters": _file_parameters(), "requestBody": _file_body()},
    )


def _file_response() -> dict[str, Any]:
    names = (
        *("X-Rows", "X-Model-Version", "X-Model-Stage", "X-As-Of", "X-Objective"),
        *("X-Warnings", "X-Notes"),
    )
    return {
        "description": "The table; what concerns all rows is in headers",
        "headers": {name: {"schema": _STRING} for name in names},
        "content": {media: {"schema": _BINARY} for media in _TABLES},
    }


def _file_body() -> dict[str, Any]:
    form = {"type": "object", "properties": {"file": _BINARY}, "required": ["file"]}
    tables: dict[str, Any] = {media: {"schema": _BINARY} for media in _TABLES}
    tables["text/csv"] = {"schema": _STRING, "example": template_csv()}
    return {"required": True, "content": {**tables, "multipart/form-data": {"schema": form}}}


def _file_parameters() -> list[dict[str, Any]]:
    parameters: tuple[tuple[str, dict[str, Any], str], ...] = (
        ("model_stage", _STRING, "Production, Staging, or a version number"),
        ("as_of", {**_STRING, "format": "date"}, "last day whose sales may be seen, YYYY-MM-DD"),
        ("intervals", _STRING, "levels between 0 and 1, with commas between, such as 0.8,0.95"),
        ("quantiles", _STRING, "from .01 to .99, with commas between, such as 0.1,0.5,0.9"),
        ("objective", {**_STRING, "enum": list(OBJECTIVES)}, "what the forecasts are made for"),
        (
            "date_format",
            {**_STRING, "enum": list(DATE_FORMATS)},
            "where dates can be read two ways",
        ),
        (
            "decimal",
            {**_STRING, "enum": list(DECIMAL_MARKS)},
            "the decimal mark, where numbers such as 6.000 can be read two ways",
        ),
        ("sheet", _STRING, "the sheet of a workbook, where several hold a table"),
        (
            "format",
            {**_STRING, "enum": list(FILE_FORMATS)},
            "of the answer; without it, the file's own",
        ),
    )
    return [
        {
            **{"name": name, "in": "query", "required": False, "schema": schema},
            **{"allowEmptyValue": True, "description": text},  # forms send fields left empty
        }
        for name, schema, text in parameters
    ]


def store_router(catalogs: StoreCatalogCache, access_control: AccessControl) -> APIRouter:
    """``/stores`` and what is below it."""
    dependencies = [
        Depends(RequiredPermission(access_control, access_control.stores_permission)),
        Depends(reject_unknown_query_params),
    ]
    router = APIRouter(prefix="/stores", tags=["stores"], dependencies=dependencies)

    @router.get("", summary="Every store, with what it sold lately")
    def stores() -> list[StoreSummary]:
        return catalogs.get().list()

    @router.get("/{store}", summary="One store")
    def store(store: StoreNumber) -> StoreSummary:
        return catalogs.get().get(store)

    @router.get("/{store}/history", summary="A store's past days")
    def history(store: StoreNumber, days: DayCount = 90, until: UntilDay = None) -> StoreHistory:
        return catalogs.get().history(store, days, until)

    @router.get("/{store}/plan", summary="A store's plan: openings, promotions, holidays")
    def plan(store: StoreNumber, days: DayCount = 48, start: FromDay = None) -> StorePlan:
        return catalogs.get().plan(store, start, days)

    return router
