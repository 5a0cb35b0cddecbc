"""Parts of the reference's pages: Markdown, texts of docstrings, and names of types for readers."""

import ast
import inspect
import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from types import ModuleType
from typing import Any, Final

from rossmann.serving.routes.openapi import PUBLISHED_NAMES
from rossmann.serving.schemas import errors, forecasts, models, stores

_CODE_SPAN: Final = re.compile(r"(`+)(.+?)\1", re.DOTALL)
_SPECIAL: Final = re.compile(r"([\\*_\[\]|])")
_GENERATED: Final = (
    "<!-- Written by `rossmann docs --write-reference` from the code: change the text there. -->"
)
_EXAMPLE: Final = re.compile(r"Example:\s+(.+)\Z", re.DOTALL)
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


def code(text: object) -> str:
    """A code span; a pipe would end the cell of a table."""
    return f"`{str(text).replace('|', ' or ')}`"


def prose(text: str) -> str:
    """Text of a docstring or a description: one line, escaped outside of its code spans."""
    parts, end = [], 0
    line = " ".join(text.split())
    for span in _CODE_SPAN.finditer(line):
        parts += [_escape(line[end : span.start()]), code(span[2])]
        end = span.end()
    return "".join([*parts, _escape(line[end:])])


def _escape(text: str) -> str:
    return _SPECIAL.sub(r"\\\1", text).replace("<", "&lt;").replace(">", "&gt;")


def sentence(text: str) -> str:
    """``prose`` with a capital letter first and without a full stop, for the cell of a table."""
    line = prose(text).strip().removesuffix(".")
    return line[:1].upper() + line[1:]


def paragraphs(docstring: str) -> str:
    """The paragraphs of a docstring."""
    blocks = re.split(r"\n\s*\n", docstring.strip())
    return "\n\n".join(prose(block) for block in blocks if block.strip())


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; the cells are Markdown already."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def block(language: str, text: str, marker: str = "") -> str:
    """A code block, with the comment for the test suite on the line before."""
    before = f"<!-- {marker} -->\n" if marker else ""
    return f"{before}```{language}\n{text.rstrip()}\n```"


def page(title: str, introduction: str, *sections: str) -> str:
    """A page: title, what it is for, and sections with a blank line between."""
    return "\n\n".join([f"# {title}", _GENERATED, introduction, *sections]) + "\n"


def section(title: str, *parts: str, level: int = 2) -> str:
    """A heading and what stands below it."""
    return "\n\n".join([f"{'#' * level} {title}", *(part for part in parts if part)])


def attribute_texts(kind: type) -> dict[str, str]:
    """The text below each attribute that a class itself declares, by the attribute's name."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(kind)))
    definition = tree.body[0]
    assert isinstance(definition, ast.ClassDef)
    texts: dict[str, str] = {}
    name = ""
    for node in definition.body:
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and name:
            texts[name] = inspect.cleandoc(str(node.value.value))
        is_attribute = isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
        name = ast.unparse(node.target) if is_attribute and isinstance(node, ast.AnnAssign) else ""
    return texts


def attributes_of(kind: type) -> list[str]:
    """The attributes that a class itself declares, in their order."""
    return [name for name in vars(kind).get("__annotations__", {}) if name != "model_config"]


def split_example(docstring: str) -> tuple[str, str]:
    """The text of a docstring, and its example, on one line and without its quotes."""
    text = inspect.cleandoc(docstring)
    found = _EXAMPLE.search(text)
    if found is None:
        return text, ""
    return text[: found.start()].rstrip(), " ".join(found[1].split()).strip("`")


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
