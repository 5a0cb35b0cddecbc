import re
import subprocess
import sys
import tomllib
from pathlib import Path

from tests.paths import ROOT

CONTRACTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"][
    "contracts"
]

RUN = "from importlinter.cli import lint_imports_command; lint_imports_command()"


def lint_imports(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", RUN, "--no-cache", *arguments],
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


def test_a_breach_would_be_seen(tmp_path: Path) -> None:
    """The same layers upside down must be refused: the check looks at the real imports."""
    layers = "\n".join(f"    {layer}" for layer in reversed(CONTRACTS[0]["layers"]))
    config = tmp_path / "layers.ini"
    config.write_text(
        "[importlinter]\nroot_package = rossmann\n"
        f"[importlinter:contract:1]\nname = upside down\ntype = layers\nlayers =\n{layers}\n"
    )
    result = lint_imports("--config", str(config))
    assert result.returncode == 1, result.stdout + result.stderr
    assert "upside down BROKEN" in result.stdout


def test_every_part_has_a_layer() -> None:
    parts = [part.strip() for layer in CONTRACTS[0]["layers"] for part in re.split("[|:]", layer)]
    # In brackets: may be there.
    placed = {part.removeprefix("rossmann.") for part in parts if part[0] != "("}
    optional = {part.strip("()").removeprefix("rossmann.") for part in parts if part[0] == "("}
    there = {
        path.stem
        for path in (ROOT / "src" / "rossmann").iterdir()
        if path.suffix == ".py" or (path / "__init__.py").is_file()
    } - {"__init__"}
    assert there - optional == placed
