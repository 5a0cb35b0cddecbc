"""Elements of the dashboard that render Markdown get no text that is not escaped."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.paths import SOURCE

FOLDER = SOURCE / "dashboard"
HTML_MODULE = FOLDER / "shared" / "page_elements.py"
MODULES = sorted(
    path
    for path in FOLDER.rglob("*.py")
    if re.search("^(import|from) streamlit", path.read_text("utf-8"), re.MULTILINE)
)
ELEMENTS = {
    **dict.fromkeys(("title", "header", "subheader", "markdown", "write", "caption", "badge"), 1),
    **dict.fromkeys(("error", "warning", "info", "success", "toast", "expander", "popover"), 1),
    **dict.fromkeys(("button", "download_button", "link_button", "toggle", "checkbox"), 1),
    **dict.fromkeys(("text_input", "number_input", "text_area", "date_input", "slider"), 1),
    **dict.fromkeys(("radio", "selectbox", "multiselect", "pills", "segmented_control"), 1),
    **dict.fromkeys(("file_uploader", "spinner", "tabs", "dialog", "status", "chat_message"), 1),
    **{"metric": 3, "progress": 2, "page_link": 1},
    **dict.fromkeys(("Column", "TextColumn", "NumberColumn"), 0),  # their help only
}
"""Methods whose first arguments are rendered as Markdown, and how many of them."""
MARKDOWN_OPTIONS = {"radio", "pills", "segmented_control"}
"""Their options are rendered as Markdown too, by ``format_func``."""
MARKDOWN_KEYWORDS = {"label", "body", "help", "value", "delta", "text"}
ESCAPING = {"escape_markdown", "code_span", "markdown_list"}
FORMATTERS = {"short_date", "long_date", "whole", "percent"}
"""They return digits, and names of days and months."""
PLAIN = {
    *("App", "Page", "navigation", "set_page_config", "fragment", "rerun", "get_option"),
    *("cache_resource", "columns", "container", "dataframe", "altair_chart", "html"),
}
"""Functions of Streamlit that render no text, or render it as it is."""
NOT_TEXT = {
    "page_link": {0},  # a page, or an address of the settings
    "progress": {0},  # a share
}


class Scope:
    """The texts that a function's local names can have."""

    def __init__(self, function: ast.AST) -> None:
        self.values: dict[str, list[ast.expr]] = {}
        self.markdown: set[str] = set()
        for node in ast.walk(function):
            match node:
                case ast.arg(arg=name, annotation=ast.Name(id="Markdown")):
                    self.markdown.add(name)
                case ast.arg(arg=name):
                    self.values.setdefault(name, []).append(ast.Name("?"))
                case ast.Assign(targets=[target], value=value):
                    self._assign(target, value)
                case ast.AnnAssign(target=target, value=ast.expr() as value):
                    self._assign(target, value)
                case ast.AugAssign(target=target, value=value):
                    self._assign(target, value)
                case (
                    ast.For(target=target, iter=value)
                    | ast.comprehension(target=target, iter=value)
                ):
                    self._loop(target, value)
                case ast.Call(
                    func=ast.Attribute(value=ast.Name(id=name), attr="append"), args=[value]
                ):
                    self.values.setdefault(name, []).append(value)

    def _assign(self, target: ast.expr, value: ast.expr) -> None:
        if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
            for part, assigned in zip(target.elts, value.elts, strict=True):
                self._assign(part, assigned)
            return
        for node in ast.walk(target):
            if isinstance(node, ast.Name):
                self.values.setdefault(node.id, []).append(value)

    def _loop(self, target: ast.expr, rows: ast.expr) -> None:
        if isinstance(rows, ast.Tuple | ast.List):
            for row in rows.elts:
                self._assign(target, row)
        else:
            self._assign(target, rows)

    def is_literal(self, node: ast.expr) -> bool:
        """Whether an expression is our own text, or escaped."""
        match node:
            case ast.Constant():
                return True
            case ast.Name(id=name):
                own = name.isupper() or name in self.markdown
                values = self.values.get(name, [])
                return own or (bool(values) and all(map(self.is_literal, values)))
            case ast.JoinedStr(values=parts) | ast.List(elts=parts) | ast.Tuple(elts=parts):
                return all(map(self.is_literal, parts))
            case ast.FormattedValue(value=value, format_spec=spec):
                return rejects_text(spec) or self.is_literal(value)
            case ast.IfExp(body=one, orelse=other) | ast.BinOp(left=one, right=other):
                return self.is_literal(one) and self.is_literal(other)
            case ast.GeneratorExp(elt=value) | ast.ListComp(elt=value):
                return self.is_literal(value)
            case ast.Subscript(value=value):
                return self.is_literal(value)
            case ast.Call():
                return self._is_literal_call(node)
        return False

    def _is_literal_call(self, call: ast.Call) -> bool:
        name = ast.unparse(call.func).rsplit(".", 1)[-1]
        match name, call.func:
            case "Markdown", _:
                return self.is_literal(call.args[0])
            case "join", ast.Attribute(value=separator):
                return self.is_literal(separator) and self.is_literal(call.args[0])
            case (("lower" | "get"), ast.Attribute(value=text)):
                return self.is_literal(text) and all(map(self.is_literal, call.args[1:]))
        return name in ESCAPING | FORMATTERS


def rejects_text(spec: ast.expr | None) -> bool:
    """Whether formatting a text by ``spec`` is an error: ``d`` for integers, ``%a`` for dates."""
    parts = spec.values if isinstance(spec, ast.JoinedStr) else []
    try:
        format("text", "".join(str(part.value) for part in parts if isinstance(part, ast.Constant)))
    except ValueError:
        return True
    return False


def rendered(call: ast.Call) -> Iterator[ast.expr]:
    """The arguments of a call that Streamlit renders as Markdown."""
    name = ast.unparse(call.func).rsplit(".", 1)[-1]
    keywords = {keyword.arg: keyword.value for keyword in call.keywords}
    if name not in ELEMENTS or "unsafe_allow_html" in keywords:
        return
    positional = call.args[: ELEMENTS[name]]
    yield from (arg for n, arg in enumerate(positional) if n not in NOT_TEXT.get(name, ()))
    yield from (value for word, value in keywords.items() if word in MARKDOWN_KEYWORDS)
    if "captions" in keywords:
        yield keywords["captions"]
    if name in MARKDOWN_OPTIONS:
        function = keywords.get("format_func")
        if function is None:
            yield call.args[1]
        else:
            yield ast.Call(function, [], [])


def unescaped(source: str) -> list[str]:
    """Arguments in a module that may be other people's text, with their lines."""
    found = []
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    tree = ast.parse(source)
    for function in (node for node in ast.walk(tree) if isinstance(node, functions)):
        scope = Scope(function)
        for call in (node for node in ast.walk(function) if isinstance(node, ast.Call)):
            is_typed = ast.unparse(call.func) == "Markdown"
            found += [
                f"{call.lineno}: {ast.unparse(argument)}"
                for argument in (call.args if is_typed else rendered(call))
                if not scope.is_literal(argument)
            ]
    return found


def module_name(path: Path) -> str:
    return path.relative_to(FOLDER).as_posix()


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_rendered_texts_are_escaped(path: Path) -> None:
    assert unescaped(path.read_text("utf-8")) == []


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_functions_of_streamlit_are_known(path: Path) -> None:
    """Another one is added to ``ELEMENTS`` or to ``PLAIN``, after a look at what it renders."""
    used = {
        node.func.attr
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and isinstance(node.func.value, ast.Name)
        and node.func.value.id == "st"
    }
    assert used - set(ELEMENTS) - PLAIN == set()


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_html_is_ours(path: Path) -> None:
    for call in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(call, ast.Call):
            keywords = {keyword.arg for keyword in call.keywords}
            assert "unsafe_allow_html" not in keywords or path == HTML_MODULE
            if ast.unparse(call.func) == "st.html":
                assert ast.unparse(call.args[0]).isupper()


@pytest.mark.parametrize(
    "line",
    [
        "st.error(text)",
        "st.error(str(text))",
        'st.error(f"**{text}**")',
        'st.error("- " + text)',
        'st.error("; ".join(escape_markdown(one) + text for one in texts))',
        "shown = 'a'\n    shown = text\n    st.error(shown)",
        "lines = ['a']\n    lines.append(text)\n    st.error(' '.join(lines))",
        "for name in texts: st.write(name)",
        "left.metric('a', 'b', text)",
        "left.metric('a', 'b', help=text)",
        "st.radio('a', texts)",
        "st.radio('a', texts, format_func=str)",
        "st.radio('a', texts, format_func=escape_markdown, captions=texts)",
        'st.error(f"{text:>9}")',
        "show(Markdown(text))",
    ],
)
def test_a_text_that_is_not_escaped_is_found(line: str) -> None:
    assert len(unescaped(f"def show(text: str, texts: list[str]):\n    {line}")) == 1


@pytest.mark.parametrize(
    "line",
    [
        'st.error("a")',
        "st.error(TITLE)",
        'st.error(f"**{escape_markdown(text)}** {number:d} {day:%A}")',
        "shown = escape_markdown(text)\n    st.error(shown if text else 'none')",
        "lines = [escape_markdown(text)]\n    lines.append(TITLE)\n    st.error(' '.join(lines))",
        "st.radio('a', texts, format_func=escape_markdown)",
        'show(Markdown(f"a {code_span(text)}"))',
    ],
)
def test_own_and_escaped_texts_pass(line: str) -> None:
    assert unescaped(f"def show(text: str, number, day, texts: list[str]):\n    {line}") == []
