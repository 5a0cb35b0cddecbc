"""What ``GET /openapi.json`` says about files; the route itself reads its request by hand."""

from typing import Any, Final

from fastapi import FastAPI

from rossmann.data.prepare_predictions import template_csv
from rossmann.data.uploads.fields import DATE_FORMATS
from rossmann.schema import OBJECTIVES
from rossmann.serving.batch_prediction.handler import BatchPredictHandler
from rossmann.serving.batch_prediction.upload import FILE_FORMATS
from rossmann.serving.batch_prediction.writers import MEDIA_TYPES

_TEXT: Final = {"type": "string"}
_BINARY: Final = {"type": "string", "format": "binary"}
_TABLES: Final = tuple(media.partition(";")[0] for media in MEDIA_TYPES.values())


def add_file_route(app: FastAPI, files: BatchPredictHandler) -> None:
    """Put ``POST /predict/file`` on ``app``."""
    app.add_api_route(
        "/predict/file",
        files.handle,
        methods=["POST"],
        response_model=None,
        responses={200: _answer()},
        summary="Forecast every row of a table: CSV, Parquet or Excel in, the same rows out",
        description="The body is the file, or a form with it. Any number of rows: they come back in"
        " their order with forecast, bounds, model_version, as_of and warnings, while the last are"
        " still being forecast. One bad row refuses the file, with the faults of its rows, before"
        " the answer begins. docs/serving/files.md has more.",
        operation_id="predict_file",
        tags=["forecast"],
        openapi_extra={"parameters": _parameters(), "requestBody": _body()},
    )


def _answer() -> dict[str, Any]:
    names = ("X-Rows", "X-Model-Version", "X-Model-Stage", "X-As-Of", "X-Objective", "X-Warnings")
    return {
        "description": "The table; what is told of all its rows stands in headers",
        "headers": {name: {"schema": _TEXT} for name in names},
        "content": {media: {"schema": _BINARY} for media in _TABLES},
    }


def _body() -> dict[str, Any]:
    form = {"type": "object", "properties": {"file": _BINARY}, "required": ["file"]}
    tables: dict[str, Any] = {media: {"schema": _BINARY} for media in _TABLES}
    tables["text/csv"] = {"schema": _TEXT, "example": template_csv()}
    return {"required": True, "content": {**tables, "multipart/form-data": {"schema": form}}}


def _parameters() -> list[dict[str, Any]]:
    told: tuple[tuple[str, dict[str, Any], str], ...] = (
        ("model_stage", _TEXT, "Production, Staging, or a version number"),
        ("as_of", {**_TEXT, "format": "date"}, "last day whose sales may be seen, YYYY-MM-DD"),
        ("intervals", _TEXT, "levels between 0 and 1, with commas between, such as 0.8,0.95"),
        ("objective", {**_TEXT, "enum": list(OBJECTIVES)}, "what the forecasts are made for"),
        ("date_format", {**_TEXT, "enum": list(DATE_FORMATS)}, "where dates can be read two ways"),
        (
            "format",
            {**_TEXT, "enum": list(FILE_FORMATS)},
            "of the answer; without it, the file's own",
        ),
    )
    return [
        {
            **{"name": name, "in": "query", "required": False, "schema": schema},
            **{"allowEmptyValue": True, "description": text},  # forms send fields left empty
        }
        for name, schema, text in told
    ]
