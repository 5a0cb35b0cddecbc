"""The cache of compiled kernels is invalidated when a source file changes, in any environment."""

import os
import shutil
import subprocess
import sys
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
