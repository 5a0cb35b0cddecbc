"""Starts services, waits for their health, sees at once when one dies, and ends them in order.

MERGED: Signals that ask the launcher to stop: never lost, never in the middle of a start.
"""

import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rossmann.errors import PortInUseError, ServiceError
from rossmann.launcher import processes
from rossmann.launcher import processes as ports
from rossmann.launcher.console import LaunchConsole
from rossmann.launcher.processes import ProcessIdentity
from rossmann.launcher.run_files import RunFolder, ServiceRecord
from rossmann.launcher.services import Service, State
from rossmann.launcher.stop_signals import Interrupts

GRACE_SECONDS = 10.0
"""Between the polite signal and the last one."""
_GLANCE_SECONDS = 0.2
_SLOW_SECONDS = 15.0
"""A service of an earlier launch may be busy, or starting still."""


@dataclass(frozen=True)
class _Started:
    service: Service
    process: subprocess.Popen[bytes]
    record: ServiceRecord
    at: float


class Supervisor:
    """The services that this launch started, and those it found."""

    def __init__(
        self, run: RunFolder, logs: Path, screen: LaunchConsole, interrupts: Interrupts
    ) -> None:
        self._run = run
        self._logs = logs
        self._screen = screen
        self._interrupts = interrupts
        self._started: list[_Started] = []
        self._answered: set[str] = set()
        self._step: tuple[subprocess.Popen[bytes], ProcessIdentity] | None = None

    @property
    def started(self) -> list[str]:
        """Names of the services that this launch started and that it ends."""
        return [one.service.name for one in self._started]

    def missing(self, services: Iterable[Service]) -> list[Service]:
        """Those that must be started; the others run already, and are used.

        Raises ``PortTaken`` where a stranger holds a port, before anything is started.
        """
        return [service for service in services if not self._runs(service)]

    def _runs(self, service: Service) -> bool:
        record = self._run.read(service.name)
        ours = record is not None and record.identity.alive
        if ours and record and record.port == service.port:
            self._answers_within(service, _SLOW_SECONDS)
        state = service.state()
        if ours and record and record.port != service.port:
            raise PortInUseError(
                f"{service.name} runs already at {record.address}, not at {service.address};"
                " end it with: rossmann down"
            )
        if state is State.HEALTHY:
            self._screen.print(f"  {service.name} runs already at {service.address}: used")
            return True
        if ours and record:
            # Started by an earlier launch and not answering: it would keep its port from ours.
            self._screen.print(
                f"  {service.name} of an earlier launch does not answer: started anew"
            )
            processes.end(record.identity, GRACE_SECONDS)
            self._run.forget(service.name)
            state = service.state()
        if state is not State.ABSENT:
            raise PortInUseError(port_conflict_message(service))
        return False

    @staticmethod
    def _answers_within(service: Service, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not service.healthy() and time.monotonic() < deadline:
            time.sleep(_GLANCE_SECONDS)

    def start(self, service: Service) -> None:
        """Start one service; its log begins anew, the one before is kept beside it."""
        self._screen.detail(f"{service.name} is starting at {service.address}")
        began = self._screen.seconds
        log = self._logs / f"{service.name.lower()}.log"
        if log.is_file():
            log.replace(log.with_suffix(".log.1"))
        with self._interrupts.held():
            try:
                process, identity = processes.start(service.command, service.environment, log)
            except OSError as error:
                raise ServiceError(f"{service.name} cannot be started: {error}") from error
            record = ServiceRecord(service.name, identity, service.port, service.address, log)
            self._started.append(_Started(service, process, record, began))
            self._run.write(record)

    def wait_healthy(self, service: Service) -> None:
        """Wait until the service answers; raises ``ServiceError`` when it dies or stays silent."""
        deadline = time.monotonic() + service.patience
        while True:
            self._ask()
            self.check()  # what answers may be a stranger that took the port from ours
            if service.name in self._answered:
                return
            if time.monotonic() > deadline:
                raise ServiceError(
                    f"{service.name} does not answer at {service.health_url} after"
                    f" {service.patience:.0f} s.{self._log_text(service)}"
                )
            time.sleep(_GLANCE_SECONDS)

    def _ask(self) -> None:
        """Say of each started service, once, that it answers now."""
        for one in self._started:
            service = one.service
            if service.name not in self._answered and service.healthy(timeout=1.0):
                self._answered.add(service.name)
                text = f"{service.name} healthy at {service.address}"
                self._screen.done(text, self._screen.seconds - one.at)

    def run_step(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        """Run a command to its end while the services are watched; its output goes to the screen.

        Raises ``ServiceError`` when it fails, having said why on stderr itself.
        """
        with self._interrupts.held():
            self._step = processes.start(command, environment, log=None)
        process, identity = self._step
        while process.poll() is None:
            self.check()
            self._ask()
            time.sleep(_GLANCE_SECONDS)
        code = process.returncode
        self._step = None
        processes.end(identity, GRACE_SECONDS)  # what it may have left behind
        if code:
            how = f"was ended by signal {-code}" if code < 0 else "failed, see above"
            raise ServiceError(f"preparing data and model {how}; nothing was left running")

    def check(self) -> None:
        """Raise ``ServiceError`` with the last lines of its log if a started service has died."""
        for one in self._started:
            code = one.process.poll()
            if code is not None:
                how = f"by signal {-code}" if code < 0 else f"with exit code {code}"
                raise ServiceError(
                    f"{one.service.name} ended by itself {how}.{self._log_text(one.service)}"
                )

    def watch(self) -> None:
        """Stay until a signal comes or a started service dies."""
        while True:
            self.check()
            time.sleep(_GLANCE_SECONDS)

    def stop(self) -> None:
        """End what this launch started, last one first. A second Ctrl-C ends it the hard way."""
        with self._interrupts.held(forget=True):
            if self._step:
                self._end(self._step[1])
                self._step = None
            while self._started:
                one = self._started.pop()
                self._end(one.record.identity)
                self._run.forget(one.service.name)
                self._screen.detail(f"{one.service.name} stopped")

    def _end(self, identity: ProcessIdentity) -> None:
        before = self._interrupts.received
        processes.end(identity, GRACE_SECONDS, lambda: self._interrupts.received > before)

    def _log_text(self, service: Service) -> str:
        log = self._logs / f"{service.name.lower()}.log"
        lines = processes.tail(log)
        return f" Its log is {log}" + (f"; the last lines:\n{lines}" if lines else " (empty)")


def port_conflict_message(service: Service) -> str:
    """Who holds the service's port, and how to choose another."""
    holder = ports.find_port_owner(service.port)
    another = service.port + 100 if service.port + 100 <= 65535 else service.port - 100
    text = (
        f"port {service.port}, which {service.name} needs, is held by"
        f" {holder or 'another program'}; end that, or choose another port:"
        f" {service.setting}={another}"
    )
    if service.setting == "ROSSMANN_MLFLOW_PORT" and service.healthy():
        text += (
            f" (it is an MLflow server of another data folder; to use it all the same:"
            f" ROSSMANN_MLFLOW_TRACKING_URI={service.address})"
        )
    return text
