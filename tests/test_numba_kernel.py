"""Machine code that is kept may not outlive the sources that it was made from."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from rossmann import numba_kernel

ASK = "from one.user import doubled; print(doubled(1))"


def test_a_constant_of_another_file_is_seen_when_it_changes(tmp_path: Path) -> None:
    package = tmp_path / "one"
    package.mkdir()
    shutil.copy(numba_kernel.__file__, package / "numba_kernel.py")
    (package / "__init__.py").write_text("")
    (package / "user.py").write_text(
        "from one.numba_kernel import cached_njit\nfrom one.constant import FACTOR\n\n\n"
        "@cached_njit\ndef doubled(x):\n    return FACTOR * x\n"
    )

    def answer(factor: int) -> str:
        (package / "constant.py").write_text(f"FACTOR = {factor}\n")
        found = subprocess.run(
            [sys.executable, "-c", ASK],
            env={**os.environ, "PYTHONPATH": str(tmp_path)},
            capture_output=True,
            text=True,
            check=True,
        )
        return found.stdout.strip()

    assert answer(2) == "2"
    assert answer(30) == "30"
    # and what was compiled once is not compiled again
    assert len(list((package / "__pycache__").rglob("*.nbc"))) == 2
    assert answer(30) == "30"
    assert len(list((package / "__pycache__").rglob("*.nbc"))) == 2
