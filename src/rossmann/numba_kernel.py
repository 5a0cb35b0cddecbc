"""Numba kernels with a cache that is invalidated by every source that they are compiled from.

Numba renews a cached function when its own file changes, but not when a constant or a kernel of
another file does. So the cache lies in a folder named by a digest of all files of the kernel's
folder and of ``schema.py``, the only other file that kernels take constants from.
"""

import hashlib
import os
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast

F = TypeVar("F", bound=Callable[..., Any])


def cached_njit(function: F) -> F:
    """Compile ``function``, which must not use Python objects; it releases the interpreter lock."""
    # Features in plain Python would take days; and where numba finds it, it leaves functions plain
    # that kernels call.
    os.environ.pop("NUMBA_DISABLE_JIT", None)
    from numba import config, njit

    options = vars(config)
    configured = options["CACHE_DIR"]
    # numba reads it while it decorates, and not again
    package = Path(function.__code__.co_filename).parent
    options["CACHE_DIR"] = str(_folder(package, configured))
    try:
        return cast(F, njit(cache=True, nogil=True)(function))
    finally:
        options["CACHE_DIR"] = configured


@cache
def _folder(package: Path, configured: str) -> Path:
    """``configured``: the user's folder for all caches of numba, or ""."""
    files = [*Path(__file__).parent.glob("schema.py"), *sorted(package.glob("*.py"))]
    parent = Path(configured) if configured else package / "__pycache__"
    return parent / f"kernels-{source_digest(files)}"


def source_digest(files: Iterable[Path]) -> str:
    """Digest of the names and contents of ``files``."""
    digest = hashlib.sha256()
    for path in files:
        content = path.read_bytes()
        digest.update(f"{path.name} {len(content)}\n".encode())
        digest.update(content)
    return digest.hexdigest()[:16]
