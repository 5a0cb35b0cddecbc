"""Verbs of an installation: services, their settings, backup and restore, and the documentation."""

import json
import os
import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rossmann.cli.terminal import echo, progress
from rossmann.installation import shell_command

if TYPE_CHECKING:
    from rossmann.settings import Settings

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
    app.command()(backup)
    app.command()(restore)
    app.command()(docs)


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


def backup(
    folder: Annotated[Path, typer.Argument(help="a new folder, better on another disk")],
) -> None:
    """Copy tables, registry, prediction log and digests of keys, while the services run.

    Run it as the user of the services, with their environment. Databases are copied as of one
    moment, and checked. The folder is there when it is complete, never before. What lies in other
    places, such as a log in PostgreSQL, is named and not copied.

    Example: rossmann backup /backup/rossmann/monday
    """
    from rossmann.backup.create import back_up
    from rossmann.backup.file_copy import megabytes
    from rossmann.launcher.stop_signals import Interrupts
    from rossmann.settings import load_settings

    with Interrupts():  # so that SIGTERM, too, leaves no draft
        done = back_up(load_settings(), folder, progress)
    for name in done.databases:
        echo(f"{name:<24}  integrity check ok, {megabytes(done.manifest.files[name].size)}")
    _show(done.manifest.summary())
    for text in done.manifest.not_included:
        echo(f"NOT in the backup: {text}")
    echo(f"saved in {done.folder}")


def restore(
    folder: Annotated[Path, typer.Argument(help="the folder of a backup")],
    check: Annotated[
        bool, typer.Option("--check", help="check the backup's files, restore nothing")
    ] = False,
) -> None:
    """Copy a backup into the empty data folder that ROSSMANN_DATA_DIR names.

    Stop the services first. Every file is compared with its digest before anything is written. A
    data folder with any content is refused.

    Example: ROSSMANN_DATA_DIR=/srv/restored rossmann restore /backup/rossmann/monday
    """
    from rossmann.backup.restore import check_backup
    from rossmann.backup.restore import restore as restore_backup
    from rossmann.launcher.stop_signals import Interrupts
    from rossmann.settings import load_settings

    if check:
        _show(check_backup(folder, progress).summary())
        echo(f"{folder} is whole: every file is as it was saved")
        return
    settings = load_settings()
    with Interrupts():
        done = restore_backup(settings, folder, progress)
    _show(done.manifest.summary())
    for text in done.notes:
        echo(f"note: {text}")
    echo(f"restored to {settings.data_dir}; next: {shell_command('features')}")
    echo("then start the services (rossmann up, or systemctl start rossmann.target)")


def _show(lines: list[tuple[str, str]]) -> None:
    for name, text in lines:
        echo(f"{name:<10}  {text}")


def docs(
    context: typer.Context,
    build: Annotated[bool, typer.Option("--build", help="build it, and serve nothing")] = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="build it into this folder instead")
    ] = None,
    write_reference: Annotated[
        bool, typer.Option("--write-reference", help="write the pages below docs/reference/ anew")
    ] = False,
    screenshots: Annotated[
        bool, typer.Option("--screenshots", help="take docs/images/ anew from the dashboard")
    ] = False,
) -> None:
    """Build the documentation and serve it until Ctrl-C.

    The API and the dashboard have it too, below /documentation/, once it is built.
    Example: rossmann docs
    """
    from rossmann.documentation.build import build_site
    from rossmann.installation import documentation_source
    from rossmann.settings import load_settings

    chosen = load_settings()
    pages = documentation_source() / "docs"
    if write_reference:
        _write_reference(context, pages)
    if screenshots:
        from rossmann.documentation.screenshots import take_screenshots

        for file in take_screenshots(chosen.dashboard_url, pages / "images"):
            echo(f"  {file.name}")
    if (write_reference or screenshots) and not (build or output):
        return
    site = output or chosen.site_dir
    built = build_site(site.resolve())
    echo(f"Documentation {'built' if built else 'is up to date'}: {site}")
    if not (build or output):
        _serve_documentation(chosen)


def _write_reference(context: typer.Context, pages: Path) -> None:
    from rossmann.documentation.reference import reference_pages
    from rossmann.filesystem.atomic_write import write_text_atomic

    for name, text in reference_pages(context.find_root().command).items():
        write_text_atomic(pages / name, text, 0o644)
        echo(f"  {name}")


def _serve_documentation(settings: "Settings") -> None:
    import uvicorn
    from starlette.applications import Starlette
    from starlette.routing import Mount

    from rossmann.addresses import url_host
    from rossmann.serving.server import bind
    from rossmann.web import DocumentationSite

    host, port = settings.host, settings.docs_port
    site = Starlette(routes=[Mount("/", DocumentationSite(settings.site_dir))])
    # Readers that pause between pages keep their connection.
    config = uvicorn.Config(site, log_level="warning", timeout_keep_alive=75)
    with bind(host, port, "ROSSMANN_DOCS_PORT") as listener:
        echo(f"http://{url_host(host)}:{port}/  (Ctrl-C ends it)")
        uvicorn.Server(config).run(sockets=[listener])
