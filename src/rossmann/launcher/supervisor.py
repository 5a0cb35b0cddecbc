"""Supervision of services: start, wait for health, restart, end in order; status and stop."""

import os
import signal
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path

from rossmann.errors import PortInUseError, ServiceError
from rossmann.installation import shell_command
from rossmann.launcher import processes
from rossmann.launcher.console import LaunchConsole
from rossmann.launcher.processes import (
    GUARD,
    LAUNCHER,
    LaunchedProcess,
    LauncherRunningError,
    RunFolder,
    ServiceRecord,
)
from rossmann.launcher.services import Service, State, find_port_owner
from rossmann.launcher.stop_signals import Interrupts

GRACE_SECONDS = 30.0
"""Between SIGTERM and SIGKILL: the API takes up to 20 for requests in flight, then its log."""
_POLL_SECONDS = 0.2
_SLOW_SECONDS = 15.0
"""A service of an earlier launch may be busy, or starting still."""
_EXIT_CODE_SECONDS = 5.0


@dataclass(frozen=True)
class _StartedService:
    service: Service
    process: subprocess.Popen[bytes]
    record: ServiceRecord
    started_at: float


class Supervisor:
    """The services that this launch started; it ends these and no others."""

    def __init__(
        self,
        run: RunFolder,
        logs: Path,
        console: LaunchConsole,
        interrupts: Interrupts,
        *,
        holds_lock: bool = True,
    ) -> None:
        """``holds_lock``: this process is the launcher; else it takes the lock to restart."""
        self._holds_lock = holds_lock
        self._run = run
        self._logs = logs
        self._console = console
        self._interrupts = interrupts
        self._started: list[_StartedService] = []
        self._healthy: set[str] = set()
        self._step: tuple[subprocess.Popen[bytes], LaunchedProcess] | None = None

    @property
    def started(self) -> list[str]:
        """Names of the services that this launch started and that it ends."""
        return [one.service.name for one in self._started]

    def missing(self, services: Iterable[Service]) -> list[Service]:
        """Those that must be started; the others run already, and are used.

        Raises ``PortInUseError`` where another program holds a port, before anything is started.
        """
        return [service for service in services if not self._is_usable(service)]

    def _is_usable(self, service: Service) -> bool:
        record = self._run.read(service.name)
        launched = record is not None and record.identity.alive
        if launched and record and record.port == service.port:
            self._wait_briefly(service)
        state = service.state()
        if launched and record and record.port != service.port:
            raise PortInUseError(
                f"{service.name} runs already at {record.address}, not at {service.address};"
                f" end it with: {shell_command('down')}"
            )
        if state is State.HEALTHY:
            self._console.print(f"  {service.name} runs already at {service.address}: used")
            return True
        if launched and record:
            # Started by an earlier launch and not answering: it would keep its port from ours.
            self._console.print(
                f"  {service.name} of an earlier launch does not answer: started anew"
            )
            processes.end(record.identity, GRACE_SECONDS)
            self._run.remove(service.name)
            state = service.state()
        if state is not State.ABSENT:
            raise PortInUseError(port_conflict_message(service))
        return False

    @staticmethod
    def _wait_briefly(service: Service) -> None:
        deadline = time.monotonic() + _SLOW_SECONDS
        while not service.healthy() and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)

    def start(self, service: Service) -> None:
        """Start one service with a new log; the earlier log is kept."""
        self._console.detail(f"{service.name} is starting at {service.address}")
        started_at = self._console.seconds
        log = self._logs / f"{service.name.lower()}.log"
        if log.is_file():
            log.replace(log.with_suffix(".log.1"))
        with self._interrupts.deferred():
            try:
                process, identity = processes.start(
                    service.command, service.environment, log, self._run.identity
                )
            except OSError as error:
                raise ServiceError(f"{service.name} cannot be started: {error}") from error
            record = ServiceRecord(service.name, identity, service.port, service.address, log)
            self._started.append(_StartedService(service, process, record, started_at))
            self._run.write(record)

    def wait_healthy(self, service: Service) -> None:
        """Wait until the service answers; raises ``ServiceError`` when it dies or stays silent."""
        deadline = time.monotonic() + service.startup_timeout
        while True:
            self._poll_health()
            self.check()  # what answers may be another program that took the port from ours
            if service.name in self._healthy:
                return
            if time.monotonic() > deadline:
                raise ServiceError(
                    f"{service.name} does not answer at {service.health_url} after"
                    f" {service.startup_timeout:.0f} s.{self._log_text(service)}"
                )
            time.sleep(_POLL_SECONDS)

    def _poll_health(self) -> None:
        """Report each started service once, when it answers."""
        for one in self._started:
            service = one.service
            if service.name not in self._healthy and service.healthy(timeout=1.0):
                self._healthy.add(service.name)
                text = f"{service.name} healthy at {service.address}"
                self._console.done(text, self._console.seconds - one.started_at)

    def run_step(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        """Run a command to its end while the services are watched; its output goes to the screen.

        Raises ``ServiceError`` when it fails; the reason is on stderr then.
        """
        with self._interrupts.deferred():
            self._step = processes.start(command, environment, None, self._run.identity)
        process, identity = self._step
        while process.poll() is None:
            self.check()
            self._poll_health()
            time.sleep(_POLL_SECONDS)
        code = process.returncode
        self._step = None
        processes.end(identity, GRACE_SECONDS)  # descendants that it may have left
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

    def exit_text(self, service: Service) -> str:
        """How it ended, with a blank before; "" for a service that another process started."""
        process = next((one.process for one in self._started if one.service is service), None)
        if process is None:
            return ""
        try:  # it is dead to others a moment before its last thread has ended and it has a code
            code = process.wait(_EXIT_CODE_SECONDS)
        except subprocess.TimeoutExpired:
            return ""
        return f" by signal {-code}" if code < 0 else f" with exit code {code}"

    def restart(self, service: Service, record: ServiceRecord) -> bool:
        """Start a service again that ended by itself; False where another process does it.

        Its descendants are ended first: they may hold its port. Raises ``ServiceError``.
        """
        with suppress(LauncherRunningError), self._lock():
            if self._run.read(service.name) != record:
                return False  # a launch or ``down`` was faster
            processes.end(record.identity, GRACE_SECONDS)
            position = next(
                (i for i, one in enumerate(self._started) if one.service is service), None
            )
            self.start(service)
            if position is not None:  # services are ended in the order of the launch
                self._started[position] = self._started.pop()
            return True
        return False

    def _lock(self) -> AbstractContextManager[None]:
        return nullcontext() if self._holds_lock else self._run.lock("a restart")

    def leave_guard(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        """Start the guard of a detached launch, unless one runs; raises ``ServiceError``."""
        log = self._logs / f"{GUARD}.log"
        if self._run.launcher(GUARD):
            return
        with self._interrupts.deferred():
            process, _ = processes.start(command, environment, log, self._run.identity)
        deadline = time.monotonic() + _LAUNCHER_SECONDS
        while not self._run.launcher(GUARD):
            if process.poll() is not None or time.monotonic() > deadline:
                raise ServiceError(f"the guard of the services did not start. Its log is {log}")
            time.sleep(0.05)

    def stop(self) -> None:
        """End what this launch started, last one first. A second Ctrl-C kills without grace."""
        with self._interrupts.deferred(discard=True):
            if self._step:
                self._end(self._step[1])
                self._step = None
            while self._started:
                one = self._started.pop()
                self._end(one.record.identity)
                self._run.remove(one.service.name)
                self._console.detail(f"{one.service.name} stopped")

    def _end(self, process: LaunchedProcess) -> None:
        before = self._interrupts.received
        processes.end(process, GRACE_SECONDS, lambda: self._interrupts.received > before)

    def _log_text(self, service: Service) -> str:
        log = self._logs / f"{service.name.lower()}.log"
        lines = log_tail(log)
        return f" Its log is {log}" + (f"; the last lines:\n{lines}" if lines else " (empty)")


def log_tail(log: Path, lines: int = 15) -> str:
    """The last lines of a log; "" when there is none."""
    try:
        text = log.read_bytes()[-20_000:].decode(errors="replace")
    except OSError:
        return ""
    return "\n".join(text.splitlines()[-lines:])


def port_conflict_message(service: Service) -> str:
    """Which process holds the service's port, and how to choose another."""
    owner = find_port_owner(service.port)
    other_port = service.port + 100 if service.port + 100 <= 65535 else service.port - 100
    text = (
        f"port {service.port}, which {service.name} needs, is held by"
        f" {owner or 'another program'}; end that, or choose another port:"
        f" {service.setting}={other_port}"
    )
    if service.setting == "ROSSMANN_MLFLOW_PORT" and service.healthy():
        text += (
            f" (it is an MLflow server of another data folder; to use it all the same:"
            f" ROSSMANN_MLFLOW_TRACKING_URI={service.address})"
        )
    return text


_LAUNCHER_SECONDS = 60.0
"""A launcher ends its services one after the other."""


def down(services: Sequence[Service], run: RunFolder, console: LaunchConsole) -> None:
    """End the launcher that runs, and every service that a launch has left running.

    Ends nothing else, and names what it leaves running: also what a launch from another data
    folder, which this one is a copy of, has started. Raises ``ServiceError`` where a process does
    not end.
    """
    ended = _end_launcher(run, console)
    _end_launcher(run, console, GUARD)
    for service in reversed(services):
        if folder := run.foreign_folder(service.name):
            console.print(
                f"  {service.name}: its run file was copied from {folder}; not ended here"
            )
        record = run.read(service.name)
        if record and record.identity.process_tree():
            if not processes.end(record.identity, GRACE_SECONDS):
                raise ServiceError(f"{service.name} (pid {record.identity.pid}) does not end")
            console.print(f"  {service.name} stopped")
            ended = True
        run.remove(service.name)
        if service.state() is State.HEALTHY:
            owner = find_port_owner(service.port) or "another program"
            console.print(f"  {service.name} at {service.address} is left running: {owner}")
    if not ended:
        console.print("Nothing of the launcher's runs.")


def _end_launcher(run: RunFolder, console: LaunchConsole, role: str = LAUNCHER) -> bool:
    launcher = run.launcher(role)
    if launcher is None or launcher == os.getpid():
        return False
    if role == LAUNCHER:
        console.print(f"  The launcher (pid {launcher}) is stopping its services")
    started = processes.start_time_token(launcher)
    with suppress(ProcessLookupError):
        os.kill(launcher, signal.SIGTERM)
    deadline = time.monotonic() + _LAUNCHER_SECONDS
    while started and processes.start_time_token(launcher) == started:
        if time.monotonic() > deadline:
            raise ServiceError(f"the {role} (pid {launcher}) does not end")
        time.sleep(0.1)
    return True


def status(services: Sequence[Service], run: RunFolder, console: LaunchConsole) -> bool:
    """Print what runs where; True when all services are healthy."""
    launcher = run.launcher()
    if launcher:
        console.print(f"A launcher runs (pid {launcher}).")
    elif guard := run.launcher(GUARD):
        console.print(f"A guard restarts services that end by themselves (pid {guard}).")
    width = max(len(service.name) for service in services)
    states = [(service, service.state()) for service in services]
    for service, state in states:
        text = _describe(service, state, run)
        console.print(f"  {service.name:<{width}}  {service.address}  {text}")
    return all(state is State.HEALTHY for _, state in states)


def _describe(service: Service, state: State, run: RunFolder) -> str:
    record = run.read(service.name)
    launched = record is not None and record.identity.alive
    if record and not launched and state is State.ABSENT:
        lines = log_tail(record.log, 5)
        again = " and is started again" if run.launcher() or run.launcher(GUARD) else ""
        return f"has ended by itself{again}. Its log is {record.log}; the last lines:\n{lines}"
    if record and launched:
        word = "starting" if state is State.ABSENT else state.value
        return f"{word} (pid {record.identity.pid}, log {record.log})"
    if state is State.ABSENT:
        return str(state.value)
    owner = find_port_owner(service.port) or "a process of another user"
    if state is State.HEALTHY:
        return f"{state.value}, not started by the launcher: {owner}"
    return f"{State.OTHER_PROCESS.value}: {owner}"
