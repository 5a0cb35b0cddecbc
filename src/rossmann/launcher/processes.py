"""Processes of a launch, which outlive it: start, identity, end, and their records on disk.

The system gives a pid away again, so a process is named by its pid, its start time, and a token
that it and all its descendants carry in their environment. No other process is ever signalled.
"""

import json
import os
import signal
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from rossmann.filesystem.atomic_write import write_json_atomic
from rossmann.filesystem.locks import exclusive_lock
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
class ServiceRecord:
    """One started service: its process, port, address and log; the names are the file's keys."""

    name: str
    identity: LaunchedProcess
    port: int
    address: str
    log: Path


class LauncherRunningError(Exception):
    """Another launcher holds the lock; ``text`` says which, since when and what it runs."""

    def __init__(self, pid: int, text: str) -> None:
        self.pid = pid
        self.text = text
        super().__init__(text)


class RunFolder:
    """The run files of one data folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, record: ServiceRecord) -> None:
        """Store the record of a service that was just started."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json_atomic(self._path(record.name), asdict(record) | {"log": str(record.log)})

    def read(self, name: str) -> ServiceRecord | None:
        """The service of that name, if one was started and not ended since."""
        content = _read_json(self._path(name))
        with suppress(KeyError, TypeError):
            return ServiceRecord(
                name=content["name"],
                identity=LaunchedProcess(**content["identity"]),
                port=content["port"],
                address=content["address"],
                log=Path(content["log"]),
            )
        return None

    def remove(self, name: str) -> None:
        """Remove a service's run file."""
        self._path(name).unlink(missing_ok=True)

    @contextmanager
    def lock(self, text: str) -> Iterator[None]:
        """Be the only launcher; raises ``LauncherRunningError`` where another one is.

        ``text``: what this one runs, for the message of others.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with exclusive_lock(self.folder / "launcher.lock", self._already_running):
            content = {
                "pid": os.getpid(),
                "started": start_time_token(os.getpid()),
                "since": time.time(),
                "text": text,
            }
            write_json_atomic(self._launcher_path, content)
            try:
                yield
            finally:
                self._launcher_path.unlink(missing_ok=True)

    def launcher(self) -> LaunchedProcess | None:
        """The launcher that runs, or None."""
        content = _read_json(self._launcher_path)
        pid, started = int(content.get("pid", 0)), str(content.get("started", ""))
        launcher = LaunchedProcess(pid, started, token="")
        return launcher if launcher.alive else None

    @property
    def _launcher_path(self) -> Path:
        return self.folder / "launcher.json"

    def _already_running(self) -> LauncherRunningError:
        content = _read_json(self._launcher_path)
        pid = int(content.get("pid", 0))
        since = time.strftime("%H:%M:%S", time.localtime(content.get("since", time.time())))
        text = f"pid {pid}, since {since}. {content.get('text', '')}".strip()
        return LauncherRunningError(pid, text)

    def _path(self, name: str) -> Path:
        return self.folder / f"{name.lower()}.json"


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
