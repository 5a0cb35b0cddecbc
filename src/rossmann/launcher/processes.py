"""Processes that outlive the call which started them: who they are, and how they end.

A pid alone is no name: the system gives it away again. Here a process is named by its pid, its
start time, and a token that it and all its descendants carry in their environment. Only what
answers to that name is ever signalled.

MERGED: Who holds a port: so that a stranger can be named, and one of ours told from a look-alike.
"""

import errno
import os
import signal
import socket
import subprocess
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

TOKEN_VARIABLE = "LAUNCHED_AS"
PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """The name of a process that is also the leader of its own session."""

    pid: int
    started: str
    token: str

    @property
    def alive(self) -> bool:
        """Whether that very process still runs (a zombie does not)."""
        return start_time_token(self.pid) == self.started != ""

    def process_tree(self) -> list[int]:
        """Pids of all living processes that carry the token, the leader first."""
        members = sorted(_carriers(self.token))
        if self.alive and self.pid not in members:
            members.insert(0, self.pid)
        return members


def start_time_token(pid: int) -> str:
    """When the process began, in words that no later process of the same pid shares; "" if gone."""
    if not PROC.joinpath("self").exists():
        return _start_mark_by_ps(pid)
    try:
        text = PROC.joinpath(str(pid), "stat").read_text()
    except OSError:
        return ""
    fields = text.rpartition(")")[2].split()  # the name before it may hold blanks
    state, ticks = fields[0], fields[19]
    return "" if state in "ZX" else f"{_boot_id()}:{ticks}"


def _boot_id() -> str:
    try:
        return PROC.joinpath("sys/kernel/random/boot_id").read_text().strip()[:8]
    except OSError:
        return "boot"


def _start_mark_by_ps(pid: int) -> str:
    shown = subprocess.run(
        ["ps", "-o", "stat=,lstart=", "-p", str(pid)], capture_output=True, text=True, check=False
    )
    state, _, began = shown.stdout.strip().partition(" ")
    return "" if state.startswith("Z") else began.strip()


def _carriers(token: str) -> list[int]:
    mark = f"{TOKEN_VARIABLE}={token}".encode()
    found = []
    for folder in PROC.glob("[0-9]*"):
        with suppress(OSError):  # gone meanwhile, or another user's
            if mark in folder.joinpath("environ").read_bytes().split(b"\0") and start_time_token(
                int(folder.name)
            ):
                found.append(int(folder.name))
    return found


def start(
    command: Sequence[str], environment: Mapping[str, str], log: Path | None
) -> tuple[subprocess.Popen[bytes], ProcessIdentity]:
    """Start a command in a session of its own; its output goes to ``log`` (None: where ours goes).

    In a session of its own, a Ctrl-C on the terminal reaches the launcher alone, which then ends
    its services in order. Raises ``OSError`` when the command cannot be run.
    """
    token = uuid.uuid4().hex
    surroundings = {**os.environ, **environment, TOKEN_VARIABLE: token}
    if log is None:
        process = subprocess.Popen(
            command, env=surroundings, stdin=subprocess.DEVNULL, start_new_session=True
        )
    else:
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("wb") as sink:
            process = subprocess.Popen(
                command,
                env=surroundings,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
    return process, ProcessIdentity(process.pid, start_time_token(process.pid), token)


def end(identity: ProcessIdentity, grace: float, hurry: Callable[[], bool] = lambda: False) -> bool:
    """Ask the process and its family to end; after ``grace`` seconds, end them. False: they stay.

    ``hurry`` turning true cuts the grace short. Does nothing when the process is gone and nothing
    carries its token.
    """
    _send(identity, signal.SIGTERM)
    if _gone_within(identity, grace, hurry):
        return True
    _send(identity, signal.SIGKILL)
    return _gone_within(identity, 5.0)


def _send(identity: ProcessIdentity, number: signal.Signals) -> None:
    if identity.alive:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(identity.pid, number)
    for pid in identity.process_tree():
        with suppress(ProcessLookupError, PermissionError):
            if os.getpgid(pid) != identity.pid or not identity.alive:
                os.kill(pid, number)


def _gone_within(
    identity: ProcessIdentity, seconds: float, hurry: Callable[[], bool] = lambda: False
) -> bool:
    deadline = time.monotonic() + seconds
    while identity.process_tree():
        if time.monotonic() > deadline or hurry():
            return False
        _reap(identity.pid)
        time.sleep(0.05)
    _reap(identity.pid)
    return True


def _reap(pid: int) -> None:
    """Collect the process if it is our child: otherwise it would stay on as a zombie."""
    with suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


def tail(log: Path, lines: int = 15) -> str:
    """The last lines of a log; "" when there is none."""
    try:
        text = log.read_bytes()[-20_000:].decode(errors="replace")
    except OSError:
        return ""
    return "\n".join(text.splitlines()[-lines:])


_LISTENING = "0A"


@dataclass(frozen=True, slots=True)
class PortOwner:
    """The process that listens on a port: its command line, and where it works."""

    pid: int
    command: str
    folder: str

    def __str__(self) -> str:
        shown = self.command if len(self.command) <= 80 else self.command[:77] + "..."
        return f"{shown} (pid {self.pid})"


def is_taken(host: str, port: int) -> bool:
    """Whether something listens there, or holds the port so that we could not."""
    with suppress(OSError), socket.create_connection((host, port), timeout=2):
        return True
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # A server that has just ended leaves connections behind: those do not hold the port.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            return error.errno in {errno.EADDRINUSE, errno.EACCES}
    return False


def find_port_owner(port: int) -> PortOwner | None:
    """The process that listens on the port; None where nothing does or it cannot be seen."""
    sockets = _listening_sockets(port)
    if not sockets:
        return None
    for folder in PROC.glob("[0-9]*"):
        with suppress(OSError):  # gone meanwhile, or another user's
            for descriptor in folder.joinpath("fd").iterdir():
                if _link(descriptor) in sockets:
                    return _describe(folder)
    return None


def _listening_sockets(port: int) -> set[str]:
    names = set()
    for table in ("net/tcp", "net/tcp6"):
        with suppress(OSError):
            for line in PROC.joinpath(table).read_text().splitlines()[1:]:
                fields = line.split()
                local, state, inode = fields[1], fields[3], fields[9]
                if state == _LISTENING and int(local.rpartition(":")[2], 16) == port:
                    names.add(f"socket:[{inode}]")
    return names


def _link(path: Path) -> str:
    with suppress(OSError):
        return str(path.readlink())
    return ""


def _describe(folder: Path) -> PortOwner:
    words = folder.joinpath("cmdline").read_bytes().decode(errors="replace").split("\0")
    return PortOwner(int(folder.name), " ".join(words).strip(), _link(folder / "cwd"))
