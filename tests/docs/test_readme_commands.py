"""Commands of the README in a shell without an active environment; packages of the benchmarks."""

import ast
import re
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from rossmann.cli import main
from tests.paths import ROOT

README = (ROOT / "README.md").read_text("utf-8")
COMMANDS = re.findall(r"`(?:[A-Z_]+=\S+ )?(\.venv/bin/(?:rossmann|python) [^`]+)`", README)
BENCHMARKS = sorted((ROOT / "benchmarks").glob("*.py"))


def test_no_command_needs_a_path_that_set_up_does_not_give() -> None:
    bare = re.findall(r"(?<![\w./-])(?:rossmann [a-z]+|python benchmarks)[^`\n]{0,40}", README)
    assert bare == []
    assert len(COMMANDS) >= 10


@pytest.mark.parametrize("command", sorted({c for c in COMMANDS if "/rossmann " in c}))
def test_verb_of_a_command_exists(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    verbs = re.match(r"\S+((?: [a-z]+)*)", command)
    assert verbs
    words = verbs[1].split()
    assert main([*words, "--help"]) == 0
    assert words[-1] in capsys.readouterr().out if words else True


@pytest.mark.parametrize("command", sorted({c for c in COMMANDS if "benchmarks/" in c}))
def test_benchmark_of_a_command_exists(command: str) -> None:
    assert (ROOT / command.split()[1]).is_file()


@pytest.mark.parametrize("script", BENCHMARKS, ids=lambda path: path.name)
def test_benchmark_needs_only_runtime_packages(script: Path) -> None:
    locked = {
        re.split(r"[=;\[ ]", line)[0].lower().replace("_", "-")
        for line in (ROOT / "requirements.lock").read_text().splitlines()
    }
    distributions = packages_distributions()
    own = {path.stem for path in BENCHMARKS} | {"rossmann"} | set(sys.stdlib_module_names)
    for node in ast.walk(ast.parse(script.read_text("utf-8"))):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module]
        for name in {name.partition(".")[0] for name in names} - own:
            needed = {d.lower().replace("_", "-") for d in distributions[name]}
            assert needed & locked, f"{name} is not in requirements.lock"
