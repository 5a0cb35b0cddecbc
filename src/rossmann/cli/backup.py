"""Verbs backup and restore."""

from pathlib import Path
from typing import Annotated

import typer

from rossmann.cli.terminal import echo, progress
from rossmann.installation import shell_command


def add_verbs(app: typer.Typer) -> None:
    """Add this module's verbs to the command line."""
    app.command()(backup)
    app.command()(restore)


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
