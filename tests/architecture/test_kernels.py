"""Kernels use only names of their own folder and of ``schema``, which key their cache."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.paths import SOURCE

DECORATOR = "cached_njit"


def module_file(root: Path, dotted: str) -> Path | None:
    """The file of a module or package of ``root``, which is the package ``rossmann``."""
    path = root.joinpath(*dotted.split(".")[1:])
    files = (path.with_suffix(".py"), path / "__init__.py")
    return next((file for file in files if file.is_file()), None)


def imported_names(root: Path, tree: ast.Module) -> Iterator[tuple[str, Path]]:
    """Names that a module imports from the package, and the files that define them."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("rossmann"):
            for alias in node.names:
                submodule = module_file(root, f"{node.module}.{alias.name}")
                file = submodule or module_file(root, str(node.module))
                assert file is not None, node.module
                yield alias.asname or alias.name, file
        elif isinstance(node, ast.Import):
            for alias in node.names:
                file = module_file(root, alias.name)
                if alias.name.startswith("rossmann") and file is not None:
                    yield alias.asname or alias.name.split(".")[0], file


def names_in(nodes: list[ast.stmt] | list[ast.expr]) -> set[str]:
    return {n.id for node in nodes for n in ast.walk(node) if isinstance(n, ast.Name)}


def constants(tree: ast.Module) -> dict[str, set[str]]:
    """The module's own constants, and the names in their values."""
    result = {}
    for node in tree.body:
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            result |= dict.fromkeys(names_in(targets), names_in([node.value]))
    return result


def kernels(tree: ast.Module) -> list[ast.FunctionDef]:
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    return [f for f in functions if DECORATOR in names_in(f.decorator_list)]


def violations(root: Path, path: Path) -> list[str]:
    """Names of other folders that a module's kernels use, directly or through its constants."""
    tree = ast.parse(path.read_text("utf-8"))
    files, values = dict(imported_names(root, tree)), constants(tree)
    result = []
    for kernel in kernels(tree):
        names = names_in(kernel.body) | names_in(kernel.args.defaults)
        while indirect := {used for name in names for used in values.get(name, ())} - names:
            names |= indirect
        result += [
            f"{path.name}: {kernel.name} uses {name} of {files[name].relative_to(root)}"
            for name in sorted(names & files.keys())
            if files[name].parent != path.parent and files[name] != root / "schema.py"
        ]
    return result


def test_kernels_use_names_of_their_own_folder_and_schema() -> None:
    paths = sorted(SOURCE.rglob("*.py"))
    trees = [ast.parse(path.read_text("utf-8")) for path in paths]
    assert sum(len(kernels(tree)) for tree in trees) > 30
    assert [violation for path in paths for violation in violations(SOURCE, path)] == []


IMPORTS = {
    "own folder": "from rossmann.features.other import LIMIT",
    "own module": "LIMIT = 2",
    "schema": "from rossmann.schema import LIMIT",
    "another folder": "from rossmann.models.metrics import LIMIT",
    "another folder's module": "from rossmann.models import metrics as LIMIT",
    "another folder, through a constant": (
        "from rossmann.models.metrics import SCALE\nLIMIT = 2 * SCALE"
    ),
    "the package above": "from rossmann.settings import LIMIT",
}


@pytest.mark.parametrize("origin", IMPORTS)
def test_violation_is_reported(origin: str, tmp_path: Path) -> None:
    source = f"""
from rossmann.numba_kernel import cached_njit
{IMPORTS[origin]}

@cached_njit
def scale(x):
    return x * LIMIT

def plain(x):
    from rossmann.models.metrics import SCALE
    return x * SCALE
"""
    modules = ("features/other", "models/metrics", "schema", "settings", "numba_kernel")
    for name in modules:
        file = tmp_path / f"{name}.py"
        file.parent.mkdir(exist_ok=True)
        file.touch()
    path = tmp_path / "features" / "kernel.py"
    path.write_text(source)
    allowed = origin in ("own folder", "own module", "schema")
    assert len(violations(tmp_path, path)) == (0 if allowed else 1)
