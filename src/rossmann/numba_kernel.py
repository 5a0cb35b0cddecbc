"""Numba kernels with a cache that is invalidated by every source that they are compiled from.

Numba renews a cached function when its own file changes, but not when a constant or a kernel of
another file does. So the cache lies in a folder named by a digest of all files of the kernel's
folder and of ``schema.py``, the only other file that kernels take constants from.

Numba needs a cache that it can write to. Where the package is read-only, as in a container, the
variable ``NUMBA_CACHE_DIR`` names a folder, and kernels that lie beside the package are copied to
it.
"""

import hashlib
import os
import shutil
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
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
    own = package / "__pycache__" / f"kernels-{source_digest(files)}"
    if not configured:
        return own
    folder = Path(configured) / own.name
    if own.is_dir() and not folder.exists():
        _copy_whole(own, folder)
    return folder


def _copy_whole(source: Path, target: Path) -> None:
    """Copy a folder, whole or not at all; another process may do the same at this moment."""
    with suppress(OSError):
        target.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=target.parent) as folder:
            copied = shutil.copytree(source, Path(folder) / target.name)
            copied.rename(target)


def source_digest(files: Iterable[Path]) -> str:
    """Digest of the names and contents of ``files``."""
    digest = hashlib.sha256()
    for path in files:
        content = path.read_bytes()
        digest.update(f"{path.name} {len(content)}\n".encode())
        digest.update(content)
    return digest.hexdigest()[:16]
