"""Commands inside sentences and tables: their verbs, options and files exist."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
import typer

from rossmann.cli import app
from tests.docs.code_blocks import code_blocks
from tests.docs.test_pages import PAGES, prose
from tests.paths import ROOT

PLACEHOLDERS = {"N", "M", "FILE", "VERB", "FOLDER", "VERSION", "NAME", "URL", "…", "...", "ID"}
PROGRAM = re.compile(r"(?:[A-Z_]+=\S+ )*(?:\.venv/bin/)?rossmann ([a-z][^`\n]*)")
BENCHMARK = re.compile(r"(?:\.venv/bin/)?python (benchmarks/\w+\.py)([^`\n]*)")


def commands(page: str) -> Iterator[str]:
    """Texts between backquotes, and lines of the page's shell blocks."""
    yield from re.findall(r"`([^`\n]+)`", prose(page))
    for block in code_blocks(ROOT / page):
        if block.language == "bash":
            yield from block.text.splitlines()


def find_verb(words: list[str]) -> tuple[Any, list[str]]:
    """The command of the words, and the words after its name; raises ``KeyError``."""
    command: Any = typer.main.get_command(app)
    while hasattr(command, "commands") and words and not words[0].startswith("-"):
        if words[0] in PLACEHOLDERS:
            return command, []
        command, words = command.commands[words[0].rstrip(",.;")], words[1:]
    return command, words


@pytest.mark.parametrize("page", [*PAGES, "README.md"])
def test_verbs_and_options_exist(page: str) -> None:
    for text in commands(page):
        match = PROGRAM.match(text.strip())
        if match is None:
            continue
        words = re.split(r"\s+(?:#|\||&&|>|>>|2>)\s*", match[1])[0].split()
        command, rest = find_verb(words)
        known = {name for parameter in command.params for name in parameter.opts} | {"--help", "-h"}
        options = {word.partition("=")[0] for word in rest if re.match(r"--?[a-z]", word)}
        assert options <= known, text


@pytest.mark.parametrize("page", [*PAGES, "README.md"])
def test_benchmarks_exist_with_their_options(page: str) -> None:
    for text in commands(page):
        for script, rest in BENCHMARK.findall(text):
            source = (ROOT / script).read_text("utf-8")
            for option in re.findall(r"(?<!\S)--[a-z][a-z-]*", rest):
                assert option in source, text
