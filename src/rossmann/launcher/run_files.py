"""Run files of the launcher: the services that it started, and a lock while it runs itself."""

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rossmann.filesystem.atomic_write import write_json_atomic
from rossmann.filesystem.locks import exclusive_lock
from rossmann.launcher.processes import LaunchedProcess, start_time_token


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
