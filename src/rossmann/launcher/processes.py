"""Processes of a launch, which outlive it: start, identity and end; and who holds a TCP port.

The system gives a pid away again, so a process is named by its pid, its start time, and a token
that it and all its descendants carry in their environment. No other process is ever signalled.
"""

import errno
import os
import signal
import socket
import subprocess
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from rossmann.filesystem.process_identity import start_time

TOKEN_VARIABLE = "LAUNCHED_AS"
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True)
class LaunchedProcess:
    """A process that leads its own session; the field names are keys of the run files."""

    pid: int
    started: str
    token: str

    @property
    def alive(self) -> bool:
        """Whether that very process still runs (a zombie does not)."""
        return start_time_token(self.pid) == self.started != ""

    def process_tree(self) -> list[int]:
        """Pids of all living processes that carry the token, the leader first."""
        pids = sorted(_pids_with_token(self.token))
        if self.alive and self.pid not in pids:
            pids.insert(0, self.pid)
        return pids


def start_time_token(pid: int) -> str:
    """When the process began, as text that no other process of that pid has; "" if it is gone."""
    started = start_time(pid)
    return f"{_boot_id()}:{started}" if started else ""


def _boot_id() -> str:
    try:
        return _BOOT_ID.read_text().strip()[:8]
    except OSError:
        return "boot"


def _pids_with_token(token: str) -> list[int]:
    pids = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):  # gone meanwhile, or another user's
            if process.environ().get(TOKEN_VARIABLE) == token and start_time(process.pid):
                pids.append(process.pid)
    return pids


def start(
    command: Sequence[str], environment: Mapping[str, str], log: Path | None
) -> tuple[subprocess.Popen[bytes], LaunchedProcess]:
    """Start a command in a session of its own; its output goes to ``log`` (None: where ours goes).

    In a session of its own, a Ctrl-C on the terminal reaches the launcher alone, which then ends
    its services in order. Raises ``OSError`` when the command cannot be run.
    """
    token = uuid.uuid4().hex
    variables = {**os.environ, **environment, TOKEN_VARIABLE: token}
    if log is not None:
        log.parent.mkdir(parents=True, exist_ok=True)
    with nullcontext() if log is None else log.open("wb") as output:
        process = subprocess.Popen(
            command,
            env=variables,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=None if log is None else subprocess.STDOUT,
            start_new_session=True,
        )
    return process, LaunchedProcess(process.pid, start_time_token(process.pid), token)


def end(
    process: LaunchedProcess, grace: float, stop_waiting: Callable[[], bool] = lambda: False
) -> bool:
    """Terminate the process and its descendants, and kill them after ``grace`` seconds.

    Kills at once when ``stop_waiting`` turns true. False where they still run. Does nothing when
    the process is gone and no process carries its token.
    """
    _send(process, signal.SIGTERM)
    if _wait_gone(process, grace, stop_waiting):
        return True
    _send(process, signal.SIGKILL)
    return _wait_gone(process, 5.0)


def _send(process: LaunchedProcess, number: signal.Signals) -> None:
    if process.alive:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, number)
    for pid in process.process_tree():
        with suppress(ProcessLookupError, PermissionError):
            if os.getpgid(pid) != process.pid or not process.alive:
                os.kill(pid, number)


def _wait_gone(
    process: LaunchedProcess, timeout: float, stop_waiting: Callable[[], bool] = lambda: False
) -> bool:
    deadline = time.monotonic() + timeout
    while process.process_tree():
        if time.monotonic() > deadline or stop_waiting():
            return False
        _reap(process.pid)
        time.sleep(0.05)
    _reap(process.pid)
    return True


def _reap(pid: int) -> None:
    """Collect the process if it is our child: otherwise it would stay on as a zombie."""
    with suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


@dataclass(frozen=True, slots=True)
class PortOwner:
    """The process that listens on a port: its command line and its working folder."""

    pid: int
    command: str
    folder: str

    def __str__(self) -> str:
        shown = self.command if len(self.command) <= 80 else self.command[:77] + "..."
        return f"{shown} (pid {self.pid})"


def bind_error(host: str, port: int) -> OSError | None:
    """Why no server could listen there now; None where one could."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # Connections that a server left when it ended do not hold the port.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            return error
    return None


def is_port_taken(host: str, port: int) -> bool:
    """Whether a process listens there, or holds the port so that no other could."""
    with suppress(OSError), socket.create_connection((host, port), timeout=2):
        return True
    error = bind_error(host, port)
    return error is not None and error.errno in {errno.EADDRINUSE, errno.EACCES}


def find_port_owner(port: int) -> PortOwner | None:
    """The process that listens on the port; None where there is none, or it is another user's."""
    with suppress(psutil.Error):
        for connection in psutil.net_connections("tcp"):
            listens = connection.status == psutil.CONN_LISTEN and connection.laddr.port == port
            if listens and connection.pid is not None:
                process = psutil.Process(connection.pid)
                return PortOwner(process.pid, " ".join(process.cmdline()).strip(), _folder(process))
    return None


def _folder(process: psutil.Process) -> str:
    with suppress(psutil.Error):
        return str(process.cwd())
    return ""
