"""Stands in for a container: a root of its own, a user without rights, then the command.

``unshare --mount --pid --fork python isolated_process.py PLAN COMMAND...``, as root. PLAN is a JSON
file: ``root`` (an empty folder), ``kept`` (folders of this machine that stay readable), ``binds``
(source, target, whether it is read-only), ``tmpfs``, ``read_only``, ``user`` and ``group``
(numbers), ``environment``. No image is needed: the system's folders are those of this machine.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

_SYSTEM = ("usr", "bin", "sbin", "lib", "lib64")
_TMPFS = "mode=1777,noexec,nosuid,nodev"  # as Docker mounts it


def mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True)


def bind(source: Path, target: Path, *, read_only: bool) -> None:
    """Show a file or folder at another place too."""
    if source.is_dir():
        target.mkdir(parents=True, exist_ok=True)
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.touch()
    mount("--rbind", str(source), str(target))
    if read_only:
        mount("-o", "remount,bind,ro", str(target))


def build_root(plan: dict[str, Any]) -> Path:
    """The container's file system, as the plan and this machine give it."""
    root = Path(plan["root"])
    mount("--make-rprivate", "/")
    mount("-t", "tmpfs", "-o", "mode=755", "tmpfs", str(root))
    for name in _SYSTEM:
        source = Path("/", name)
        if source.is_symlink():
            (root / name).symlink_to(source.readlink())
        elif source.is_dir():
            bind(source, root / name, read_only=True)
    shutil.copytree("/etc", root / "etc", symlinks=True)  # places in it may become mount points
    bind(Path("/dev"), root / "dev", read_only=False)
    (root / "proc").mkdir()
    mount("-t", "proc", "proc", str(root / "proc"))
    (root / "var").mkdir()
    (root / "run").mkdir()
    (root / "var" / "run").symlink_to("/run")
    for place in plan["tmpfs"]:
        (root / place.lstrip("/")).mkdir(parents=True, exist_ok=True)
        mount("-t", "tmpfs", "-o", _TMPFS, "tmpfs", f"{root}{place}")
    for folder in plan["kept"]:
        bind(Path(folder), root / folder.lstrip("/"), read_only=True)
    for source, target, read_only in plan["binds"]:
        bind(Path(source), root / target.lstrip("/"), read_only=read_only)
    if plan["read_only"]:
        mount("-o", "remount,ro", str(root))
    return root


def as_user(plan: dict[str, Any]) -> list[str]:
    """Begins a command that runs as the plan's user, with no capability and none to be had."""
    numbers = [f"--reuid={plan['user']}", f"--regid={plan['group']}", "--clear-groups"]
    return ["setpriv", *numbers, "--no-new-privs", "--inh-caps=-all", "--bounding-set=-all"]


def main() -> None:
    plan = json.loads(Path(sys.argv[1]).read_text("utf-8"))
    os.umask(0o022)
    os.chroot(build_root(plan))
    os.chdir("/")
    command = [*as_user(plan), *sys.argv[2:]]
    os.execvpe(command[0], command, plan["environment"])


if __name__ == "__main__":
    main()
