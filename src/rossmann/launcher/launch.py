"""The launch as a whole: find what runs, prepare, start, tell, watch, stop.

MERGED: The plan of our own launch: which services, what is made first, what is said at the end.
"""

import os
import sys
import webbrowser
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from rossmann.errors import PortInUseError, ServiceError
from rossmann.launcher.console import LaunchConsole
from rossmann.launcher.first_run import select_dataset
from rossmann.launcher.run_files import LauncherAlreadyRunning, RunFolder
from rossmann.launcher.services import Service, default_services
from rossmann.launcher.stop_signals import Interrupts
from rossmann.launcher.supervisor import Supervisor
from rossmann.serving.client.client import Client
from rossmann.serving.schemas.models import Health
from rossmann.settings import Settings


@dataclass(frozen=True)
class LaunchPlan:
    """What a launch does.

    ``services``: in the order in which they need each other. ``early``: how many of them are
    started before the preparation, which runs while they come up. ``preparation``: a command that
    makes data and a first model where they are missing; empty: none. ``agrees``: a reason why the
    services that run already cannot be used, or "".
    """

    services: Sequence[Service]
    logs: Path
    run: RunFolder
    start_before_preparation: int = 0
    preparation: Sequence[str] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    summary: Callable[[], str] = lambda: ""
    conflict: Callable[[Sequence[Service]], str] = lambda running: ""
    open_url: str = ""


def up(plan: LaunchPlan, screen: LaunchConsole, *, detach: bool = False) -> None:
    """Bring all services up; then stay until a signal (``detach``: return and leave them running).

    Uses what runs already and leaves it running. Raises ``PortTaken`` or ``ServiceError`` after
    ending all that this call has started; ``Interrupted`` likewise, on a signal.
    """
    try:
        with plan.run.lock(addresses(plan.services)):
            _up(plan, screen, detach)
    except LauncherAlreadyRunning as other:
        screen.print(f"A launch is under way already: {other.text}")
        screen.print("See it with: rossmann status. End it with: rossmann down")


def _up(plan: LaunchPlan, screen: LaunchConsole, detach: bool) -> None:
    with Interrupts() as interrupts:
        supervisor = Supervisor(plan.run, plan.logs, screen, interrupts)
        keep = False
        try:
            _bring_up(plan, screen, supervisor)
            _tell(plan, screen, supervisor.started, detach)
            keep = detach
            if supervisor.started and not detach:
                supervisor.watch()
        finally:
            if not keep:
                supervisor.stop()


def _bring_up(plan: LaunchPlan, screen: LaunchConsole, supervisor: Supervisor) -> None:
    missing = supervisor.missing(plan.services)
    conflict = plan.conflict([one for one in plan.services if one not in missing])
    if conflict:
        raise PortInUseError(conflict)
    early = [one for one in plan.services[: plan.start_before_preparation] if one in missing]
    for service in early:
        supervisor.start(service)
    if plan.preparation:
        supervisor.run_step(plan.preparation, plan.environment)
    for service in missing:
        if service not in early:
            supervisor.start(service)
        supervisor.wait_healthy(service)


def _tell(plan: LaunchPlan, screen: LaunchConsole, started: Sequence[str], detach: bool) -> None:
    screen.print("")
    screen.print(f"Ready after {screen.seconds:.0f} s. {plan.summary()}".rstrip())
    width = max(len(service.name) for service in plan.services)
    for service in reversed(plan.services):
        screen.print(f"  {service.name:<{width}}  {service.address}")
    screen.print(f"Logs: {plan.logs}")
    if not started:
        screen.print("All of it ran already, and goes on. Stop it with: rossmann down")
    elif detach:
        screen.print("Left running. Stop with: rossmann down")
    else:
        screen.print(f"Ctrl-C stops what was started here: {', '.join(started)}")
    if plan.open_url:
        open_browser(plan.open_url)


def addresses(services: Sequence[Service]) -> str:
    """All addresses in one line."""
    return ", ".join(f"{one.name}: {one.address}" for one in services)


def open_browser(url: str) -> None:
    """Show the page if there is a screen to show it on; never fails, never takes the terminal."""
    has_screen = sys.platform == "darwin" or any(
        os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY")
    )
    if has_screen:
        with suppress(webbrowser.Error, OSError):
            webbrowser.open(url)


def default_plan(settings: Settings, *, browser: bool) -> LaunchPlan:
    """MLflow early, then data and model, then the API and the dashboard.

    Raises ``MissingData`` where only one of the real tables is there.
    """
    services = default_services(settings)
    api, dashboard = services[-2:]
    wanted = select_dataset(settings)

    def agrees(running: Sequence[Service]) -> str:
        health = _health(api) if api in running else None
        if health is None or health.data is None or health.data.dataset == wanted:
            return ""
        return (
            f"the API at {api.address} runs already and serves the {health.data.label}, but this"
            f" launch is for the {wanted} data; end it first (rossmann down), or choose another"
            " data folder and other ports: ROSSMANN_DATA_DIR, ROSSMANN_API_PORT"
        )

    return LaunchPlan(
        services=services,
        logs=settings.logs_dir,
        run=RunFolder(settings.run_dir),
        start_before_preparation=len(services) - 2,
        preparation=[sys.executable, "-m", "rossmann.cli", "prepare"],
        environment={
            "ROSSMANN_DATA_DIR": str(settings.data_dir),
            "ROSSMANN_DEMO": "1" if settings.demo else "0",
        },
        summary=lambda: model_summary(api),
        conflict=agrees,
        open_url=dashboard.address if browser else "",
    )


def model_summary(api: Service) -> str:
    """Which model answers and which data it comes from, in one line; "" where none does."""
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
