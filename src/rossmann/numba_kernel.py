"""Compiled kernels whose cached machine code cannot outlive the sources that it was made from.

Numba keeps a compiled function beside its file and renews it when that file changes. A constant
or a kernel that comes from another file is compiled in as well, and a change there it does not
see: after an update that touches one file of this package, the others would go on computing with
what they knew. So the cache lies in a folder named by a digest of all files of the package that
the function is in, and of the schema, the only other file that kernels take constants from.
"""

import hashlib
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast

from numba import config, njit

F = TypeVar("F", bound=Callable[..., Any])


def cached_njit(function: F) -> F:
    """Compile ``function``, which must not touch Python objects; it lets go of the interpreter."""
    options = vars(config)
    named = options["CACHE_DIR"]
    # numba asks for the folder while it decorates, and not again
    options["CACHE_DIR"] = named or str(_folder(Path(function.__code__.co_filename).parent))
    try:
        return cast(F, njit(cache=True, nogil=True)(function))
    finally:
        options["CACHE_DIR"] = named


@cache
def _folder(package: Path) -> Path:
    files = [*Path(__file__).parent.glob("schema.py"), *sorted(package.glob("*.py"))]
    return package / "__pycache__" / f"kernels-{source_digest(files)}"


def source_digest(files: Iterable[Path]) -> str:
    """Digest of the names and contents of ``files``."""
    told = hashlib.sha256()
    for path in files:
        content = path.read_bytes()
        told.update(f"{path.name} {len(content)}\n".encode())
        told.update(content)
    return told.hexdigest()[:16]
