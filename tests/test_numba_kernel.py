"""The cache of compiled kernels is invalidated when a source file changes, in any environment."""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from rossmann import numba_kernel

SCRIPT = "from one.user import doubled; print(doubled(1))"


@pytest.mark.parametrize(
    "variables",
    [
        {},
        pytest.param({"NUMBA_CACHE_DIR": "CACHE"}, marks=pytest.mark.nightly),
        pytest.param({"NUMBA_DISABLE_JIT": "1"}, marks=pytest.mark.nightly),
    ],
    ids=["plain", "a folder for all caches", "compiler switched off"],
)
def test_changed_constant_of_another_module_recompiles_the_kernel(
    variables: dict[str, str], tmp_path: Path
) -> None:
    package = tmp_path / "one"
    package.mkdir()
    shutil.copy(numba_kernel.__file__, package / "numba_kernel.py")
    (package / "__init__.py").write_text("")
    (package / "user.py").write_text(
        "import numpy as np\n\n"
        "from one.numba_kernel import cached_njit\nfrom one.constant import FACTOR\n\n\n"
        "@cached_njit\ndef doubled(x):\n    return FACTOR * int(np.median(np.array([x, x])))\n"
    )

    cache = tmp_path / "all caches"
    environment = {name: value.replace("CACHE", str(cache)) for name, value in variables.items()}
    folder = cache if "NUMBA_CACHE_DIR" in variables else package / "__pycache__"

    def run_script(factor: int) -> str:
        (package / "constant.py").write_text(f"FACTOR = {factor}\n")
        process = subprocess.run(
            [sys.executable, "-c", SCRIPT],
            env={**os.environ, **environment, "PYTHONPATH": str(tmp_path)},
            capture_output=True,
            text=True,
            check=True,
        )
        return process.stdout.strip()

    assert run_script(2) == "2"
    assert run_script(30) == "30"
    # Both versions are cached, and none is compiled again.
    assert len(list(folder.rglob("*.nbc"))) == 2
    assert run_script(30) == "30"
    assert len(list(folder.rglob("*.nbc"))) == 2


def make_package(folder: Path) -> Path:
    """A package with a kernel whose cache is in it, compiled."""
    package = folder / "one"
    package.mkdir()
    shutil.copy(numba_kernel.__file__, package / "numba_kernel.py")
    (package / "__init__.py").write_text("")
    (package / "constant.py").write_text("FACTOR = 3\n")
    (package / "user.py").write_text(
        "from one.numba_kernel import cached_njit\nfrom one.constant import FACTOR\n\n\n"
        "@cached_njit\ndef doubled(x):\n    return FACTOR * x\n"
    )
    assert run(folder, {}) == "3"
    return package


def run(folder: Path, environment: dict[str, str], before: Sequence[str] = ()) -> str:
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("NUMBA_")}
    process = subprocess.run(
        [*before, sys.executable, "-c", SCRIPT],
        env={**inherited, **environment, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    return process.stdout.strip()


def test_kernels_beside_the_package_are_taken_over_and_not_compiled_again(tmp_path: Path) -> None:
    package = make_package(tmp_path)
    (shipped,) = package.rglob("*.nbc")
    cache = tmp_path / "cache"
    assert run(tmp_path, {"NUMBA_CACHE_DIR": str(cache)}) == "3"
    (taken,) = cache.rglob("*.nbc")
    assert taken.stat().st_mtime_ns == shipped.stat().st_mtime_ns  # a copy
    assert not [path for path in cache.iterdir() if not path.name.startswith("kernels-")]


@pytest.mark.skipif(
    os.getuid() != 0 or not shutil.which("setpriv"),
    reason="only root can give up its right to read",
)
def test_kernels_that_may_not_be_read_are_compiled(tmp_path: Path) -> None:
    package = make_package(tmp_path)
    (package / "__pycache__").chmod(0)
    cache = tmp_path / "cache"
    without_rights = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]
    try:
        assert run(tmp_path, {"NUMBA_CACHE_DIR": str(cache)}, without_rights) == "3"
    finally:
        (package / "__pycache__").chmod(0o700)
    assert list(cache.rglob("*.nbc"))
