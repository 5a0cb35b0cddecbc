"""The launch as a whole (``rossmann up``): plan, prepare, start, report, watch, stop."""

import os
import sys
import webbrowser
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from rossmann.errors import PortInUseError, ServiceError
from rossmann.installation import shell_command
from rossmann.launcher.console import LaunchConsole
from rossmann.launcher.first_run import select_dataset
from rossmann.launcher.processes import LauncherRunningError, RunFolder
from rossmann.launcher.restarts import watch
from rossmann.launcher.services import Service, default_services
from rossmann.launcher.stop_signals import Interrupts
from rossmann.launcher.supervisor import Supervisor
from rossmann.serving.client.client import Client
from rossmann.serving.schemas.models import Health
from rossmann.settings import Settings


@dataclass(frozen=True)
class LaunchPlan:
    """What a launch does.

    ``services``: in the order in which they need each other; the first
    ``start_before_preparation`` of them start up while the preparation runs. ``preparation``: a
    command that makes data and a first model where they are missing; empty: none. ``summary``: a
    line for the end. ``guard``: a command that restarts services after a detached launch; empty:
    none does. ``conflict``: why the services that run already cannot be used, or "".
    """

    services: Sequence[Service]
    logs: Path
    run: RunFolder
    start_before_preparation: int = 0
    preparation: Sequence[str] = ()
    guard: Sequence[str] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    summary: Callable[[], str] = lambda: ""
    conflict: Callable[[Sequence[Service]], str] = lambda running: ""
    open_url: str = ""


def up(plan: LaunchPlan, console: LaunchConsole, *, detach: bool = False) -> None:
    """Bring all services up; then stay until a signal (``detach``: return and leave them running).

    Uses what runs already and leaves it running. After ending all that this call has started,
    raises ``PortInUseError`` or ``ServiceError``, and ``Interrupted`` on a signal.
    """
    try:
        with plan.run.lock(addresses(plan.services)):
            _launch(plan, console, detach)
    except LauncherRunningError as error:
        console.print(f"A launch is under way already: {error.text}")
        console.print(f"See it with: {shell_command('status')}")
        console.print(f"End it with: {shell_command('down')}")


def _launch(plan: LaunchPlan, console: LaunchConsole, detach: bool) -> None:
    with Interrupts() as interrupts:
        supervisor = Supervisor(plan.run, plan.logs, console, interrupts)
        keep_running = False
        try:
            _start_missing(plan, console, supervisor)
            if detach and supervisor.started and plan.guard:
                supervisor.leave_guard(plan.guard, plan.environment)
            _report(plan, console, supervisor.started, detach)
            keep_running = detach
            if supervisor.started and not detach:
                own = [one for one in plan.services if one.name in supervisor.started]
                watch(own, supervisor, plan.run, console)
        finally:
            if not keep_running:
                supervisor.stop()


def _start_missing(plan: LaunchPlan, console: LaunchConsole, supervisor: Supervisor) -> None:
    missing = supervisor.missing(plan.services)
    conflict = plan.conflict([service for service in plan.services if service not in missing])
    if conflict:
        raise PortInUseError(conflict)
    early = [one for one in missing if one in plan.services[: plan.start_before_preparation]]
    for service in early:
        supervisor.start(service)
    if plan.preparation:
        supervisor.run_step(plan.preparation, plan.environment)
    for service in missing:
        if service not in early:
            supervisor.start(service)
        supervisor.wait_healthy(service)


def _report(plan: LaunchPlan, console: LaunchConsole, started: Sequence[str], detach: bool) -> None:
    console.print("")
    console.print(f"Ready after {console.seconds:.0f} s. {plan.summary()}".rstrip())
    width = max(len(service.name) for service in plan.services)
    for service in reversed(plan.services):
        console.print(f"  {service.name:<{width}}  {service.address}")
    console.print(f"Logs: {plan.logs}")
    if not started:
        console.print("All of it ran already, and goes on.")
        console.print(f"Stop it with: {shell_command('down')}")
    elif detach:
        console.print(f"Left running. Stop it with: {shell_command('down')}")
    else:
        console.print(f"Ctrl-C stops what was started here: {', '.join(started)}")
    if plan.open_url:
        open_browser(plan.open_url)


def addresses(services: Sequence[Service]) -> str:
    """All addresses in one line."""
    return ", ".join(f"{one.name}: {one.address}" for one in services)


def open_browser(url: str) -> None:
    """Show the page where there is a graphical screen; never fails, never takes the terminal."""
    has_screen = sys.platform == "darwin" or any(
        os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY")
    )
    if has_screen:
        with suppress(webbrowser.Error, OSError):
            webbrowser.open(url)


def default_plan(settings: Settings, *, browser: bool) -> LaunchPlan:
    """MLflow early, then data and model, then the API and the dashboard.

    Raises ``DataNotFoundError`` where only one of the real tables is there.
    """
    services = default_services(settings)
    api, dashboard = services[-2:]
    dataset = select_dataset(settings)
    run = RunFolder(settings.run_dir)

    def conflict(running: Sequence[Service]) -> str:
        health = _health(api) if api in running else None
        if health is None or health.data is None or health.data.dataset == dataset:
            return ""
        return (
            f"the API at {api.address} runs already and serves the {health.data.label}, but this"
            f" launch is for the {dataset} data; end it first"
            f" ({shell_command('down')}), or choose another"
            " data folder and other ports: ROSSMANN_DATA_DIR, ROSSMANN_API_PORT"
        )

    return LaunchPlan(
        services=services,
        logs=settings.logs_dir,
        run=run,
        start_before_preparation=len(services) - 2,
        preparation=[sys.executable, "-m", "rossmann.cli", "prepare"],
        guard=[sys.executable, "-m", "rossmann.cli", "guard"],
        environment={
            "ROSSMANN_DATA_DIR": str(settings.data_dir),
            "ROSSMANN_DEMO": "1" if settings.demo else "0",
        },
        summary=lambda: model_summary(api),
        conflict=conflict,
        open_url=dashboard.address if browser else "",
    )


def model_summary(api: Service) -> str:
    """The model that serves and the data it comes from, in one line; "" where none serves."""
    health = _health(api)
    if health is None:
        return ""
    data = health.data.label if health.data else "unknown data"
    line = f"Model version {health.model_version} ({health.model_stage}), data: {data}."
    return f"{line} {health.status}: {health.reason}" if health.reason else line


def _health(api: Service) -> Health | None:
    try:
        with Client(api.address, timeout=5) as client:
            return client.health()
    except ServiceError:
        return None
