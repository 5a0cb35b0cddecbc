"""The verb that looks for better parameters."""

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

import typer

from rossmann.cli.terminal import echo, progress, show_table
from rossmann.cli.training import ProfileOption, named_days, prepared

if TYPE_CHECKING:
    from datetime import date

    from rossmann.data.panel.panel import Panel
    from rossmann.models.tuning.blend_weights import WeightsResult
    from rossmann.models.tuning.search import SearchConfig, TrialResult, TuningResult
    from rossmann.settings import Settings


Changes = dict[tuple[str, ...], float | int]


def add_verbs(app: typer.Typer) -> None:
    """Add this module's verb to the command line."""
    app.command()(tune)


def tune(
    profile: ProfileOption = "full",
    member: Annotated[
        str, typer.Option(help="lightgbm, xgboost or catboost; empty: each in turn")
    ] = "",
    trials: Annotated[
        int, typer.Option(min=1, help="in all, those of an interrupted run included")
    ] = 20,
    minutes: Annotated[
        float, typer.Option(min=0, help="for each member: then no trial begins; 0 is no limit")
    ] = 0,
    origins: Annotated[
        str, typer.Option(help="days to forecast from, with commas; empty: the settings' windows")
    ] = "",
    checks: Annotated[
        int, typer.Option(min=1, max=20, help="fresh seeds on which the best must win")
    ] = 4,
    fresh: Annotated[
        bool, typer.Option("--fresh/--resume", help="forget an earlier run, or go on with it")
    ] = False,
    weights: Annotated[
        bool, typer.Option("--weights", help="tune the blend's weights, not the members")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="show the change, leave the parameters file alone")
    ] = False,
) -> None:
    """Look for better parameters, and write what is better into the parameters file.

    Judged by the mean RMSPE of the backtest windows. A killed search goes on where it was. The
    change is shown as a diff; nothing is written unless it is better by more than noise.

    Example: rossmann tune --member lightgbm --trials 30 --origins 2014-06-13,2015-04-26
    """
    from rossmann.data.panel.panel import open_panel
    from rossmann.models.evaluation.windows import origins_to_offsets
    from rossmann.models.tuning.params_file import check_writable
    from rossmann.models.tuning.search import SearchConfig, present_params
    from rossmann.settings import load_settings, params_file

    if weights and member:
        raise typer.BadParameter("--weights tunes the blend of all members: leave --member out")
    settings = load_settings()
    named = named_days(origins)
    members = [member] if member else list(settings.profile(profile).members)
    for name in members:
        present_params(settings, profile, name)
    if not dry_run:
        # A search takes hours: that its result could not be written must be said before.
        check_writable(params_file(), os.environ)
    panel = open_panel(prepared(settings))
    ends = origins_to_offsets(panel, named)
    if weights:
        _blend(settings, panel, profile, ends, dry_run)
        return
    for name in members:
        _member(
            settings,
            panel,
            SearchConfig(name, profile, trials, minutes, ends, checks, fresh),
            dry_run,
        )


def _member(settings: "Settings", panel: "Panel", search: "SearchConfig", dry_run: bool) -> None:
    from rossmann.models.tuning.search import tune as look

    found = look(settings, panel, search, progress)
    _show_trials(found)
    if found.best == found.present:
        echo(f"{search.member}: no trial was better than the present parameters")
        return
    _show_checks(found)
    above = ("profiles", search.profile, "members", search.member)
    before, after = found.present, found.best
    what = f"{search.member}: gain {found.gain:.4f} RMSPE on {len(found.checks)} fresh seeds"
    _settle(_changes(above, before, after), _changes(above, after, before), what,
            found.is_significant, dry_run)  # fmt: skip


def _blend(
    settings: "Settings", panel: "Panel", profile: str, ends: tuple[int, ...], dry_run: bool
) -> None:
    from rossmann.models.tuning.blend_weights import tune_weights

    found = tune_weights(settings, panel, profile, ends, progress)
    _show_mixes(found)
    if found.best == found.present:
        echo("weights: no mix was better than the present one")
        return
    above = ("profiles", profile, "weights")
    what = f"weights: gain {found.gain:.4f} RMSPE on windows that did not choose them"
    before, after = found.present, found.best
    _settle(_changes(above, before, after), _changes(above, after, before), what,
            found.is_significant, dry_run)  # fmt: skip


def _changes(
    above: tuple[str, ...], before: Mapping[str, float | int], after: Mapping[str, float | int]
) -> Changes:
    return {(*above, name): value for name, value in after.items() if value != before[name]}


def _settle(changes: Changes, old: Changes, what: str, worth_it: bool, dry_run: bool) -> None:
    """Show the change as a diff; write it where it is worth it and was asked for."""
    from rossmann.errors import SettingsError
    from rossmann.models.tuning.params_file import (
        diff,
        read_numbers,
        read_text,
        replace_numbers,
        write_text_atomic,
    )
    from rossmann.models.tuning.search import MIN_GAIN
    from rossmann.settings import params_file

    path = params_file()
    before = read_text(path)
    if read_numbers(before, old) != old:
        values = ", ".join(f"{'.'.join(place)}: {value:g}" for place, value in changes.items())
        raise SettingsError(f"{path} was changed meanwhile; not written: {values}")
    after = replace_numbers(before, changes)
    echo(diff(before, after, path.name))
    if not worth_it:
        echo(f"{what}: no more than noise ({MIN_GAIN}, every check must win); nothing is written")
    elif dry_run:
        echo(f"{what}; not written (--dry-run)")
    else:
        write_text_atomic(path, after)
        echo(f"{what}; written to {path}: review it with git diff, then: rossmann train")


def _show_trials(found: "TuningResult") -> None:
    names = list(found.present)
    dates = sorted({day for line in found.trials for day in line.windows})
    header = ("trial", "RMSPE", *map(str, dates), "seconds", *names)
    show_table(header, [_trial(line, dates, names) for line in found.trials])


def _trial(line: "TrialResult", dates: "list[date]", names: list[str]) -> list[str]:
    mean = "stopped" if line.error is None else f"{line.error:.5f}"
    windows = [f"{line.windows[day]:.4f}" if day in line.windows else "" for day in dates]
    values = [f"{line.params[name]:g}" for name in names]
    return [str(line.place), mean, *windows, f"{line.seconds:.0f}", *values]


def _show_checks(found: "TuningResult") -> None:
    rows = [
        [str(k), f"{present:.5f}", f"{best:.5f}", f"{present - best:+.5f}"]
        for k, (present, best) in enumerate(found.checks, 1)
    ]
    show_table(("fresh seed", "present", "best", "gain"), rows)


def _show_mixes(found: "WeightsResult") -> None:
    def told(mix: Mapping[str, float]) -> str:
        return ", ".join(f"{name} {weight:g}" for name, weight in mix.items())

    echo(f"present: {told(found.present)}")
    echo(f"best:    {told(found.best)}")
    rows = [
        [str(line.origin), f"{line.present:.5f}", f"{line.others:.5f}", f"{line.best:.5f}"]
        for line in found.windows
    ]
    show_table(("RMSPE from", "present", "chosen by the others", "best of all"), rows)
