"""Which process something belongs to, so that others can tell whether it still runs."""

import json
import os
import socket
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """An object in a process, and since when that process runs (kernel ticks)."""

    nonce: str
    host: str
    process: int
    started: str

    @classmethod
    def current(cls) -> "ProcessIdentity":
        """A new one in this process."""
        process = os.getpid()
        return cls(uuid.uuid4().hex, _host(), process, _started(process))

    @classmethod
    def from_json(cls, text: str) -> "ProcessIdentity | None":
        """From ``text()``; None where it is something else."""
        try:
            return cls(**json.loads(text))
        except (ValueError, TypeError):
            return None

    def to_json(self) -> str:
        """As JSON."""
        return json.dumps(asdict(self))

    def has_exited(self) -> bool:
        """Whether the process is known to have ended; False where nobody here can know."""
        if self.host != _host() or not self.started:
            return False
        return _started(self.process) != self.started

    def __str__(self) -> str:
        return f"process {self.process} on {self.host}"


def _host() -> str:
    """This machine and its table of processes: containers may share a machine's name."""
    try:
        return f"{socket.gethostname()} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return socket.gethostname()


def _started(process: int) -> str:
    """The process's start time; empty where there is no such process, or no ``/proc``."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""
