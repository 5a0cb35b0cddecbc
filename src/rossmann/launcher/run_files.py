"""What the launcher writes down: the services it started, and that it runs itself."""

import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rossmann.launcher.processes import ProcessIdentity, start_time_token


@dataclass(frozen=True, slots=True)
class ServiceRecord:
    """One started service: who it is, where it answers, where it writes its log."""

    name: str
    identity: ProcessIdentity
    port: int
    address: str
    log: Path


class LauncherAlreadyRunning(Exception):
    """Another launcher holds the lock; ``text`` tells about it."""

    def __init__(self, pid: int, text: str) -> None:
        self.pid = pid
        self.text = text
        super().__init__(text)


class RunFolder:
    """The run files of one data folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, record: ServiceRecord) -> None:
        """Remember a service that was just started."""
        self.folder.mkdir(parents=True, exist_ok=True)
        content = asdict(record) | {"log": str(record.log)}
        self._put(self._path(record.name), content)

    def read(self, name: str) -> ServiceRecord | None:
        """The service of that name, if one was started and not ended since."""
        content = self._get(self._path(name))
        with suppress(KeyError, TypeError):
            return ServiceRecord(
                name=content["name"],
                identity=ProcessIdentity(**content["identity"]),
                port=content["port"],
                address=content["address"],
                log=Path(content["log"]),
            )
        return None

    def forget(self, name: str) -> None:
        """Remove a service's run file."""
        self._path(name).unlink(missing_ok=True)

    @contextmanager
    def lock(self, text: str) -> Iterator[None]:
        """Be the only launcher; raises ``LauncherRuns`` where another one is.

        The lock is the system's, so that it goes away with the process that holds it.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "launcher.lock").open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise self._other_launcher() from error
            me = {
                "pid": os.getpid(),
                "started": start_time_token(os.getpid()),
                "since": time.time(),
            }
            self._put(self._launcher, me | {"text": text})
            try:
                yield
            finally:
                self._launcher.unlink(missing_ok=True)

    def launcher(self) -> ProcessIdentity | None:
        """The launcher that runs, or None."""
        content = self._get(self._launcher)
        me = ProcessIdentity(int(content.get("pid", 0)), str(content.get("started", "")), token="")
        return me if me.alive else None

    @property
    def _launcher(self) -> Path:
        return self.folder / "launcher.json"

    def _other_launcher(self) -> LauncherAlreadyRunning:
        content = self._get(self._launcher)
        pid = int(content.get("pid", 0))
        began = time.strftime("%H:%M:%S", time.localtime(content.get("since", time.time())))
        return LauncherAlreadyRunning(
            pid, f"pid {pid}, since {began}. {content.get('text', '')}".strip()
        )

    def _path(self, name: str) -> Path:
        return self.folder / f"{name.lower()}.json"

    @staticmethod
    def _put(path: Path, content: dict[str, Any]) -> None:
        draft = path.with_suffix(".draft")
        draft.write_text(json.dumps(content, indent=1), "utf-8")
        draft.replace(path)

    @staticmethod
    def _get(path: Path) -> dict[str, Any]:
        try:
            content = json.loads(path.read_text("utf-8"))
        except (OSError, ValueError):
            return {}
        return content if isinstance(content, dict) else {}
