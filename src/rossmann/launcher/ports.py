"""TCP ports: whether one is free to listen on, and which process holds it."""

import errno
import socket
from contextlib import suppress
from dataclasses import dataclass

import psutil


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
