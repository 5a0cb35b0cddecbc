"""Verbs that compute: features, train, backtest."""

import time
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rossmann.cli.terminal import echo, progress, show_table

if TYPE_CHECKING:
    from rossmann.data.make_dataset import DatasetInfo
    from rossmann.models.evaluation.windows import WindowScore
    from rossmann.settings import Settings


ProfileOption = Annotated[
    str, typer.Option(help="full (as accurate as it gets) or quick (under a minute)")
]


def add_verbs(app: typer.Typer) -> None:
    """Add this module's verbs to the command line."""
    app.command()(features)
    app.command()(train)
    app.command()(backtest)


def features() -> None:
    """Check and clean the raw tables, and compute the arrays that features are gathered from.

    Example: rossmann features
    """
    from rossmann.settings import load_settings

    info = prepared(load_settings())
    echo(f"data version {info.version} ({info.dataset}) is ready in {info.folder}")


def train(profile: ProfileOption = "full") -> None:
    """Fit the ensemble, backtest it, and register the version with its lineage.

    Example: rossmann train --profile quick
    """
    from rossmann.models.publishing.register import register
    from rossmann.models.registry.registry import Registry
    from rossmann.models.training.train import train as fit
    from rossmann.settings import load_settings

    settings = load_settings()
    settings.profile(profile)
    # A fit takes minutes: that there is nowhere to register it must be said before.
    with Registry(settings.tracking_uri) as registry:
        registry.ping()
    prepared(settings)
    trained = fit(settings, profile, progress)
    _show_windows(trained.windows)
    version = register(trained, settings)
    echo(f"registered as version {version.version}; next: rossmann validate {version.version}")


def backtest(
    profile: ProfileOption = "full",
    origins: Annotated[
        str, typer.Option(help="days to forecast from, with commas: 2014-06-13,2015-04-26")
    ] = "",
    windows: Annotated[
        int, typer.Option(min=0, max=100, help="that many windows, back from the end of history")
    ] = 0,
    horizon: Annotated[
        int, typer.Option(min=0, max=48, help="days of a window; 0 takes window_days")
    ] = 0,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="folder of the report")
    ] = None,
) -> None:
    """Forecast past windows as of their origins and report the errors; registers nothing.

    The report is a page and its figures as JSON; both are logged to MLflow where it runs. Without
    --origins or --windows: those of the parameters file. Every window takes a fit.

    Example: rossmann backtest --profile quick --windows 3 --horizon 42 -o report
    """
    from rossmann.data.panel.panel import open_panel
    from rossmann.errors import ServiceError
    from rossmann.models.evaluation.backtest import backtest as run
    from rossmann.models.evaluation.backtest import score_window
    from rossmann.models.evaluation.windows import origins_to_offsets, rolling_offsets
    from rossmann.models.members.fit import sample_training_rows
    from rossmann.models.publishing.mlflow_client import log_backtest_run
    from rossmann.models.reports import html_report as report_html
    from rossmann.models.reports import segments as backtest_slices
    from rossmann.models.training.train import data_summary
    from rossmann.settings import load_settings

    settings = load_settings()
    chosen = settings.profile(profile)
    named = named_days(origins)
    if named and windows:
        raise typer.BadParameter("give --origins or --windows, not both")
    panel = open_panel(prepared(settings))
    ends = origins_to_offsets(panel, named) or rolling_offsets(
        windows, horizon or settings.window_days
    )
    examples = sample_training_rows(panel, settings.history_days, settings.seed)
    later = 0 if ends else settings.later_windows
    outcomes = run(settings, panel, examples, chosen, progress, ends, horizon, later)
    report = backtest_slices.build_report_data(panel, outcomes, data_summary(profile, panel))
    folder = output or settings.data_dir / "backtests" / time.strftime("%Y%m%dT%H%M%S")
    report_html.write_html_report(folder, report)
    _show_windows([score_window(outcome) for outcome in outcomes])
    _show_bias(report["totals_bias"])
    _show_coverage(report["coverage"])
    if report["totals"]:
        _show_totals(report["totals"])
    echo(f"report: {folder / 'report.html'} (and report.json)")
    try:
        echo(f"logged: {log_backtest_run(settings, folder, report)}")
    except ServiceError as error:  # the report is there: an MLflow that is away takes nothing away
        echo(f"not logged: {error}")


def named_days(text: str) -> list[date]:
    """Days that an option names, with commas between."""
    try:
        return [date.fromisoformat(part.strip()) for part in text.split(",") if part.strip()]
    except ValueError as error:
        raise typer.BadParameter(f"--origins takes days as YYYY-MM-DD: {error}") from error


def prepared(settings: "Settings") -> "DatasetInfo":
    """The dataset with its arrays, made where they are missing."""
    from rossmann.data.make_dataset import make_dataset
    from rossmann.data.panel.panel import build_panel

    info = make_dataset(settings, progress)
    build_panel(info, settings.thread_count, progress)
    return info


def _show_windows(scores: "list[WindowScore]") -> None:
    from rossmann.models.reports.figures import table_rows

    header, *rows = table_rows(scores)
    show_table(header, rows)


def _show_bias(found: dict[str, Any]) -> None:
    from rossmann.models.calibration.bias_correction import bias_rows

    header, *rows = bias_rows(found)
    show_table([f"bias of totals: {header[0]}", *header[1:]], rows)


def _show_coverage(coverage: dict[str, Any] | None) -> None:
    from rossmann.models.calibration.interval_coverage import coverage_rows

    if coverage is None:
        echo("coverage: one window alone has no other to be calibrated on")
        return
    header, *rows = coverage_rows(coverage)
    show_table(header, rows)


def _show_totals(totals: dict[str, Any]) -> None:
    from rossmann.models.calibration.interval_coverage import totals_rows

    header, *rows = totals_rows(totals)
    show_table(header, rows)
