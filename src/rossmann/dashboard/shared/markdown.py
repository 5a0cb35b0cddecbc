"""Markdown for Streamlit's elements, in which texts that are not ours stay literal.

``tests/architecture/test_dashboard_markdown.py`` rejects other texts in an element.
"""

import re
from collections.abc import Iterable
from typing import Final, NewType

Markdown = NewType("Markdown", str)
"""Text of an element, in which all that is not ours is escaped."""
_SPACES: Final = re.compile(r"[\t-\r\x1c-\x1f\x85\u2028\u2029]")
"""Line ends, tabs and other separators: they would start a list, a heading or a block of code."""
_INVISIBLE: Final = re.compile(
    r"[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\u202a-\u202e\u2066-\u2069\ufeff]"
)
"""Control characters, and those that turn the direction of text, which can disguise a name."""
_TOKEN: Final = re.compile(
    r"""
    (?P<alone> :(?![ ]) | @      # directives, emoji, icons, addresses of the web and of mail
      | (?<=[wW])\.              # www.
      | [<>~=-]{2,}              # arrows, dashes and other signs that Streamlit replaces
    )
    | (?P<space> ^[ ] | [ ]$ | (?<=[ ])[ ] )
    | [$&*<[\]\\_`{|~]
    | ^[-+=#>]                   # lists, headings, quotations
    | (?<![^0-9])[.)](?![^ ])    # numbered lists
    """,
    re.VERBOSE,
)


def escape_markdown(text: object) -> Markdown:
    r"""Markdown that shows the characters of ``text`` and nothing else, as ``visible_line`` does.

    A backslash keeps a character from the parser. Some of Streamlit's replacements (links of bare
    addresses, emoji, icons, arrows) search the parsed text, in which no backslash is left: for
    these the text is divided, by a directive for a colour that names none.
    """
    return Markdown(_TOKEN.sub(_literal, visible_line(text)))


def code_span(text: object) -> Markdown:
    """``text`` as code within a line, as for a command."""
    line = visible_line(text)
    fence = "`" * (max(map(len, re.findall("`+", line)), default=0) + 1)
    pad = " " if line.strip() and ("`" in line or line != line.strip()) else ""
    return Markdown(f"{fence}{pad}{line}{pad}{fence}")


def markdown_list(texts: Iterable[object]) -> Markdown:
    """A list of texts, each with a bullet."""
    return Markdown("\n".join(f"- {escape_markdown(text)}" for text in texts))


def visible_line(text: object) -> str:
    """``text`` in one line: line ends and tabs as spaces, other control characters as U+FFFD."""
    return _INVISIBLE.sub("\N{REPLACEMENT CHARACTER}", _SPACES.sub(" ", str(text)))


def _literal(match: re.Match[str]) -> str:
    if match["space"]:
        return "&#32;"
    if match["alone"]:
        return "".join(f":color[\\{character}]" for character in match[0])
    return f"\\{match[0]}"
