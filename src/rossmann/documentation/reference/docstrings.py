"""Texts in the source: the string below each attribute of a class, the example of a docstring."""

import ast
import inspect
import re
import textwrap
from typing import Final

_EXAMPLE: Final = re.compile(r"Example:\s+(.+)\Z", re.DOTALL)


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
