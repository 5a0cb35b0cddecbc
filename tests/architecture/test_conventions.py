"""Conventions that no linter checks: layout, sizes, names, documented paths."""

import ast
import builtins
import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.paths import ROOT, SOURCE

FOLDERS = (".ci", "benchmarks", "config", "deployment", "docs", "scripts", "src", "tests")
MAX_LINES = 400
MAX_TEST_LINES = 450
MAX_MODULES = 12
MAX_DEPTH = 2
MAX_FUNCTION_LINES = 40
MAX_PARAMETERS = 6
PUBLISHED_SIGNATURES = {"predict", "predict_file"}
"""Public functions that were published with all or more of these parameters."""
LAST_RESORTS = {
    "cli/__init__.py": 1,  # one line on stderr
    "dashboard/shared/error_boundary.py": 1,  # an error box on the page
    "prediction_log/writing/log.py": 1,  # the writing threads keep running
    "prediction_log/writing/spool_writer.py": 1,  # an invalid entry affects no other
    "serving/experiments/experiment.py": 1,  # a failing challenger fails no request
    "serving/experiments/shadow.py": 1,  # the shadow thread keeps running
    "serving/prediction/threads.py": 1,  # the waiting request gets the error
    "serving/runtime/version_manager.py": 1,  # the polling thread keeps running
}
"""Modules that may catch any exception, and how often."""
CROSS_CUTTING = ("architecture", "docs", "e2e", "fixtures", "scripts", "serving/contract")
CROSS_CUTTING_TESTS = ("serving/faults", "dashboard/test_browser.py", "test_numba_kernel.py")
"""Tests of several modules; all others are named after the module that they test."""
IDIOM = re.compile(
    r"(?:^|_)(told|tell|asked|doubts?|doubted|mine|theirs|settle[ds]?|shelf|seen|behind|together"
    r"|fewest|unsaid|said|roaming|anywhere|hurry|patience)(?:_|$)",
    re.IGNORECASE,
)
"""Words that are not the field's standard terms."""
LIBRARY_NAMES = {"tell"}  # methods of file objects and of optuna


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
TREES = {path: ast.parse(path.read_text("utf-8")) for path in PRODUCT}


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def calls(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func)


def is_broad(handler: ast.ExceptHandler) -> bool:
    """Whether it catches all exceptions and does not re-raise them."""
    caught = "" if handler.type is None else ast.unparse(handler.type)
    everything = not caught or bool(re.search(r"\b(Base)?Exception\b", caught))
    return everything and ast.unparse(handler.body[-1]) != "raise"


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """All functions but numba kernels."""
    for node in ast.walk(TREES[path]):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            decorators = {ast.unparse(decorator) for decorator in node.decorator_list}
            if "cached_njit" not in decorators:
                yield node


def length(function: ast.FunctionDef | ast.AsyncFunctionDef, in_cli: bool) -> int:
    """Lines without the docstring; in the CLI also without the list of options."""
    first = function.body[0]
    has_doc = ast.get_docstring(function) is not None
    doc_lines = (first.end_lineno or 0) - first.lineno + 1 if has_doc else 0
    start = first.lineno if in_cli else function.lineno
    return (function.end_lineno or 0) - start + 1 - doc_lines


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_module_length(path: Path) -> None:
    limit = MAX_TEST_LINES if path.is_relative_to(ROOT / "tests") else MAX_LINES
    assert len(path.read_text("utf-8").splitlines()) <= limit


def test_folders_are_small_and_shallow() -> None:
    count = Counter(path.parent for path in PRODUCT if path.name != "__init__.py")
    assert {name(folder): n for folder, n in count.items() if n > MAX_MODULES} == {}
    assert max(len(path.relative_to(SOURCE).parts) - 1 for path in PRODUCT) <= MAX_DEPTH


@pytest.mark.parametrize("path", PRODUCT, ids=name)
def test_functions_are_short_with_few_parameters(path: Path) -> None:
    in_cli = path.is_relative_to(SOURCE / "cli")
    for function in functions(path):
        assert length(function, in_cli) <= MAX_FUNCTION_LINES, function.name
        arguments = function.args
        parameters = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
        own = [parameter for parameter in parameters if parameter.arg not in {"self", "cls"}]
        exempt = in_cli or function.name in PUBLISHED_SIGNATURES
        assert exempt or len(own) <= MAX_PARAMETERS, function.name


def modules_by_name() -> dict[str, Path]:
    modules = {}
    for path in PRODUCT:
        dotted = ".".join(path.relative_to(SOURCE.parent).with_suffix("").parts)
        modules[dotted.removesuffix(".__init__")] = path
    return modules


def test_imports_have_no_cycles() -> None:
    """Imports at the top of the modules, by topological sorting."""
    known = modules_by_name()
    imports: dict[str, set[str]] = {}
    for module, path in known.items():
        targets = set()
        for node in TREES[path].body:
            if isinstance(node, ast.ImportFrom) and node.module:
                names = {f"{node.module}.{alias.name}" for alias in node.names}
                targets |= {target if target in known else node.module for target in names}
        imports[module] = (targets & set(known)) - {module}
    while leaves := {module for module, targets in imports.items() if not targets}:
        imports = {m: targets - leaves for m, targets in imports.items() if m not in leaves}
    assert imports == {}


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_sys_path_is_not_edited(path: Path) -> None:
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
    assert "print" not in set(calls(TREES[path]))


@pytest.mark.parametrize("path", PRODUCT, ids=name)
def test_broad_exception_handlers_are_limited_to_last_resorts(path: Path) -> None:
    handlers = [node for node in ast.walk(TREES[path]) if isinstance(node, ast.ExceptHandler)]
    broad = [handler.lineno for handler in handlers if is_broad(handler)]
    assert len(broad) <= LAST_RESORTS.get(path.relative_to(SOURCE).as_posix(), 0), broad


@pytest.mark.parametrize("path", PRODUCT, ids=name)
def test_names_contain_no_private_idiom(path: Path) -> None:
    idioms = set()
    for node in ast.walk(TREES[path]):
        for attribute in ("id", "attr", "arg", "name"):
            word = getattr(node, attribute, None)
            if (
                isinstance(word, str)
                and word not in LIBRARY_NAMES
                and IDIOM.search(re.sub(r"(?<=[a-z])(?=[A-Z])", "_", word))
            ):
                idioms.add(word)
    assert idioms == set()


def test_exception_names_end_in_error() -> None:
    bases: dict[str, set[str]] = {}
    for tree in TREES.values():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                bases[node.name] = {ast.unparse(base).rsplit(".", 1)[-1] for base in node.bases}
    errors = {
        name
        for name, value in vars(builtins).items()
        if isinstance(value, type) and issubclass(value, Exception)
    }
    while (
        subclasses := {name for name, base_names in bases.items() if base_names & errors} - errors
    ):
        errors |= subclasses
    assert [name for name in sorted(errors & set(bases)) if not name.endswith("Error")] == []


def documents() -> Iterator[Path]:
    yield from (ROOT / "README.md", ROOT / "CONTRIBUTING.md")
    yield from sorted((ROOT / "docs").rglob("*.md"))


@pytest.mark.parametrize("path", list(documents()), ids=name)
def test_documented_paths_exist(path: Path) -> None:
    """Modules relative to the package or the repository; tests with their function."""
    text = path.read_text("utf-8")
    missing = []
    for file, function in re.findall(r"`?\b((?:[\w-]+/)+[\w-]+\.py)(?:::(\w+))?", text):
        candidates = [
            folder / file for folder in (ROOT, SOURCE, ROOT / "tests", ROOT / "tests/serving")
        ]
        existing = [candidate for candidate in candidates if candidate.is_file()]
        if not existing or (function and f"def {function}(" not in existing[0].read_text("utf-8")):
            missing.append(f"{file}::{function}" if function else file)
    assert missing == []


def test_tests_mirror_the_source() -> None:
    """``tests/a/test_b*.py`` tests ``a/b.py``, or the folder ``a/b/``."""
    misplaced = []
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        relative = path.relative_to(ROOT / "tests")
        if relative.as_posix().startswith((*CROSS_CUTTING, *CROSS_CUTTING_TESTS)):
            continue
        folder = SOURCE / relative.parent
        modules = {module.stem for module in folder.glob("*.py")} | {folder.name}
        stem = path.stem.removeprefix("test_")
        if not any(stem == module or stem.startswith(f"{module}_") for module in modules):
            misplaced.append(relative.as_posix())
    assert misplaced == []


def test_no_file_names_a_package_registry_or_a_local_path() -> None:
    # Split, so that this file does not contain them.
    hosts = ("py" + "pi.org", "python" + "hosted.org", "npm" + "js.org", "deb" + "ian.org")
    local_paths = ("/wo" + "rk/", "/ro" + "ot/", "/ho" + "me/", "../sha" + "red")
    violations = [
        f"{name(path)}: {word}"
        for path in files()
        for word in (*hosts, *local_paths)
        if word in path.read_text("utf-8", errors="replace")
    ]
    assert violations == []


@pytest.mark.parametrize("lock", ["requirements.lock", "requirements-dev.lock"])
def test_lock_files_contain_only_pinned_requirements_with_hashes(lock: str) -> None:
    text = (ROOT / lock).read_text()
    requirements = text.replace(" \\\n    ", " ").splitlines()
    assert len(requirements) > 50
    pinned = r"[a-z0-9.-]+==[0-9][^ ;]*( ; [^\\]*?)?( --hash=sha256:[0-9a-f]{64})+"
    assert [line for line in requirements if not re.fullmatch(pinned, line)] == []


def test_development_lock_contains_the_runtime_lock() -> None:
    runtime = set((ROOT / "requirements.lock").read_text().splitlines())
    development = set((ROOT / "requirements-dev.lock").read_text().splitlines())
    assert runtime <= development


def test_module_names_do_not_shadow_the_standard_library() -> None:
    assert [name(path) for path in PRODUCT if path.stem in sys.stdlib_module_names] == []
