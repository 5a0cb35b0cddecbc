"""Code blocks of the documentation: how they are found, run, and compared with the answers."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_BLOCK = re.compile(
    r"((?:^<!--[^\n]*-->\n)*)^( *)```(\w*)[^\n]*\n(.*?)^\2```[ \t]*$", re.DOTALL | re.MULTILINE
)
_MARKER = re.compile(r"<!-- *(skip|nightly|fails|response|post)\b:? *(.*?) *-->")
MARKERS = {"skip", "nightly", "fails", "response", "post"}


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its text, the line it begins on, and its markers."""

    language: str
    text: str
    line: int
    markers: dict[str, str]


def code_blocks(page: Path) -> list[Block]:
    """All fenced blocks of a page, in order."""
    text = page.read_text("utf-8")
    blocks = []
    for match in _BLOCK.finditer(text):
        comments, indent, language, content = match.groups()
        lines = [line.removeprefix(indent) for line in content.splitlines()]
        line = text.count("\n", 0, match.start(3)) + 1
        blocks.append(
            Block(language, "\n".join(lines) + "\n", line, dict(_MARKER.findall(comments)))
        )
    return blocks


def shape_differences(example: Any, actual: Any, at: str = "$") -> list[str]:
    """Where an answer has other keys or types than the example; lists by their first items."""
    if example is None or actual is None:
        return []
    if isinstance(example, dict) and isinstance(actual, dict):
        found = [f"{at}.{key} is not answered" for key in example.keys() - actual.keys()]
        found += [f"{at}.{key} is not in the example" for key in actual.keys() - example.keys()]
        for key in example.keys() & actual.keys():
            found += shape_differences(example[key], actual[key], f"{at}.{key}")
        return found
    if isinstance(example, list) and isinstance(actual, list):
        if not example or not actual:
            return []
        return shape_differences(example[0], actual[0], f"{at}[0]")
    if _kind(example) != _kind(actual):
        return [f"{at} is {_kind(actual)}, in the example {_kind(example)}"]
    return []


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int | float):
        return "number"
    return {str: "string", dict: "object", list: "array"}[type(value)]


def parsed(text: str) -> Any:
    """JSON, or one JSON document in each line (then a list)."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return [json.loads(line) for line in text.splitlines() if line.strip()]
