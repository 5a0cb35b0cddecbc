"""Processes that outlive the call which started them: how they start, who they are, how they end.

The system gives a pid away again, so a process is named by its pid, its start time, and a token
that it and all its descendants carry in their environment. No other process is ever signalled.
"""

import os
import signal
import subprocess
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
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
    if log is None:
        process = subprocess.Popen(
            command, env=variables, stdin=subprocess.DEVNULL, start_new_session=True
        )
    else:
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("wb") as output:
            process = subprocess.Popen(
                command,
                env=variables,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
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
