"""Pages of the HTTP API: each route, and the fields of requests and responses."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, TypeVar, cast

from fastapi import FastAPI

from rossmann.documentation.reference.markdown import (
    block,
    code,
    page,
    paragraphs,
    prose,
    section,
    sentence,
    table,
)
from rossmann.documentation.reference.schema_types import FIELD_PAGES, component_page, type_name
from rossmann.serving.access.access_control import AccessControl
from rossmann.serving.access.api_keys import Permission
from rossmann.serving.app import AppComponents, add_routes
from rossmann.serving.batch_prediction.handler import BatchPredictHandler
from rossmann.serving.experiments.report import ExperimentReport
from rossmann.serving.observability.gauges import StateCollector
from rossmann.serving.prediction.handler import PredictHandler
from rossmann.serving.routes.openapi import openapi_document, required_rights
from rossmann.serving.runtime.service import Service

Document = Mapping[str, Any]
Component = TypeVar("Component")

EXAMPLE_ROW: Final = {
    "Store": 1,
    "DayOfWeek": 6,
    "Date": "2015-08-01",
    "Open": 1,
    "Promo": 0,
    "StateHoliday": "0",
    "SchoolHoliday": 0,
}
"""The first store of the demo chain, on the day after its history."""
EXAMPLE_REQUEST: Final = {
    "inputs": [EXAMPLE_ROW],
    "model_stage": "Production",
    "intervals": [0.8, 0.95],
}

_URL: Final = "http://127.0.0.1:8000"
_EXAMPLE_PARAMETERS: Final = {"store": "1", "version": "2", "days": "7"}
TAGS: Final = {
    "forecast": "Forecasts",
    "stores": "Stores",
    "models": "Model versions and experiments",
    "state": "State of the service",
}
"""Heading of each group of calls."""
_FIELD_TITLES: Final = {
    "http-api-fields.md": "Fields of forecasts and errors",
    "http-api-store-fields.md": "Fields of stores",
    "http-api-model-fields.md": "Fields of the service and its models",
}
_RIGHTS: Final = {"anyone": "none", "predict": "`predict`", "operate": "`operate`"}
_CHANGES_PRODUCTION: Final = ("/models/{version}/promote", "/models/rollback")


def http_pages() -> dict[str, str]:
    """``http-api.md`` and ``http-api-fields.md``."""
    document, rights = api_document()
    return {
        "http-api.md": _routes_page(document, rights),
        **{name: _fields_page(document, name) for name in FIELD_PAGES},
    }


def api_document() -> tuple[dict[str, Any], dict[str, str]]:
    """The document, and the right that each path needs."""
    app = FastAPI(title="Rossmann Forecasting")
    access_control = _never_called(AccessControl)
    access_control.stores_permission = Permission.ANYONE
    nothing = cast(Any, None)
    components = AppComponents(
        service=Service(nothing, nothing, nothing, nothing),
        access_control=access_control,
        collector=_never_called(StateCollector),
        predict_handler=_never_called(PredictHandler),
        batch_handler=_never_called(BatchPredictHandler),
        report=_never_called(ExperimentReport),
        prediction_log=None,
        experiment=None,
        access_log=None,
    )
    add_routes(app, components)
    return openapi_document(app, dict(EXAMPLE_REQUEST)), required_rights(app)


def _never_called(kind: type[Component]) -> Component:
    """An object without state: the document needs only the signatures of its methods."""
    return kind.__new__(kind)


def _routes_page(document: Document, rights: Mapping[str, str]) -> str:
    introduction = (
        "Use this page to look up a call of the HTTP API: its parameters, its answer, the right"
        " that it needs, and an example. The service has the same as an OpenAPI document at"
        " `/openapi.json` and as a page to try at `/docs`."
    )
    access = (
        "Where keys exist, send one as `X-API-Key: KEY` or `Authorization: Bearer KEY`. The right"
        " `operate` includes `predict`. `/stores` needs `predict` where the setting"
        " `stores_for_anyone` is false. Every answer has the header `X-Request-ID`."
        " [Errors and warnings](errors.md) lists what each status code means."
    )
    groups = [
        section(
            title,
            *(
                _call(path, method, operation, rights[path])
                for path, method, operation in operations(document)
                if tag in operation["tags"]
            ),
        )
        for tag, title in TAGS.items()
    ]
    return page("HTTP API", introduction, section("Keys and rights", access), *groups)


def operations(document: Document) -> Iterator[tuple[str, str, Document]]:
    """Path, method and operation of every call."""
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield path, method.upper(), operation


def _call(path: str, method: str, operation: Document, right: str) -> str:
    statuses = sorted(code for code in operation["responses"] if code != "200")
    errors = f" Error codes: {', '.join(statuses)}." if statuses else ""
    answer = _answer(operation["responses"]["200"])
    description = _with_links(operation.get("description", ""))
    body = _body(operation)
    marker = "skip: it changes the version in Production" if path in _CHANGES_PRODUCTION else ""
    return section(
        f"{method} {path}",
        f"{sentence(operation['summary'])}. {description}".strip(),
        f"{body}Answer: {answer}. Right: {_RIGHTS[right]}.{errors}",
        _parameters(operation.get("parameters", [])),
        block("bash", _curl(path, method, operation), marker),
        level=3,
    )


def _with_links(description: str) -> str:
    """A description that names pages of the documentation by their files, with links to them."""
    return re.sub(r"docs/([\w/-]+)\.md", r"[\1](../\1.md)", prose(description))


def _meaning(schema: Document) -> str:
    """The description as the OpenAPI document has it."""
    return prose(schema.get("description", "")).removesuffix(".")


def _answer(response: Document) -> str:
    content = response.get("content", {})
    names = [
        _schema_name(media, part["schema"]) for media, part in content.items() if part["schema"]
    ]
    headers = ", ".join(map(code, response.get("headers", {})))
    text = " or ".join(dict.fromkeys(names)) or "empty"
    return f"{text}; headers {headers}" if headers else text


def _schema_name(media: str, schema: Document) -> str:
    return type_name(schema) if media == "application/json" else code(media)


def _body(operation: Document) -> str:
    content = operation.get("requestBody", {}).get("content", {})
    names = [_schema_name(media, part["schema"]) for media, part in content.items()]
    return f"Body: {' or '.join(names)}. " if names else ""


def _parameters(parameters: Iterable[Document]) -> str:
    rows = [
        (
            code(one["name"]),
            one["in"],
            type_name(one["schema"]),
            code(one["schema"]["default"]) if "default" in one["schema"] else "",
            _meaning(one),
        )
        for one in parameters
    ]
    return table(("parameter", "in", "type", "default", "meaning"), rows) if rows else ""


def _curl(path: str, method: str, operation: Document) -> str:
    """The example call, by the examples of the document."""
    parameters = operation.get("parameters", [])
    named = {one["name"]: _EXAMPLE_PARAMETERS.get(one["name"]) for one in parameters}
    query = [
        f"{name}={value}" for name, value in named.items() if value and f"{{{name}}}" not in path
    ]
    for name, value in named.items():
        path = path.replace(f"{{{name}}}", str(value))
    url = f"{_URL}{path}" + (f"?{'&'.join(query)}" if query else "")
    quoted = f"'{url}'" if query else url
    content = operation.get("requestBody", {}).get("content", {})
    if "text/csv" in content:
        options = (
            "-H 'Content-Type: text/csv' --data-binary @data/demo/raw/test.csv -o forecast.csv"
        )
        return f"curl -sf {quoted} {options}"
    if "application/json" in content:
        example = json.dumps(content["application/json"]["example"])
        return (
            f"curl -sf {quoted} -H 'Content-Type: application/json' -d @- <<'EOF'\n{example}\nEOF"
        )
    return f"curl -sf {quoted}" if method == "GET" else f"curl -sf -X {method} {quoted}"


def _fields_page(document: Document, name: str) -> str:
    links = [f"[{title}]({file})" for file, title in _FIELD_TITLES.items() if file != name]
    introduction = (
        "Use this page to look up a field of a request or an answer of the [HTTP"
        " API](http-api.md). A request with an unknown field, or with a value of another type"
        f" (text for a number), is refused. More fields: {' and '.join(links)}."
    )
    schemas = document["components"]["schemas"]
    return page(
        _FIELD_TITLES[name],
        introduction,
        *(_schema(one, schemas[one]) for one in sorted(schemas) if component_page(one) == name),
    )


def _schema(name: str, schema: Document) -> str:
    required = set(schema.get("required", ()))
    rows = [
        (
            code(field),
            type_name(one),
            "required" if field in required else _default(one),
            _meaning(one),
        )
        for field, one in schema["properties"].items()
    ]
    text = paragraphs(schema.get("description", ""))
    return section(name, text, table(("field", "type", "default", "meaning"), rows))


def _default(schema: Document) -> str:
    value = schema.get("default")
    return "null" if value is None else code(json.dumps(value))
