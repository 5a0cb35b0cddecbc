"""Parts of a Markdown page: escaped text, tables, code blocks, and the page as a whole."""

import re
from collections.abc import Iterable, Sequence
from typing import Final

_CODE_SPAN: Final = re.compile(r"(`+)(.+?)\1", re.DOTALL)
_SPECIAL: Final = re.compile(r"([\\*_\[\]|])")
_GENERATED: Final = (
    "<!-- Written by `rossmann docs --write-reference` from the code: change the text there. -->"
)


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
