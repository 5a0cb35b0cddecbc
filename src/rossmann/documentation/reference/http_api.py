"""Pages of the HTTP API and its Python client: each call with its fields and a running example."""

import inspect
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import fields
from typing import Any, Final, TypeVar, cast

from fastapi import FastAPI

from rossmann.documentation.reference.page_parts import (
    FIELD_PAGES,
    block,
    code,
    component_link,
    component_page,
    page,
    paragraphs,
    prose,
    section,
    sentence,
    split_example,
    table,
    type_name,
)
from rossmann.serving.access.access_control import AccessControl
from rossmann.serving.access.api_keys import Permission
from rossmann.serving.app import AppComponents, add_routes
from rossmann.serving.batch_prediction.handler import BatchPredictHandler
from rossmann.serving.client.client import Client
from rossmann.serving.client.responses import FileResult
from rossmann.serving.experiments.report import ExperimentReport
from rossmann.serving.observability.gauges import StateCollector
from rossmann.serving.prediction.handler import PredictHandler
from rossmann.serving.routes.openapi import PUBLISHED_NAMES, openapi_document, required_rights
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
_SKIPPED: Final = ("promote", "rollback")


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


def client_pages() -> dict[str, str]:
    """``python-client.md``."""
    introduction = (
        "Use this page to call the service from Python: `rossmann.serving.client.Client` has one"
        " method for each endpoint. The answers have the fields of the"
        " [HTTP API](http-api.md), as attributes."
    )
    first = section(
        "Client",
        paragraphs(inspect.getdoc(Client) or ""),
        block("text", _signature("Client", Client.__init__)),
        "`base_url`: address of the service. `api_key`: sent as `X-API-Key`. `timeout`: seconds"
        " that an answer may take. `transport`: another way to send requests, for tests. Use it in"
        " a `with` block, which closes its connections.",
    )
    methods = [_method(name, method) for name, method in public_methods().items()]
    return {"python-client.md": page("Python client", introduction, first, *methods)}


def public_methods() -> dict[str, Callable[..., Any]]:
    """The methods that callers use."""
    found = inspect.getmembers(Client, inspect.isfunction)
    own = {name: method for name, method in found if not name.startswith("_")}
    return dict(sorted(own.items(), key=lambda item: item[1].__code__.co_firstlineno))


def _method(name: str, method: Callable[..., Any]) -> str:
    text, example = split_example(method.__doc__ or "")
    marker = "skip: it changes the version in Production" if name in _SKIPPED else ""
    result = _result(method)
    return section(
        code(name),
        paragraphs(text),
        block("text", _signature(name, method)),
        f"Returns {result}." if result else "",
        block("python", _script(example), marker),
    )


def _signature(name: str, method: Callable[..., Any]) -> str:
    """The call with its parameters, one on a line where they are many."""
    signature = inspect.signature(method)
    parameters = [str(one) for one in signature.parameters.values() if one.name != "self"]
    plain = [_plain(one) for one in parameters]
    line = f"{name}({', '.join(plain)})"
    if len(line) <= 80:
        return line
    return f"{name}(\n    " + ",\n    ".join(plain) + ",\n)"


def _plain(parameter: str) -> str:
    """A parameter without the modules of its types, as every release of Python writes it."""
    short = re.sub(r"\b(?:collections\.abc|typing|pathlib|httpx)\.", "", parameter)
    return re.sub(r"Optional\[(.+)\]", r"\1 | None", short)


def _result(method: Callable[..., Any]) -> str:
    """The type of the result; a model of the HTTP API is a link to its fields."""
    returned = inspect.signature(method).return_annotation
    if returned in (None, inspect.Signature.empty):
        return ""
    name = returned.__args__[0].__name__ if hasattr(returned, "__args__") else returned.__name__
    if name == "FileResult":
        return f"a `FileResult` with {', '.join(code(one.name) for one in fields(FileResult))}"
    published = PUBLISHED_NAMES.get(name, name)
    link = component_link(published)
    article = "an" if published[0] in "AEIO" else "a"
    return f"a list of {link}" if hasattr(returned, "__args__") else f"{article} {link}"


def _script(example: str) -> str:
    """The example as a whole script."""
    lines = ["from pathlib import Path\n"] if "Path(" in example else []
    lines.append("from rossmann.serving.client import Client\n")
    if "rows" in example.split("client.", 1)[1].split(")", maxsplit=1)[0]:
        items = EXAMPLE_ROW.items()
        row = [f"        {json.dumps(name)}: {json.dumps(value)}," for name, value in items]
        lines += ["rows = [", "    {", *row, "    }", "]"]
    if example == "client.close()":
        return "\n".join([*lines, f'client = Client("{_URL}")', example])
    return "\n".join([*lines, f'with Client("{_URL}") as client:', f"    {example}"])
