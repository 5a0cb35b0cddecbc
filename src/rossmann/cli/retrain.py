"""The verb for a scheduler: retrain."""

import getpass
from pathlib import Path
from typing import Annotated

import typer

from rossmann.cli.terminal import echo, progress


def add_verbs(app: typer.Typer) -> None:
    """Add this module's verb to the command line."""
    app.command()(retrain)


def retrain(
    profile: Annotated[
        str, typer.Option(help="full (as accurate as it gets) or quick (under a minute)")
    ] = "full",
    promote: Annotated[
        bool, typer.Option("--promote", help="go on to Production where the gate lets it pass")
    ] = False,
    report: Annotated[Path | None, typer.Option(help="write the report here, too, as JSON")] = None,
) -> None:
    """Check, features, train, gate, Staging: make and judge a new version, if anything is new.

    Exit codes: 0 a new version is in Staging (with --promote: in Production); 10 nothing new, so
    nothing was trained; 11 the new version did not pass the gate and stays without a stage; 12
    another retraining is under way; 1 something is broken, as the line says; 128 and more: a
    signal ended it. Whatever ended it, run it again: it goes on where it was cut short. Reports
    are kept in the data folder under retrain/.

    Example: rossmann retrain --promote --report last.json
    """
    from rossmann.launcher.stop_signals import Interrupts
    from rossmann.models.training.retrain import RetrainOutcome, RetrainRequest
    from rossmann.models.training.retrain import retrain as run
    from rossmann.settings import load_settings

    order = RetrainRequest(profile, getpass.getuser(), promote, report, progress)
    with Interrupts():
        done = run(load_settings(), order)
    number = "" if done.version is None else f"version {done.version.version}"
    match done.outcome:
        case RetrainOutcome.STAGED:
            echo(f"{number} is in {done.version.stage}" if done.version else "")
        case RetrainOutcome.NOTHING_NEW:
            echo(f"nothing new: {number} was made from these tables, parameters and code")
        case _:
            echo(f"{number} did not pass the gate: see rossmann models show, or the report")
    echo(f"report: {done.report}")
    if done.outcome is not RetrainOutcome.STAGED:
        raise typer.Exit(int(done.outcome))
