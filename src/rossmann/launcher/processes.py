"""Processes of a launch, which outlive it: start, identity, end, and their records on disk.

The system gives a pid away again, and a run file may be copied with its folder, or forged. So a
process is named by its pid, its boot and start time, and by a token and the run folder, which it
and its descendants carry in their environment: only what they carry proves that they are ours. A
launcher is proven by the lock file of the folder, which it keeps open. No other process is ever
signalled.
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
from typing import Any, TypeGuard

import psutil

from rossmann.filesystem.atomic_write import make_private_folder, private_files, write_json_atomic
from rossmann.filesystem.locks import exclusive_lock
from rossmann.filesystem.process_identity import start_time

TOKEN_VARIABLE = "LAUNCHED_AS"
FOLDER_VARIABLE = "LAUNCHED_FROM"
LAUNCHER = "launcher"
GUARD = "guard"
"""The process that ``up --detach`` leaves behind; see ``restarts``."""
_EXEC_SECONDS = 2.0
"""The kernel shows the environment of a program a moment after it has begun."""
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True)
class LaunchedProcess:
    """A process that leads its own session; the field names are keys of the run files.

    ``folder``: the run folder that it was started from.
    """

    pid: int
    started: str
    token: str
    folder: str

    @property
    def alive(self) -> bool:
        """Whether that very process still runs (a zombie does not), and carries the token."""
        return start_time_token(self.pid) == self.started != "" and self._marks(self.pid)

    def process_tree(self) -> list[int]:
        """Pids of all living processes that carry token and folder, the leader first."""
        pids = [pid for pid in psutil.pids() if self._marks(pid) and start_time(pid)]
        return sorted(pids, key=lambda pid: (pid != self.pid, pid))

    def _marks(self, pid: int) -> bool:
        """Whether that process carries the token and the folder; False where it is another's."""
        try:
            variables = psutil.Process(pid).environ()
        except (psutil.Error, OSError):  # gone meanwhile, or another user's
            return False
        own = (variables.get(TOKEN_VARIABLE), variables.get(FOLDER_VARIABLE))
        return own == (self.token, self.folder)


def start_time_token(pid: int) -> str:
    """When the process began, as text that no other process of that pid has; "" if it is gone."""
    started = start_time(pid)
    return f"{_boot_id()}:{started}" if started else ""


def _boot_id() -> str:
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return "boot"


def start(
    command: Sequence[str], environment: Mapping[str, str], log: Path | None, folder: str
) -> tuple[subprocess.Popen[bytes], LaunchedProcess]:
    """Start a command in a session of its own; its output goes to ``log`` (None: where ours goes).

    ``folder``: the run folder (``RunFolder.identity``) that the process is bound to.
    In a session of its own, a Ctrl-C on the terminal reaches the launcher alone, which then ends
    its services in order. Raises ``OSError`` when the command cannot be run.
    """
    token = uuid.uuid4().hex
    marks = {TOKEN_VARIABLE: token, FOLDER_VARIABLE: folder}
    variables = {**os.environ, **environment, **marks}
    if log is not None:
        make_private_folder(log.parent)
    with private_files(), nullcontext() if log is None else log.open("wb") as output:
        process = subprocess.Popen(
            command,
            env=variables,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=None if log is None else subprocess.STDOUT,
            start_new_session=True,
        )
    identity = LaunchedProcess(process.pid, start_time_token(process.pid), token, folder)
    deadline = time.monotonic() + _EXEC_SECONDS
    while not identity.alive and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.001)
    return process, identity


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
    """The run files of one data folder.

    What they say is checked: a record of another folder, or one that no launch can have written,
    counts as none.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def identity(self) -> str:
        """The folder's one path, whichever links lead to it."""
        return str(self.folder.resolve())

    def write(self, record: ServiceRecord) -> None:
        """Store the record of a service that was just started."""
        make_private_folder(self.folder)
        content = asdict(record) | {"log": str(record.log)}
        write_json_atomic(self._path(record.name), content, mode=0o600)

    def read(self, name: str) -> ServiceRecord | None:
        """The service of that name, if one was started and not ended since."""
        content = _read_json(self._path(name))
        with suppress(KeyError, TypeError):
            identity = LaunchedProcess(**content["identity"])
            port, address, log = content["port"], str(content["address"]), Path(content["log"])
            if self._can_have_written(identity) and type(port) is int:
                return ServiceRecord(name, identity, port, address, log)
        return None

    def foreign_folder(self, name: str) -> str:
        """The run folder that the service's run file was copied from; "" where it is our own."""
        identity = _read_json(self._path(name)).get("identity")
        folder = identity.get("folder") if isinstance(identity, dict) else None
        return folder if isinstance(folder, str) and folder != self.identity else ""

    def _can_have_written(self, identity: LaunchedProcess) -> bool:
        texts = (identity.started, identity.token)
        return (
            _is_pid(identity.pid)
            and all(isinstance(text, str) and text for text in texts)
            and identity.folder == self.identity
        )

    def remove(self, name: str) -> None:
        """Remove a service's run file."""
        self._path(name).unlink(missing_ok=True)

    @contextmanager
    def lock(self, text: str, role: str = LAUNCHER) -> Iterator[None]:
        """Be the only launcher (or guard); raises ``LauncherRunningError`` where another one is.

        ``text``: what this one runs, for the message of others.
        """
        make_private_folder(self.folder)
        path = self.folder / f"{role}.json"
        with exclusive_lock(self.folder / f"{role}.lock", lambda: self._already_running(role)):
            content = {
                "pid": os.getpid(),
                "started": start_time_token(os.getpid()),
                "since": time.time(),
                "text": text,
            }
            write_json_atomic(path, content, mode=0o600)
            try:
                yield
            finally:
                path.unlink(missing_ok=True)

    def launcher(self, role: str = LAUNCHER) -> int | None:
        """The pid of the launcher (or guard) that runs, or None."""
        content = _read_json(self.folder / f"{role}.json")
        pid = content.get("pid")
        if not _is_pid(pid) or start_time_token(pid) != content.get("started"):
            return None
        return pid if _has_open(pid, f"{self.identity}/{role}.lock") else None

    def _already_running(self, role: str) -> LauncherRunningError:
        content = _read_json(self.folder / f"{role}.json")
        pid = self.launcher(role) or 0
        since = "just now"
        with suppress(TypeError, ValueError, OverflowError, OSError):
            since = time.strftime("since %H:%M:%S", time.localtime(content.get("since")))
        text = f"pid {pid}, {since}. {content.get('text', '')}".strip()
        return LauncherRunningError(pid, text)

    def _path(self, name: str) -> Path:
        return self.folder / f"{name.lower()}.json"


def _is_pid(value: object) -> TypeGuard[int]:
    """Whether it is the number of a process that a launch can have started."""
    return type(value) is int and 1 < value < 2**31


def _has_open(pid: int, path: str) -> bool:
    """Whether the process has opened that file; False where it is another user's."""
    try:
        return any(file.path == path for file in psutil.Process(pid).open_files())
    except (psutil.Error, OSError):
        return False


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
