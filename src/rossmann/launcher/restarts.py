"""Restarts of services that ended by themselves: their back-off, and the guard.

A launch in the foreground restarts what it started. ``up --detach`` leaves a guard behind, a
process that does the same until ``down`` ends it, or until no service is left to watch. The guard
ends no service.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rossmann.errors import ServiceError
from rossmann.launcher.console import LaunchConsole
from rossmann.launcher.processes import GUARD, LauncherRunningError, RunFolder, ServiceRecord
from rossmann.launcher.services import Service
from rossmann.launcher.stop_signals import Interrupts
from rossmann.launcher.supervisor import Supervisor

LONGEST_PAUSE: Final = 60.0
"""Seconds; the first pause is one second, and each further one twice as long."""
STABLE_SECONDS: Final = 60.0
"""A service that ran as long has recovered: its next pause is the first again."""
_POLL_SECONDS: Final = 0.2


@dataclass
class _Deaths:
    """The deaths of one service in a row; ``restart_at``: 0 while it runs."""

    count: int = 0
    restart_at: float = 0.0
    started_at: float = -STABLE_SECONDS


class Backoff:
    """When a service that has ended is started again; ``clock`` in seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._deaths: dict[str, _Deaths] = {}

    def note_death(self, name: str) -> float | None:
        """The pause before its restart, in seconds; None where this death is known already."""
        deaths = self._deaths.setdefault(name, _Deaths())
        if deaths.restart_at:
            return None
        if self._clock() - deaths.started_at >= STABLE_SECONDS:
            deaths.count = 0
        pause = min(2.0**deaths.count, LONGEST_PAUSE)
        deaths.count += 1
        deaths.restart_at = self._clock() + pause
        return pause

    def note_alive(self, name: str) -> None:
        """It runs: another process has started it, if it had ended; or it is not watched."""
        if name in self._deaths:
            self._deaths[name].restart_at = 0.0

    def is_due(self, name: str) -> bool:
        """Whether the pause of a service that has ended is over."""
        return self._clock() >= self._deaths[name].restart_at

    def note_start(self, name: str) -> None:
        """It was started again."""
        deaths = self._deaths[name]
        deaths.restart_at, deaths.started_at = 0.0, self._clock()


def watch(
    services: Sequence[Service], supervisor: Supervisor, run: RunFolder, console: LaunchConsole
) -> None:
    """Restart the services that end by themselves; a guard returns when no run file is left.

    A service without a run file was ended on purpose, or was not started by a launch.
    """
    backoff = Backoff()
    while True:
        records = [(service, run.read(service.name)) for service in services]
        if not supervisor.started and not any(record for _, record in records):
            return
        for service, record in records:
            if record is None or record.identity.alive:
                backoff.note_alive(service.name)
                continue
            pause = backoff.note_death(service.name)
            if pause is not None:
                how = supervisor.exit_text(service)
                console.print(
                    f"  {_now()} {service.name} ended by itself{how}: it is started again in"
                    f" {pause:.0f} s. Its log is {record.log}, then {record.log}.1"
                )
            elif backoff.is_due(service.name):
                _restart(service, record, supervisor, backoff, console)
        time.sleep(_POLL_SECONDS)


def _restart(
    service: Service,
    record: ServiceRecord,
    supervisor: Supervisor,
    backoff: Backoff,
    console: LaunchConsole,
) -> None:
    try:
        if not supervisor.restart(service, record):
            return
    except ServiceError as error:
        console.print(f"  {_now()} {error}")
    else:
        console.print(f"  {_now()} {service.name} was started again at {service.address}")
    backoff.note_start(service.name)


def guard(services: Sequence[Service], run: RunFolder, logs: Path, console: LaunchConsole) -> None:
    """Watch the services of a detached launch until a signal; nothing where another guard does.

    Raises ``Interrupted`` on a signal.
    """
    try:
        with run.lock("the guard", GUARD), Interrupts() as interrupts:
            supervisor = Supervisor(run, logs, console, interrupts, holds_lock=False)
            watch(services, supervisor, run, console)
    except LauncherRunningError as error:
        console.print(f"The services are watched already: {error.text}")


def _now() -> str:
    return time.strftime("%F %T")
