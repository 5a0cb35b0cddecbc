"""Builds images without an engine's daemon, and runs containers of them.

Buildah builds with ``--isolation chroot`` on a base that debootstrap makes; podman runs with runc.
This works as root inside of another container, where there is no Docker.
"""

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.paths import ROOT

TOOLS = ("buildah", "podman", "runc", "debootstrap", "tar")
BASE = "localhost/rossmann-base:bookworm"
EPOCH = 1_700_000_000
REVISION = "0123456789abcdef"
_RUNC = shutil.which("runc", path=f"{os.environ.get('PATH', '')}:/usr/sbin") or "runc"
_LIMIT = "4096:4096"
_FROM_BUILD = ("--read-only", "--read-only-tmpfs=false", "--user", "1000")
"""As the image is meant to be run."""


def missing_tools() -> str:
    """Why images cannot be built and run here; "" where they can."""
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    missing = [name for name in TOOLS if not shutil.which(name, path=path)]
    if missing:
        return f"{', '.join(missing)} not installed (Debian has all of {', '.join(TOOLS)})"
    return "" if os.getuid() == 0 else "only root can build with --isolation chroot"


def podman(*arguments: str, check: bool = True) -> str:
    """Run podman; returns its output."""
    done = subprocess.run(
        ["podman", "--runtime", _RUNC, *arguments], capture_output=True, text=True, check=False
    )
    assert not check or done.returncode == 0, f"podman {arguments}:\n{done.stdout}{done.stderr}"
    return done.stdout + done.stderr if not check else done.stdout


def make_base() -> str:
    """A base image of Debian with Python, made once; skips where no Debian archive answers."""
    chosen = os.environ.get("ROSSMANN_TEST_BASE_IMAGE", BASE)
    exists = subprocess.run(["podman", "image", "exists", chosen], check=False).returncode == 0
    if exists or chosen != BASE:
        return chosen
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        packages = "--include=python3,python3-venv,ca-certificates"
        made = subprocess.run(
            ["debootstrap", "--variant=minbase", packages, "bookworm", folder],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if made.returncode:
            pytest.skip(f"debootstrap made no base: {made.stdout[-300:]}")
        for kept in ("var/cache/apt/archives", "var/lib/apt/lists"):
            shutil.rmtree(Path(folder) / kept)
            (Path(folder) / kept / "partial").mkdir(parents=True)
        archive = subprocess.Popen(["tar", "-C", folder, "-c", "."], stdout=subprocess.PIPE)
        subprocess.run(["podman", "import", "-q", "-", BASE], stdin=archive.stdout, check=True)
        assert archive.wait() == 0
    return BASE


def copy_context(target: Path) -> None:
    """The project's tracked files, and files beside them that must not come into an image."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    for name in listed.stdout.splitlines():
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)
    canaries = ("data/raw/train.csv", "deployment/.env", "deployment/secrets/canary")
    for name in (*canaries, ".git/canary"):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        (target / name).write_text("canary")


def build(target: str, context: Path, base: str) -> str:
    """Build a target of the Dockerfile; returns the image's name."""
    name = f"localhost/rossmann-test:{target}"
    pip_conf = Path("/etc/pip.conf")
    secret = ["--secret", f"id=pip_conf,src={pip_conf}"] if pip_conf.is_file() else []
    done = subprocess.run(
        [
            *("buildah", "bud", "--isolation", "chroot", "--format", "docker", "--layers"),
            *("--build-arg", f"BASE={base}", "--build-arg", f"SOURCE_DATE_EPOCH={EPOCH}"),
            *("--build-arg", f"REVISION={REVISION}"),
            # Certificates of this machine: its package index may be behind a proxy.
            *("--volume", "/etc/ssl/certs:/etc/ssl/certs:ro", *secret),
            *("--target", target, "--file", "deployment/docker/Dockerfile", "--tag", name, "."),
        ],
        cwd=context, capture_output=True, text=True, check=False, timeout=1800,
    )  # fmt: skip
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return name


@contextmanager
def image_files(image: str) -> Iterator[Path]:
    """The root of an image, to be read."""
    place = podman("image", "mount", image).strip()
    try:
        yield Path(place)
    finally:
        podman("image", "unmount", image)


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Container:
    """A container that runs as the image is meant to: read-only, one volume, a numbered user."""

    def __init__(self, image: str, data: Path, **environment: Any) -> None:
        self.name = f"rossmann-test-{os.getpid()}-{free_port()}"
        variables = [f"--env=ROSSMANN_{key.upper()}={value}" for key, value in environment.items()]
        self._run = (
            *("run", "--name", self.name, "--network", "host", "--cgroups=no-conmon"),
            *("--ulimit", f"nofile={_LIMIT}", "--ulimit", f"nproc={_LIMIT}", *_FROM_BUILD),
            *("--tmpfs", "/tmp:rw,size=512m,mode=1777", "--cap-drop", "all"),
            *("--security-opt", "no-new-privileges"),
            *("--volume", f"{data}:/var/lib/rossmann", *variables, image),
        )

    def run(self, *arguments: str) -> str:
        """Run a verb to its end; returns its output."""
        try:
            return podman(*self._run, *arguments)
        finally:
            podman("rm", "--force", self.name, check=False)

    def start(self, *arguments: str) -> "Container":
        """Start it and leave it running."""
        first, *rest = self._run
        podman(first, "--detach", *rest, *arguments)
        return self

    def wait_for(self, url: str, seconds: float = 120) -> None:
        """Wait until the service answers with success."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            try:
                if httpx.get(url, timeout=5, trust_env=False).is_success:
                    return
            except httpx.HTTPError:
                time.sleep(0.05)
        raise AssertionError(f"{url} never answered:\n{self.log()}")

    def execute(self, *command: str) -> str:
        """Run a command in the running container."""
        return podman("exec", self.name, *command)

    def signal(self, name: str) -> None:
        """Send a signal to its first process, and wait for the end."""
        podman("kill", "--signal", name, self.name)
        podman("wait", self.name)

    def exit_code(self) -> int:
        """With what it ended."""
        return int(podman("inspect", "--format", "{{.State.ExitCode}}", self.name))

    def restart(self) -> None:
        """Start it again, as a restart policy does."""
        podman("start", self.name)

    def log(self) -> str:
        """What it wrote."""
        return podman("logs", self.name, check=False)

    def remove(self) -> None:
        """End and remove it."""
        podman("rm", "--force", "--time", "30", self.name, check=False)


def folder_for_container(paths: Sequence[Path], target: Path) -> Path:
    """Copies of folders, owned by the image's user."""
    for path in paths:
        shutil.copytree(path, target / path.name)
    for path in [target, *target.rglob("*")]:
        os.chown(path, 1000, 1000)
    target.chmod(0o700)
    return target
