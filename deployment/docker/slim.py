"""Make an installed environment small and ready to start, for a container image.

Usage: ``python slim.py ENVIRONMENT --kernels FOLDER [--service]``. It

- removes from the packages what no program reads: their tests, headers, sources of compiled
  modules, and parts of pyarrow for services that are not used;
- strips symbols from compiled modules. Not those in ``*.libs``: they were patched when the
  wheel was made, and strip breaks them;
- adds the compiled kernels;
- compiles the modules that the services import, by the content of their sources, so that the
  result is the same at each build and starts fast on a read-only root;
- sets all times to ``SOURCE_DATE_EPOCH``, where that is set.
"""

import argparse
import json
import os
import py_compile
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from minimal_root import elf_files, strip

TEST_FOLDERS = {"tests", "test"}
SOURCES = {".pyx", ".pxi", ".pxd", ".pyi", ".a", ".h", ".hpp", ".c", ".cc", ".cpp", ".map"}
UNUSED = (
    "pyarrow/include",
    *(f"pyarrow/{name}*" for name in ("libarrow_flight", "_flight", "_s3fs", "_gcsfs", "_azurefs")),
    *(f"pyarrow/{name}*" for name in ("_hdfs", "_orc", "_substrait", "_dataset", "_feather")),
    "pygments/lexers/[a-oq-z]*",  # rich colours Python only
    "fastapi_offline/static/redoc*",
    "holidays/locale",  # names of holidays in other languages: only their dates are used
    "numpy/distutils",
)
UNUSED_BY_SERVICE = (
    *("rossmann/docs", "rossmann/zensical.toml"),
    *(f"sqlalchemy/dialects/{name}" for name in ("mssql", "mysql", "oracle")),
)
"""What the prediction service alone does not read besides."""
KEEP_TESTS_OF = {"sklearn", "optuna", "jinja2", "mlflow", "streamlit"}
"""Packages that import modules of that name themselves."""
LIST_IMPORTS = """
import importlib, json, sys
for name in sys.argv[1:]:
    try:
        importlib.import_module(name)
    except Exception:
        pass  # a package that this environment does not have, or no module to import
files = {getattr(module, "__file__", None) or "" for module in list(sys.modules.values())}
print(json.dumps(sorted(file for file in files if file.endswith(".py"))))
"""
LATER = (
    *("uvicorn.protocols.http.httptools_impl", "uvicorn.lifespan.on", "uvicorn.loops.uvloop"),
    *("httpcore._async.connection_pool", "httpcore._sync.connection_pool", "httpcore._models"),
    *("h11", "psycopg2", "sqlalchemy.dialects.postgresql", "mpmath", "fastexcel", "xlsxwriter"),
)
"""Imported by a service after its start."""
OTHERS = (
    *("mlflow.server.fastapi_app", "streamlit.web.cli", "streamlit.starlette", "pandas"),
    *("lightgbm", "xgboost", "catboost", "matplotlib.figure", "optuna"),
)
"""Imported by other services and verbs."""
LARGEST = 24
"""Packages whose sizes are printed."""


def site_packages(environment: Path) -> Path:
    """The folder of the environment's packages."""
    (folder,) = environment.glob("lib/python3*/site-packages")
    return folder


def remove_unread(packages: Path, unused: tuple[str, ...]) -> None:
    """Remove tests, sources of compiled modules, and what ``unused`` names by patterns."""
    for pattern in unused:
        for path in packages.glob(pattern):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    link_copies(packages / "pyarrow")
    for folder, names, files in os.walk(packages):
        package = Path(folder).relative_to(packages).parts[:1]
        for name in [one for one in names if one in TEST_FOLDERS and package]:
            if package[0] not in KEEP_TESTS_OF:
                shutil.rmtree(Path(folder) / name)
                names.remove(name)
        for name in files:
            if Path(name).suffix in SOURCES:
                (Path(folder) / name).unlink()


def link_copies(folder: Path) -> None:
    """Replace equal libraries under several names by links: a wheel holds no links."""
    kept: dict[bytes, Path] = {}
    for path in sorted(folder.glob("*.so*"), key=lambda one: len(one.name), reverse=True):
        first = kept.setdefault(path.read_bytes(), path)
        if first != path:
            path.unlink()
            path.symlink_to(first.name)


def in_patched_libraries(path: Path) -> bool:
    """Whether a library was patched when its wheel was made: strip breaks such."""
    return any(part.endswith(".libs") for part in path.parts)


def own_modules(packages: Path) -> list[str]:
    """All modules of the product."""
    files = [path.relative_to(packages) for path in (packages / "rossmann").rglob("*.py")]
    return [".".join(path.with_suffix("").parts).removesuffix(".__init__") for path in files]


def compile_imported(environment: Path, modules: list[str]) -> int:
    """Compile the modules that are imported, ``modules`` among them; returns how many.

    Those of the standard library too, and no others of it.
    """
    for folder in Path(sysconfig.get_path("stdlib")).rglob("__pycache__"):
        shutil.rmtree(folder)
    variables = {**os.environ, "NUMBA_CACHE_DIR": "", "MPLBACKEND": "agg"}
    listed = subprocess.run(
        [environment / "bin" / "python", "-c", LIST_IMPORTS, *modules],
        env=variables, stdout=subprocess.PIPE, check=True, text=True, cwd="/",
    )  # fmt: skip
    files = json.loads(listed.stdout.splitlines()[-1])
    mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
    for file in files:
        py_compile.compile(file, doraise=True, invalidation_mode=mode)
    return len(files)


def set_times(folder: Path, epoch: int) -> None:
    """Give every file and folder the same time."""
    for path in [folder, *folder.rglob("*")]:
        os.utime(path, (epoch, epoch), follow_symlinks=False)


def main() -> int:
    """Do all of it, and print the size before and after."""
    parser = argparse.ArgumentParser()
    parser.add_argument("environment", type=Path)
    parser.add_argument("--kernels", type=Path, required=True)
    parser.add_argument("--service", action="store_true", help="the prediction service alone")
    options = parser.parse_args()
    packages = site_packages(options.environment)
    before = size_mb(packages)
    remove_unread(packages, (*UNUSED, *(UNUSED_BY_SERVICE if options.service else ())))
    strip(path for path in elf_files(packages) if not in_patched_libraries(path))
    shutil.copytree(options.kernels, packages / "rossmann", dirs_exist_ok=True)
    modules = [*options.kernels.with_suffix(".modules").read_text().split(), *LATER]
    if not options.service:
        modules += [*OTHERS, *own_modules(packages)]
    compiled = compile_imported(options.environment, modules)
    if epoch := os.environ.get("SOURCE_DATE_EPOCH"):
        set_times(options.environment, int(epoch))
    sys.stdout.write(f"{before} MB, now {size_mb(packages)} MB; {compiled} modules compiled\n")
    largest = sorted(((size_mb(path), path.name) for path in packages.iterdir()), reverse=True)
    sys.stdout.write(", ".join(f"{name} {size}" for size, name in largest[:LARGEST]) + "\n")
    return 0


def size_mb(folder: Path) -> int:
    """Size of a file, or of all files in a folder, in megabytes."""
    files = [folder, *folder.rglob("*")]
    return sum(path.lstat().st_size for path in files if path.is_file()) // 10**6


if __name__ == "__main__":
    raise SystemExit(main())
