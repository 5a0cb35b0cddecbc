"""Verbs that run services: up, down, status, serve, mlflow, dashboard; and settings."""

import json
import os
import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Annotated

import typer

from rossmann.cli.terminal import echo

DemoOption = Annotated[bool, typer.Option("--demo", help="demo data even where real tables are")]


def add_verbs(app: typer.Typer) -> None:
    """Add this module's verbs to the command line."""
    app.command()(up)
    app.command()(down)
    app.command()(status)
    app.command()(serve)
    app.command()(mlflow)
    app.command()(dashboard)
    app.command()(settings)
    app.command()(prepare)
    app.command(hidden=True)(guard)


def up(
    demo: DemoOption = False,
    detach: Annotated[bool, typer.Option("--detach", help="leave it running, return")] = False,
    no_browser: Annotated[bool, typer.Option("--no-browser", help="open no page")] = False,
    stop: Annotated[bool, typer.Option("--stop", help="the same as the verb down")] = False,
    show_status: Annotated[
        bool, typer.Option("--status", help="the same as the verb status")
    ] = False,
) -> None:
    """Start MLflow, the API and the dashboard; make data and a first model where there are none.

    Ctrl-C stops what it started. Example: rossmann up --demo --detach
    """
    if stop and show_status:
        raise typer.BadParameter("--stop and --status exclude each other")
    if stop:
        return down()
    if show_status:
        return status()
    from rossmann.launcher.console import LaunchConsole
    from rossmann.launcher.launch import default_plan
    from rossmann.launcher.launch import up as launch
    from rossmann.settings import load_settings

    chosen = load_settings(demo=True) if demo else load_settings()
    launch(default_plan(chosen, browser=not no_browser), LaunchConsole(), detach=detach)
    return None


def down() -> None:
    """End what launches have started, and nothing else.

    Example: rossmann down
    """
    from rossmann.launcher.console import LaunchConsole
    from rossmann.launcher.processes import RunFolder
    from rossmann.launcher.services import default_services
    from rossmann.launcher.supervisor import down as end
    from rossmann.settings import load_settings

    chosen = load_settings()
    end(default_services(chosen), RunFolder(chosen.run_dir), LaunchConsole())


def status() -> None:
    """Say what runs where, with which model; exit code 1 unless all services are healthy.

    Example: rossmann status
    """
    from rossmann.launcher.console import LaunchConsole
    from rossmann.launcher.launch import model_summary
    from rossmann.launcher.processes import RunFolder
    from rossmann.launcher.services import default_services
    from rossmann.launcher.supervisor import status as print_status
    from rossmann.settings import load_settings

    chosen = load_settings()
    services = default_services(chosen)
    healthy = print_status(services, RunFolder(chosen.run_dir), LaunchConsole())
    if line := model_summary(services[-2]):
        echo(line)
    if not healthy:
        raise typer.Exit(1)


def prepare() -> None:
    """Make data, features and a first Production version where they are missing.

    It needs MLflow. ``up`` does this before the API starts. Example: rossmann prepare
    """
    from rossmann.documentation.build import build_site
    from rossmann.errors import DocumentationError
    from rossmann.launcher.console import LaunchConsole
    from rossmann.launcher.first_run import prepare as make
    from rossmann.settings import load_settings

    chosen, console = load_settings(), LaunchConsole()
    if chosen.documentation_dir is None:
        try:
            # MLflow starts meanwhile.
            with console.step("documentation up to date"):
                build_site(chosen.site_dir)
        except (DocumentationError, OSError) as error:  # forecasts do not need it
            console.print(f"There is no documentation in the dashboard: {error}")
    make(chosen, console)


def guard() -> None:
    """What ``up --detach`` leaves behind: it restarts services that end by themselves."""
    from rossmann.launcher.console import LaunchConsole
    from rossmann.launcher.processes import RunFolder
    from rossmann.launcher.restarts import guard as watch
    from rossmann.launcher.services import default_services
    from rossmann.settings import load_settings

    chosen = load_settings()
    watch(default_services(chosen), RunFolder(chosen.run_dir), chosen.logs_dir, LaunchConsole())


def serve() -> None:
    """Run the prediction service until Ctrl-C.

    Example: ROSSMANN_API_PORT=8080 rossmann serve
    """
    from rossmann.filesystem.atomic_write import make_private_folder
    from rossmann.serving.server import run
    from rossmann.settings import load_settings

    chosen = load_settings()
    make_private_folder(chosen.log_dir)  # an earlier release left it to all
    run(chosen)


def mlflow() -> None:
    """Run the embedded MLflow server until Ctrl-C.

    Example: rossmann mlflow
    """
    from rossmann.launcher.mlflow_server import server_command, server_environment
    from rossmann.settings import load_settings

    _check_installed("mlflow")
    chosen = load_settings()
    _become(server_command(chosen), server_environment(chosen))


def dashboard() -> None:
    """Run the dashboard until Ctrl-C; it needs the API.

    Example: rossmann dashboard
    """
    from rossmann.dashboard.server import server_command, server_environment
    from rossmann.settings import load_settings

    _check_installed("streamlit")
    chosen = load_settings()
    _become(server_command(chosen), server_environment(chosen))


def settings() -> None:
    """Print all settings as JSON, without secrets.

    Example: rossmann settings
    """
    from rossmann.installation import params_file
    from rossmann.settings import load_settings

    chosen = load_settings()
    sys.stderr.write(f"  from the environment (ROSSMANN_*) and {params_file()}\n")
    echo(json.dumps(chosen.redacted(), indent=2))


def _check_installed(package: str) -> None:
    """Raise what an import of ``package`` would, which the other program would print as a trace."""
    if find_spec(package) is None:
        raise ModuleNotFoundError(name=package)


def _become(command: Sequence[str], environment: Mapping[str, str]) -> None:
    """Turn this process into the server, so that signals reach it and nothing stands between."""
    sys.stdout.flush()
    os.execve(command[0], list(command), {**os.environ, **environment})
