"""Ends what launches have started (``rossmann down``), and reports what runs (``status``)."""

import os
import signal
import time
from collections.abc import Sequence
from contextlib import suppress

from rossmann.errors import ServiceError
from rossmann.launcher import processes
from rossmann.launcher.console import LaunchConsole
from rossmann.launcher.ports import find_port_owner
from rossmann.launcher.run_files import RunFolder
from rossmann.launcher.services import Service, State
from rossmann.launcher.supervisor import GRACE_SECONDS, log_tail

_LAUNCHER_SECONDS = 60.0
"""A launcher ends its services one after the other."""


def down(services: Sequence[Service], run: RunFolder, console: LaunchConsole) -> None:
    """End the launcher that runs, and every service that a launch has left running.

    Ends nothing else, and names what it leaves running. Raises ``ServiceError`` where a process
    does not end.
    """
    ended = _end_launcher(run, console)
    for service in reversed(services):
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


def _end_launcher(run: RunFolder, console: LaunchConsole) -> bool:
    launcher = run.launcher()
    if launcher is None or launcher.pid == os.getpid():
        return False
    console.print(f"  The launcher (pid {launcher.pid}) is asked to stop its services")
    with suppress(ProcessLookupError):
        os.kill(launcher.pid, signal.SIGTERM)
    deadline = time.monotonic() + _LAUNCHER_SECONDS
    while launcher.alive:
        if time.monotonic() > deadline:
            raise ServiceError(f"the launcher (pid {launcher.pid}) does not end")
        time.sleep(0.1)
    return True


def status(services: Sequence[Service], run: RunFolder, console: LaunchConsole) -> bool:
    """Print what runs where; True when all services are healthy."""
    launcher = run.launcher()
    if launcher:
        console.print(f"A launcher runs (pid {launcher.pid}).")
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
        return f"has ended by itself. Its log is {record.log}; the last lines:\n{lines}"
    if record and launched:
        word = "starting" if state is State.ABSENT else state.value
        return f"{word} (pid {record.identity.pid}, log {record.log})"
    if state is State.ABSENT:
        return str(state.value)
    owner = find_port_owner(service.port) or "a process that cannot be seen"
    if state is State.HEALTHY:
        return f"{state.value}, not started by the launcher: {owner}"
    return f"{State.OTHER_PROCESS.value}: {owner}"
