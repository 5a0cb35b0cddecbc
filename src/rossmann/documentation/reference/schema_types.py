"""Names of types for readers, from JSON schemas."""

from collections.abc import Mapping
from types import ModuleType
from typing import Any, Final

from rossmann.serving.routes.openapi import PUBLISHED_NAMES
from rossmann.serving.schemas import errors, forecasts, models, stores

_NAMES: Final = {
    "integer": "integer",
    "number": "number",
    "string": "text",
    "boolean": "true or false",
    "null": "null",
    "object": "object",
}
_FORMATS: Final = {"path": "path", "date": "date", "date-time": "date and time", "binary": "file"}
FIELD_PAGES: Final[dict[str, tuple[ModuleType, ...]]] = {
    "http-api-fields.md": (forecasts, errors),
    "http-api-store-fields.md": (stores,),
    "http-api-model-fields.md": (models,),
}
"""Pages of fields, and the modules that declare them."""
_REFERENCE: Final = "#/components/schemas/"


def type_name(schema: Mapping[str, Any]) -> str:
    """The type with its limits; a component of an OpenAPI document is a link to its fields."""
    if "$ref" in schema:
        return component_link(schema["$ref"].removeprefix(_REFERENCE))
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(type_name(one) for one in schema["anyOf"]))
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if "const" in schema:
        return f"`{schema['const']}`"
    kind = schema.get("type", "")
    if kind == "array":
        return f"list of {type_name(schema.get('items', {}))}"
    if kind == "object" and isinstance(schema.get("additionalProperties"), dict):
        inner = schema["additionalProperties"]
        return "object" if "$ref" in inner or not inner else f"object of {type_name(inner)}"
    name = _FORMATS.get(schema.get("format", ""), _NAMES.get(kind, "any value"))
    return f"{name}{_limits(schema)}"


def component_link(name: str) -> str:
    """A link to the fields of a component of the OpenAPI document."""
    return f"[{name}]({component_page(name)}#{name.lower()})"


def component_page(name: str) -> str:
    """The page that has a component's fields, by the module that declares it."""
    own_names = {published: own for own, published in PUBLISHED_NAMES.items()}
    own_name = own_names.get(name, name)
    for file, modules in FIELD_PAGES.items():
        if any(_declares(module, own_name) for module in modules):
            return file
    raise ValueError(f"no module of schemas has {own_name}")


def _declares(module: ModuleType, name: str) -> bool:
    found = getattr(module, name, None)
    return found is not None and found.__module__ == module.__name__


def _limits(schema: Mapping[str, Any]) -> str:
    low, high = schema.get("minimum"), schema.get("maximum")
    above, below = schema.get("exclusiveMinimum"), schema.get("exclusiveMaximum")
    if low is not None and high is not None:
        return f" ({low:g} to {high:g})"
    words = (("from", low), ("above", above), ("to", high), ("below", below))
    limits = ", ".join(f"{word} {limit:g}" for word, limit in words if limit is not None)
    return f" ({limits})" if limits else ""
