"""Page of the Python client: each method with signature, meaning and an example that runs."""

import inspect
import json
import re
from collections.abc import Callable
from dataclasses import fields
from typing import Any, Final

from rossmann.documentation.reference.docstrings import split_example
from rossmann.documentation.reference.http_api import EXAMPLE_ROW
from rossmann.documentation.reference.markdown import block, code, page, paragraphs, section
from rossmann.documentation.reference.schema_types import component_link
from rossmann.serving.client.client import Client
from rossmann.serving.client.responses import FileResult
from rossmann.serving.routes.openapi import PUBLISHED_NAMES

_SKIPPED: Final = ("promote", "rollback")
_URL: Final = "http://127.0.0.1:8000"


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
