"""The verb ``tune``: search better parameters, and write them into the parameters file."""

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

import typer

from rossmann.cli.terminal import echo, progress, show_table
from rossmann.cli.training import ProfileOption, parse_days, prepare_dataset
from rossmann.installation import shell_command

if TYPE_CHECKING:
    from datetime import date

    from rossmann.data.panel.panel import Panel
    from rossmann.models.tuning.blend_weights import WeightsResult
    from rossmann.models.tuning.search import SearchConfig, TrialResult, TuningResult
    from rossmann.settings import Settings


Changes = dict[tuple[str, ...], float | int]

MemberOption = Annotated[str, typer.Option(help="lightgbm, xgboost or catboost; empty: all")]
TrialsOption = Annotated[int, typer.Option(min=1, help="in total, with those of an earlier run")]
MinutesOption = Annotated[float, typer.Option(min=0, help="limit for each member; 0 is no limit")]
OriginsOption = Annotated[str, typer.Option(help="days, with commas; empty: the settings' windows")]
ChecksOption = Annotated[int, typer.Option(min=1, max=20, help="new seeds on which it must win")]
FreshOption = Annotated[
    bool, typer.Option("--fresh/--resume", help="drop an earlier run, or continue it")
]
WeightsOption = Annotated[bool, typer.Option("--weights", help="tune the blend's weights instead")]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="show the change, write nothing")]


def add_verbs(app: typer.Typer) -> None:
    """Add this module's verb to the command line."""
    app.command()(tune)


def tune(
    profile: ProfileOption = "full",
    member: MemberOption = "",
    trials: TrialsOption = 20,
    minutes: MinutesOption = 0,
    origins: OriginsOption = "",
    checks: ChecksOption = 4,
    fresh: FreshOption = False,
    weights: WeightsOption = False,
    dry_run: DryRunOption = False,
) -> None:
    """Look for better parameters, and write what is better into the parameters file.

    Judged by the mean capped RMSPE of the backtest windows. A killed search goes on where it was.
    The change is shown as a diff; nothing is written unless it is better by more than noise.

    Example: rossmann tune --member lightgbm --trials 30 --origins 2014-06-13,2015-04-26
    """
    from rossmann.data.panel.panel import open_panel
    from rossmann.installation import params_file
    from rossmann.models.evaluation.backtest import origins_to_offsets
    from rossmann.models.tuning.params_file import check_writable
    from rossmann.models.tuning.search import SearchConfig, current_params
    from rossmann.settings import load_settings

    if weights and member:
        raise typer.BadParameter("--weights tunes the blend of all members: leave --member out")
    settings = load_settings()
    days = parse_days(origins)
    members = [member] if member else list(settings.profile(profile).members)
    for name in members:
        current_params(settings, profile, name)
    if not dry_run:
        # A search takes hours: whether its result can be written is checked before.
        check_writable(params_file(), os.environ)
    panel = open_panel(prepare_dataset(settings))
    offsets = origins_to_offsets(panel, days)
    if weights:
        return _tune_weights(settings, panel, profile, offsets, dry_run)
    for name in members:
        search = SearchConfig(name, profile, trials, minutes, offsets, checks, fresh)
        _tune_member(settings, panel, search, dry_run)
    return None


def _tune_member(
    settings: "Settings", panel: "Panel", search: "SearchConfig", dry_run: bool
) -> None:
    from rossmann.models.tuning.search import tune as run_search

    result = run_search(settings, panel, search, progress)
    _show_trials(result)
    if result.best == result.current:
        echo(f"{search.member}: no trial was better than the present parameters")
        return
    _show_checks(result)
    text = (
        f"{search.member}: gain {result.gain:.4f} capped RMSPE on {len(result.checks)} fresh seeds"
    )
    _apply_change(("profiles", search.profile, "members", search.member), result, text, dry_run)


def _tune_weights(
    settings: "Settings", panel: "Panel", profile: str, offsets: tuple[int, ...], dry_run: bool
) -> None:
    from rossmann.models.tuning.blend_weights import tune_weights

    result = tune_weights(settings, panel, profile, offsets, progress)
    _show_weights(result)
    if result.best == result.current:
        echo("weights: no mix was better than the present one")
        return
    text = f"weights: gain {result.gain:.4f} capped RMSPE on windows that did not choose them"
    _apply_change(("profiles", profile, "weights"), result, text, dry_run)


def _apply_change(
    section: tuple[str, ...], result: "TuningResult | WeightsResult", text: str, dry_run: bool
) -> None:
    """Show the change of a section as a diff; write it where it is significant and no dry run."""
    from rossmann.errors import SettingsError
    from rossmann.installation import params_file
    from rossmann.models.tuning.params_file import (
        diff,
        read_numbers,
        read_text,
        replace_numbers,
        write_params_text,
    )
    from rossmann.models.tuning.search import MIN_GAIN

    path = params_file()
    before = read_text(path)
    old = _changes(section, result.best, result.current)
    new = _changes(section, result.current, result.best)
    if read_numbers(before, old) != old:
        values = ", ".join(f"{'.'.join(key)}: {value:g}" for key, value in new.items())
        raise SettingsError(f"{path} was changed meanwhile; not written: {values}")
    after = replace_numbers(before, new)
    echo(diff(before, after, path.name))
    if not result.is_significant:
        echo(f"{text}: no more than noise ({MIN_GAIN}, every check must win); nothing is written")
    elif dry_run:
        echo(f"{text}; not written (--dry-run)")
    else:
        write_params_text(path, after)
        echo(f"{text}; written to {path}: review it with git diff, then: {shell_command('train')}")


def _changes(
    section: tuple[str, ...], before: Mapping[str, float | int], after: Mapping[str, float | int]
) -> Changes:
    """The numbers of ``after`` that differ from ``before``."""
    return {(*section, name): value for name, value in after.items() if value != before[name]}


def _show_trials(result: "TuningResult") -> None:
    names = list(result.current)
    dates = sorted({day for trial in result.trials for day in trial.windows})
    header = ("trial", "capped RMSPE", *map(str, dates), "seconds", *names)
    show_table(header, [_trial_row(trial, dates, names) for trial in result.trials])


def _trial_row(trial: "TrialResult", dates: "list[date]", names: list[str]) -> list[str]:
    mean = "stopped" if trial.error is None else f"{trial.error:.5f}"
    windows = [f"{trial.windows[day]:.4f}" if day in trial.windows else "" for day in dates]
    values = [f"{trial.params[name]:g}" for name in names]
    return [str(trial.index), mean, *windows, f"{trial.seconds:.0f}", *values]


def _show_checks(result: "TuningResult") -> None:
    rows = [
        [str(k), f"{present:.5f}", f"{best:.5f}", f"{present - best:+.5f}"]
        for k, (present, best) in enumerate(result.checks, 1)
    ]
    show_table(("fresh seed", "present", "best", "gain"), rows)


def _show_weights(result: "WeightsResult") -> None:
    def format_weights(mix: Mapping[str, float]) -> str:
        return ", ".join(f"{name} {weight:g}" for name, weight in mix.items())

    echo(f"present: {format_weights(result.current)}")
    echo(f"best:    {format_weights(result.best)}")
    rows = [
        [
            str(window.origin),
            f"{window.current:.5f}",
            f"{window.cross_validated:.5f}",
            f"{window.best:.5f}",
        ]
        for window in result.windows
    ]
    show_table(("capped RMSPE from", "present", "chosen by the others", "best of all"), rows)
