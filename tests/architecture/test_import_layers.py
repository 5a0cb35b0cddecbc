"""Import layers of pyproject.toml, checked by import-linter."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

from tests.paths import ROOT

CONTRACTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"][
    "contracts"
]

LINT_IMPORTS = "from importlinter.cli import lint_imports_command; lint_imports_command()"


def lint_imports(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", LINT_IMPORTS, "--no-cache", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def test_imports_run_downward_only() -> None:
    result = lint_imports()
    assert result.returncode == 0, result.stdout + result.stderr
    for contract in CONTRACTS:
        assert f"{contract['name']} KEPT" in result.stdout


def test_violation_is_detected(tmp_path: Path) -> None:
    """The layers in reverse order are violated by the real imports."""
    layers = "\n".join(f"    {layer}" for layer in reversed(CONTRACTS[0]["layers"]))
    config = tmp_path / "layers.ini"
    config.write_text(
        "[importlinter]\nroot_package = rossmann\n"
        f"[importlinter:contract:1]\nname = upside down\ntype = layers\nlayers =\n{layers}\n"
    )
    result = lint_imports("--config", str(config))
    assert result.returncode == 1, result.stdout + result.stderr
    assert "upside down BROKEN" in result.stdout


def test_every_top_level_module_has_a_layer() -> None:
    modules = [
        module.strip() for layer in CONTRACTS[0]["layers"] for module in re.split("[|:]", layer)
    ]
    # Optional modules are in parentheses.
    layered = {module.removeprefix("rossmann.") for module in modules if module[0] != "("}
    optional = {
        module.strip("()").removeprefix("rossmann.") for module in modules if module[0] == "("
    }
    existing = {
        path.stem
        for path in (ROOT / "src" / "rossmann").iterdir()
        if path.suffix == ".py" or (path / "__init__.py").is_file()
    } - {"__init__"}
    assert existing - optional == layered
