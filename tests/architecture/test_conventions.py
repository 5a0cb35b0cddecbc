"""House rules that no linter knows."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.paths import ROOT, SOURCE

FOLDERS = (".ci", "benchmarks", "config", "deployment", "docs", "scripts", "src", "tests")
MOST_LINES = 400
MOST_LINES_OF_TESTS = 450
LAST_RESORTS = {
    "cli/__init__.py": 1,  # one line on stderr
    "dashboard/shared/service_state.py": 1,  # a box on the page
    "prediction_log/writing/log.py": 1,  # neither do the threads behind the answers end
    "prediction_log/writing/spool_writer.py": 1,  # an entry that cannot be logged costs no other
    "serving/experiments/experiment.py": 1,  # a challenger that fails costs no answer
    "serving/prediction/version_loader.py": 1,  # who waits for it gets the error
    "serving/experiments/shadow.py": 1,  # nor does it end the thread behind the answers
    "serving/runtime/version_manager.py": 1,  # the polling thread goes on
}
"""Where any error at all may be caught, and how often."""


def files() -> Iterator[Path]:
    yield from (path for path in ROOT.iterdir() if path.is_file() and path.suffix != ".png")
    for folder in FOLDERS:
        for path in (ROOT / folder).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts and is_text(path):
                yield path


def is_text(path: Path) -> bool:
    return b"\0" not in path.read_bytes()[:1000]


MODULES = sorted(path for path in files() if path.suffix == ".py")
PRODUCT = sorted(SOURCE.rglob("*.py"))


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def calls(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func)


def is_broad(handler: ast.ExceptHandler) -> bool:
    caught = "" if handler.type is None else ast.unparse(handler.type)
    return not caught or bool(re.search(r"\b(Base)?Exception\b", caught))


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_modules_are_short(path: Path) -> None:
    most = MOST_LINES_OF_TESTS if path.is_relative_to(ROOT / "tests") else MOST_LINES
    assert len(path.read_text("utf-8").splitlines()) <= most


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_nobody_edits_the_import_path(path: Path) -> None:
    tree = ast.parse(path.read_text("utf-8"))
    edits = {f"sys.path.{verb}" for verb in ("append", "insert", "extend", "remove")}
    assert edits.isdisjoint(calls(tree))
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign | ast.AugAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            assert all(not ast.unparse(target).startswith("sys.path") for target in targets)


@pytest.mark.parametrize("path", PRODUCT, ids=name)
def test_only_the_command_line_prints(path: Path) -> None:
    if path.is_relative_to(SOURCE / "cli"):
        return
    assert "print" not in set(calls(ast.parse(path.read_text("utf-8"))))


@pytest.mark.parametrize("path", PRODUCT, ids=name)
def test_only_last_resorts_catch_everything(path: Path) -> None:
    tree = ast.parse(path.read_text("utf-8"))
    handlers = [node for node in ast.walk(tree) if isinstance(node, ast.ExceptHandler)]
    broad = [handler.lineno for handler in handlers if is_broad(handler)]
    assert len(broad) <= LAST_RESORTS.get(path.relative_to(SOURCE).as_posix(), 0), broad


def test_no_file_names_a_registry_or_a_place_on_one_machine() -> None:
    # Written in pieces, so that this file does not name them either.
    hosts = ("py" + "pi.org", "python" + "hosted.org", "npm" + "js.org", "deb" + "ian.org")
    places = ("/wo" + "rk/", "/ro" + "ot/", "/ho" + "me/", "../sha" + "red")
    guilty = [
        f"{name(path)}: {word}"
        for path in files()
        for word in (*hosts, *places)
        if word in path.read_text("utf-8", errors="replace")
    ]
    assert guilty == []


@pytest.mark.parametrize("lock", ["requirements.lock", "requirements-dev.lock"])
def test_every_requirement_is_pinned_and_nothing_else(lock: str) -> None:
    lines = (ROOT / lock).read_text().splitlines()
    assert len(lines) > 50
    assert [line for line in lines if not re.match(r"[a-z0-9.-]+==[0-9][^ ;]*( ;.*)?$", line)] == []


def test_both_locks_pin_the_same_versions() -> None:
    few = set((ROOT / "requirements.lock").read_text().splitlines())
    more = set((ROOT / "requirements-dev.lock").read_text().splitlines())
    assert few <= more


def test_no_module_is_named_after_one_of_the_standard_library() -> None:
    import sys

    assert [name(path) for path in PRODUCT if path.stem in sys.stdlib_module_names] == []
