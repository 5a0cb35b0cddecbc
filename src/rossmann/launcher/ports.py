"""Who holds a port: so that a stranger can be named, and one of ours told from a look-alike."""

import errno
import socket
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from rossmann.launcher.processes import PROC

_LISTENING = "0A"


@dataclass(frozen=True, slots=True)
class Owner:
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


def owner(port: int) -> Owner | None:
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


def _describe(folder: Path) -> Owner:
    words = folder.joinpath("cmdline").read_bytes().decode(errors="replace").split("\0")
    return Owner(int(folder.name), " ".join(words).strip(), _link(folder / "cwd"))
