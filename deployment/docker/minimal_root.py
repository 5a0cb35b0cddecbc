"""Copy a Python environment and what it needs of the system into a folder: the root of an image.

Usage: ``python minimal_root.py TARGET ENVIRONMENT``. What it needs: the interpreter, its standard
library, the shared libraries that any of them loads (by ``ldd``), certificates, and the names of
the user and of the system. There is no shell and no package manager. Of each Debian package that a
file comes from, the control record is kept where scanners for vulnerabilities look for it
(``/var/lib/dpkg/status.d``).
"""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterable
from pathlib import Path

ROOT = Path("/")
USER = 1000
DATA = Path("var/lib/rossmann")
SYSTEM_FILES = (
    "/etc/os-release", "/usr/lib/os-release", "/etc/debian_version", "/etc/nsswitch.conf",
    "/etc/ssl/certs/ca-certificates.crt", "/etc/ssl/openssl.cnf", "/usr/lib/ssl",
    "/etc/ld.so.conf", "/etc/ld.so.conf.d",
)  # fmt: skip
UNUSED_LIBRARY = {
    "test", "tests", "idlelib", "tkinter", "turtledemo", "lib2to3", "ensurepip", "pydoc_data",
    "site-packages", "dist-packages", "distutils", "turtle.py",
}  # fmt: skip
UNUSED_MODULES = {
    "nis", "_dbm", "_gdbm", "readline", "_curses", "_curses_panel", "ossaudiodev", "_tkinter",
    "audioop", "spwd", "_crypt", "_testcapi", "_testbuffer", "_testinternalcapi",
}  # fmt: skip
"""Compiled modules for terminals, old databases and sound, which bring libraries of their own."""
PASSWD = "root:x:0:0:root:/:/sbin/nologin\nrossmann:x:1000:1000::/var/lib/rossmann:/sbin/nologin\n"
GROUP = "root:x:0:\nrossmann:x:1000:\n"
ELF = b"\x7fELF"


class Copier:
    """Copies files from the root to the same places below ``target``, each once."""

    def __init__(self, target: Path) -> None:
        self.target = target
        self.copied: set[Path] = set()

    def copy(self, path: Path) -> None:
        """Copy a file, or a symbolic link with the file that it leads to."""
        path = path.parent.resolve() / path.name
        if path in self.copied or not path.exists():
            return
        self.copied.add(path)
        place = self.target / path.relative_to(ROOT)
        place.parent.mkdir(parents=True, exist_ok=True)
        if path.is_symlink():
            place.symlink_to(path.readlink())
            self.copy(path.parent / path.readlink())
        elif path.is_dir():
            place.mkdir(exist_ok=True)
            for child in path.iterdir():
                self.copy(child)
        else:
            shutil.copy2(path, place)

    def copy_library(self, folder: Path) -> None:
        """Copy the standard library without what programs do not import."""
        for path in folder.iterdir():
            if path.name not in UNUSED_LIBRARY and not path.name.startswith("config-"):
                self._copy_tree(path)

    def _copy_tree(self, path: Path) -> None:
        if path.is_dir() and not path.is_symlink():
            for child in path.iterdir():
                unused = child.name in UNUSED_LIBRARY or child.name.split(".")[0] in UNUSED_MODULES
                if not unused:
                    self._copy_tree(child)
        else:
            self.copy(path)


def shared_libraries(files: Iterable[Path]) -> set[Path]:
    """The system's libraries that the files load."""
    found: set[Path] = set()
    for file in files:
        listed = subprocess.run(["ldd", file], capture_output=True, text=True, check=False)
        found.update(
            Path(name) for name in re.findall(r"(?:=> |^\s+)(/\S+)", listed.stdout, re.MULTILINE)
        )
    return found


def elf_files(folder: Path) -> list[Path]:
    """Programs and libraries below ``folder``."""
    found = []
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink() and path.stat().st_size > len(ELF):
            with path.open("rb") as file:
                if file.read(len(ELF)) == ELF:
                    found.append(path)
    return found


def strip(files: Iterable[Path]) -> None:
    """Remove symbols that nothing reads."""
    subprocess.run(["strip", "--strip-unneeded", *files], check=True)


def keep_package_records(copier: Copier) -> None:
    """Write the control records of the Debian packages that the copied files are of."""
    names: set[str] = set()
    for path in copier.copied:
        for spelled in (path, Path(str(path).removeprefix("/usr"))):
            owner = subprocess.run(
                ["dpkg", "-S", spelled], capture_output=True, text=True, check=False
            )
            if owner.returncode == 0:
                names.add(owner.stdout.split(":")[0].split(",")[0])
                break
    folder = copier.target / "var/lib/dpkg/status.d"
    folder.mkdir(parents=True)
    for name in sorted(names):
        record = subprocess.run(
            ["dpkg-query", "-s", name], capture_output=True, text=True, check=True
        )
        (folder / name).write_text(record.stdout)


def main(target: Path, environment: Path) -> int:
    """Make the root; prints its size."""
    copier = Copier(target)
    for name in ("bin", "sbin", "lib", "lib64"):  # merged with /usr, as in Debian
        link = ROOT / name
        if link.is_symlink():
            target.mkdir(parents=True, exist_ok=True)
            (target / name).symlink_to(link.readlink())
            (target / "usr" / name).mkdir(parents=True, exist_ok=True)
    copier.copy_library(Path(sysconfig.get_path("stdlib")))
    interpreter = environment / "bin" / "python"
    copier.copy(Path(os.path.realpath(interpreter)))
    copier.copy(Path(sys.base_prefix) / "bin" / "python3")
    shutil.copytree(environment, target / environment.relative_to(ROOT), symlinks=True)
    for path in shared_libraries(elf_files(target)):
        if target not in path.parents:  # else it is one of the wheels', beside what loads it
            copier.copy(path)
    own = target / environment.relative_to(ROOT)
    strip(path for path in elf_files(target) if own not in path.parents)
    for name in SYSTEM_FILES:
        copier.copy(Path(name))
    # The loader finds libraries outside of its own folders, such as /usr/local/lib, by this cache.
    subprocess.run(["ldconfig", "-r", target], check=True)
    keep_package_records(copier)
    (target / "etc/passwd").write_text(PASSWD)
    (target / "etc/group").write_text(GROUP)
    (target / "tmp").mkdir(mode=0o1777)
    (target / "tmp").chmod(0o1777)
    (target / DATA).mkdir(parents=True, mode=0o700)
    os.chown(target / DATA, USER, USER)
    size = sum(path.lstat().st_size for path in target.rglob("*") if path.is_file())
    sys.stdout.write(f"{size // 10**6} MB, {len(copier.copied)} files of the system\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1]), Path(sys.argv[2])))
