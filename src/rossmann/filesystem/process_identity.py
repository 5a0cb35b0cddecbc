"""Process identity: host, pid and start time, because the system gives a pid away again.

And what else the system knows of processes: whether one exists, which files it has open, its user.
"""

import json
import os
import pwd
import socket
import uuid
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """A process, and a nonce that sets apart what several objects in it own."""

    nonce: str
    host: str
    process: int
    started: str

    @classmethod
    def current(cls) -> "ProcessIdentity":
        """This process, with a new nonce."""
        process = os.getpid()
        return cls(uuid.uuid4().hex, _host(), process, start_time(process))

    @classmethod
    def from_json(cls, text: str) -> "ProcessIdentity | None":
        """From ``to_json()``; None where the text is something else."""
        try:
            return cls(**json.loads(text))
        except (ValueError, TypeError):
            return None

    def to_json(self) -> str:
        """As JSON, whose keys are the field names."""
        return json.dumps(asdict(self))

    def has_exited(self) -> bool:
        """Whether the process is known to have ended; False where this machine cannot know."""
        if self.host != _host() or not self.started:
            return False
        return start_time(self.process) != self.started

    def __str__(self) -> str:
        return f"process {self.process} on {self.host}"


def start_time(pid: int) -> str:
    """When a running process began, as text to compare; "" where it is gone or a zombie.

    On Linux the clock ticks since boot: psutil's ``create_time`` moves when the clock is set.
    """
    if psutil.LINUX:
        try:
            stat = Path(f"/proc/{pid}/stat").read_text("latin-1")
        except OSError:
            return ""
        fields = stat.rpartition(")")[2].split()  # the name before it may hold blanks
        return "" if fields[0] in "ZX" else fields[19]
    try:
        process = psutil.Process(pid)
        return "" if process.status() == psutil.STATUS_ZOMBIE else repr(process.create_time())
    except psutil.Error:
        return ""


def pid_exists(pid: int) -> bool:
    """Whether a process has that number; not psutil's, which misses those that /proc hides."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True


def find_open_files(folder: Path) -> dict[int, str]:
    """Other processes that have files below ``folder`` open, deleted ones too: pid and one path.

    Only those that this user may look at, and only where there is ``/proc``.
    """
    below, found = f"{folder.resolve()}/", {}
    for process in Path("/proc").glob("[0-9]*"):
        if int(process.name) == os.getpid():
            continue
        with suppress(OSError):  # another user's, or gone meanwhile
            for link in (process / "fd").iterdir():
                with suppress(OSError):
                    path = os.readlink(link)  # noqa: PTH115 - a Path would need another call
                    if path.startswith(below):
                        found[int(process.name)] = path
                        break
    return found


def owner_name(user: int) -> str:
    """The name of a user id; the number where it has none."""
    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:
        return str(user)


def _host() -> str:
    """This machine and its pid namespace: containers may share a machine's name."""
    try:
        return f"{socket.gethostname()} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return socket.gethostname()
