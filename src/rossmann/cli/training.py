"""Verbs that compute: features, train, reweight, backtest, and retrain for a scheduler."""

import getpass
import time
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rossmann.cli.models import VersionArgument
from rossmann.cli.terminal import echo, progress, show_table
from rossmann.installation import shell_command

if TYPE_CHECKING:
    from rossmann.data.make_dataset import DatasetInfo
    from rossmann.data.panel.panel import Panel
    from rossmann.models.evaluation.backtest import BacktestPlan, WindowScore
    from rossmann.models.training.reweight import Reweighting
    from rossmann.settings import Settings


ProfileOption = Annotated[str, typer.Option(help="full (most accurate) or quick (under a minute)")]
OriginsOption = Annotated[str, typer.Option(help="days to forecast from, with commas")]
WindowsOption = Annotated[int, typer.Option(min=0, max=100, help="windows before the last day")]
HorizonOption = Annotated[int, typer.Option(min=0, max=48, help="days a window; 0: window_days")]
OutputOption = Annotated[Path | None, typer.Option("-o", "--output", help="folder of the report")]
PromoteOption = Annotated[bool, typer.Option("--promote", help="to Production if the gate passes")]


def add_verbs(app: typer.Typer) -> None:
    """Add this module's verbs to the command line."""
    app.command()(features)
    app.command()(train)
    app.command()(reweight)
    app.command()(backtest)


def features() -> None:
    """Check and clean the raw tables, and compute the arrays that features are gathered from.

    Example: rossmann features
    """
    from rossmann.settings import load_settings

    info = prepare_dataset(load_settings())
    echo(f"data version {info.version} ({info.dataset}) is ready in {info.folder}")


def train(profile: ProfileOption = "full") -> None:
    """Fit the ensemble, backtest it, and register the version with its lineage.

    Example: rossmann train --profile quick
    """
    from rossmann.models.publishing.register import register
    from rossmann.models.registry.registry import Registry
    from rossmann.models.training.train import train as run_training
    from rossmann.settings import load_settings

    settings = load_settings()
    settings.profile(profile)
    # A fit takes minutes: whether MLflow can register it is checked before.
    with Registry(settings.tracking_uri) as registry:
        registry.ping()
    prepare_dataset(settings)
    trained = run_training(settings, profile, progress)
    _show_windows(trained.windows)
    version = register(trained, settings)
    _show_registered(version.version)


def reweight(version: VersionArgument) -> None:
    """Learn a version's filter weights, intervals, totals and bias anew; no member is fitted.

    From the windows of its backtest and from recent ones: days after its training data, forecast
    by its members. The new version has the same member files. Nothing is registered where nothing
    changes.

    Example: rossmann reweight 3
    """
    from rossmann.models.publishing.register import register
    from rossmann.models.registry.registry import Registry
    from rossmann.models.training.reweight import reweight as run_reweighting
    from rossmann.settings import load_settings

    settings = load_settings()
    with Registry.from_settings(settings) as registry:
        registry.find(version)
    prepare_dataset(settings)
    done = run_reweighting(settings, version, progress)
    number, windows = done.source.version, _count(done.recent_windows, "recent window")
    if done.registered is not None:
        echo(
            f"nothing new: version {done.registered.version} was made from version {number}, these"
            " tables, parameters and code"
        )
        return
    echo(f"reweighted version {number} by its backtest and {windows} of new days")
    show_table(("learned", "before", "now"), _learned_rows(done))
    if done.trained is None:
        echo(f"nothing changes: version {number} has these weights and bands, none is registered")
        return
    _show_windows(done.trained.windows)
    _show_registered(register(done.trained, settings).version)


def _learned_rows(done: "Reweighting") -> list[list[str]]:
    """What a table of a version's card was, and is."""
    from rossmann.models.calibration.bias_correction import BIAS_CORRECTION_KEY, GROUPS
    from rossmann.models.ensemble.ensemble import DAY_KINDS, FILTER_WEIGHTS_KEY

    cards = (done.card, done.tables)
    weights, bias = (
        [card.get(key, {}) for card in cards] for key in (FILTER_WEIGHTS_KEY, BIAS_CORRECTION_KEY)
    )
    rows = [
        [
            f"weight of the filter, {kind} days",
            *(f"{table.get(kind, 0.0):.2f}" for table in weights),
        ]
        for kind in DAY_KINDS
    ]
    for number, group in enumerate(GROUPS):
        factors = (f"{table['factors'][number]:.4f}" if table else "-" for table in bias)
        rows.append([f"factor of unbiased totals, {group}", *factors])
    rows.append(["rows that intervals come from", *(f"{c['intervals']['rows']:,}" for c in cards)])
    return rows


def _show_registered(number: int) -> None:
    echo(f"registered as version {number}; next: rossmann validate {number}")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def backtest(
    profile: ProfileOption = "full",
    origins: OriginsOption = "",
    windows: WindowsOption = 0,
    horizon: HorizonOption = 0,
    output: OutputOption = None,
) -> None:
    """Forecast past windows as of their origins and report the errors; registers nothing.

    The report is a page and its figures as JSON; both are logged to MLflow where it runs. Without
    --origins or --windows: those of the parameters file. Every window takes a fit.

    Example: rossmann backtest --profile quick --windows 3 --horizon 42 -o report
    """
    from rossmann.data.panel.panel import open_panel
    from rossmann.models.evaluation.backtest import (
        BacktestPlan,
        origins_to_offsets,
        rolling_offsets,
    )
    from rossmann.settings import load_settings

    settings = load_settings()
    settings.profile(profile)
    days = parse_days(origins)
    if days and windows:
        raise typer.BadParameter("give --origins or --windows, not both")
    panel = open_panel(prepare_dataset(settings))
    offsets = origins_to_offsets(panel, days) or rolling_offsets(
        windows, horizon or settings.window_days
    )
    plan = BacktestPlan(offsets, horizon, 0 if offsets else settings.later_windows)
    folder = output or settings.data_dir / "backtests" / time.strftime("%Y%m%dT%H%M%S")
    _run_backtest(settings, panel, profile, plan, folder)


def _run_backtest(
    settings: "Settings", panel: "Panel", profile: str, plan: "BacktestPlan", folder: Path
) -> None:
    """Run the backtest, write its report into ``folder``, print it and log it to MLflow."""
    from rossmann.errors import ServiceError
    from rossmann.models.calibration.filter_weights import cross_validate_filter_weights
    from rossmann.models.evaluation.backtest import backtest as run_backtest
    from rossmann.models.evaluation.backtest import score_window
    from rossmann.models.members.fit import first_training_day, sample_training_rows
    from rossmann.models.publishing.mlflow_client import log_backtest_run
    from rossmann.models.reports.html_report import write_html_report
    from rossmann.models.reports.segments import build_report_data
    from rossmann.models.training.train import data_summary

    rows = sample_training_rows(panel, settings.history_days, settings.seed)
    params = settings.profile(profile)
    forecasts = cross_validate_filter_weights(
        run_backtest(settings, panel, rows, params, progress, plan),
        first_training_day(panel, settings.history_days),
        params.weights,
    )
    about = data_summary(profile, panel)
    report = build_report_data(panel, forecasts, about, settings.chain_floor)
    write_html_report(folder, report)
    _show_windows([score_window(one) for one in forecasts], report["dominant_rows"])
    _show_bias(report["totals_bias"])
    _show_coverage(report["coverage"])
    if report["totals"]:
        _show_totals(report["totals"])
    echo(f"report: {folder / 'report.html'} (and report.json)")
    try:
        echo(f"logged: {log_backtest_run(settings, folder, report)}")
    except ServiceError as error:  # the report is complete without MLflow
        echo(f"not logged: {error}")


def retrain(
    profile: ProfileOption = "full",
    promote: PromoteOption = False,
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
    from rossmann.models.training.retrain import retrain as run_retrain
    from rossmann.settings import load_settings

    request = RetrainRequest(profile, getpass.getuser(), promote, report, progress)
    with Interrupts():
        result = run_retrain(load_settings(), request)
    number = "" if result.version is None else f"version {result.version.version}"
    match result.outcome:
        case RetrainOutcome.STAGED:
            echo(f"{number} is in {result.version.stage}" if result.version else "")
        case RetrainOutcome.NOTHING_NEW:
            echo(f"nothing new: {number} was made from these tables, parameters and code")
        case _:
            echo(
                f"{number} did not pass the gate: see {shell_command('models show')}, or the report"
            )
    echo(f"report: {result.report}")
    if result.outcome is not RetrainOutcome.STAGED:
        raise typer.Exit(int(result.outcome))


def parse_days(text: str) -> list[date]:
    """The days of ``--origins``, with commas between."""
    try:
        return [date.fromisoformat(part.strip()) for part in text.split(",") if part.strip()]
    except ValueError as error:
        raise typer.BadParameter(f"--origins takes days as YYYY-MM-DD: {error}") from error


def prepare_dataset(settings: "Settings") -> "DatasetInfo":
    """The dataset with its arrays, made where they are missing."""
    from rossmann.data.make_dataset import make_dataset
    from rossmann.data.panel.panel import build_panel

    info = make_dataset(settings, progress)
    build_panel(info, settings.thread_count, progress)
    return info


def _show_windows(
    scores: "list[WindowScore]", dominant_rows: Sequence[dict[str, Any]] = ()
) -> None:
    from rossmann.models.reports.figures import measure_rows, table_rows
    from rossmann.models.reports.html_report import dominant_rows_table

    tables = [table_rows(scores), measure_rows(scores)]
    if dominant_rows:
        tables.append(dominant_rows_table(dominant_rows))
    for header, *rows in tables:
        show_table(header, rows)


def _show_bias(bias: dict[str, Any]) -> None:
    from rossmann.models.calibration.bias_correction import bias_rows

    header, *rows = bias_rows(bias)
    show_table([f"bias of totals: {header[0]}", *header[1:]], rows)


def _show_coverage(coverage: dict[str, Any] | None) -> None:
    from rossmann.models.calibration.interval_coverage import coverage_rows, event_rows

    if coverage is None:
        echo("coverage: one window alone has no other to be calibrated on")
        return
    for table in (coverage_rows(coverage), event_rows(coverage)):
        show_table(table[0], table[1:])


def _show_totals(totals: dict[str, Any]) -> None:
    from rossmann.models.calibration.interval_coverage import past_rows, totals_rows

    for table in (totals_rows(totals), past_rows(totals["past"])):
        show_table(table[0], table[1:])
