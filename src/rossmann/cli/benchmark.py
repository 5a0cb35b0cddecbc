"""Verbs of public benchmarks."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rossmann.cli.terminal import echo, progress, show_table
from rossmann.cli.training import ProfileOption, prepare_dataset

if TYPE_CHECKING:
    from rossmann.models.benchmark.fev_run import Setup

app = typer.Typer(no_args_is_help=True)

TaskOption = Annotated[str, typer.Option(help="rossmann_1D (days), rossmann_1W (weeks) or both")]
OutputOption = Annotated[Path | None, typer.Option("-o", "--output", help="folder of the report")]


@app.callback()
def benchmark() -> None:
    """Public benchmarks of others, by their rules."""


@app.command()
def fev(
    profile: ProfileOption = "full", task: TaskOption = "both", output: OutputOption = None
) -> None:
    """Run the Rossmann tasks of fev-bench on the windows that the data folder holds.

    Prints the board's four metrics by window and in the mean, beside the published results, and
    writes fev.json and a picture for each task. The first run fits the members as of each window's
    origin, 1 to 4 minutes each on two cores; fits are kept in the data folder under benchmarks/.

    Example: rossmann benchmark fev --task rossmann_1D -o report
    """
    from rossmann.data.panel.panel import open_panel
    from rossmann.models.benchmark.fev_report import write_report
    from rossmann.models.benchmark.fev_run import Setup, run_benchmark
    from rossmann.models.benchmark.fev_task import TASKS
    from rossmann.settings import load_settings

    if task != "both" and task not in TASKS:
        raise typer.BadParameter(f"--task {task} must be one of {', '.join(TASKS)}, both")
    settings = load_settings()
    settings.profile(profile)
    setup = Setup(settings, open_panel(prepare_dataset(settings)), profile, progress)
    report = run_benchmark(setup, [TASKS[task]] if task in TASKS else list(TASKS.values()))
    folder = output or settings.data_dir / "backtests" / time.strftime("fev-%Y%m%dT%H%M%S")
    write_report(folder, report)
    _show(setup, report)
    echo(f"report: {folder / 'fev.json'}, with a picture of each task")


def _show(setup: "Setup", report: dict[str, Any]) -> None:
    from rossmann.models.benchmark.fev_report import (
        board_table,
        caveats,
        competition_table,
        published_results,
        quantile_table,
        window_table,
    )
    from rossmann.schema import Dataset

    published = published_results()
    for result in report["tasks"]:
        echo(f"\n{result['task']}, profile {setup.profile}")
        header, *rows = window_table(result)
        show_table(header, rows)
        echo("\nshare of days or weeks with sales whose sales lie below each quantile")
        header, *rows = quantile_table(result)
        show_table(header, rows)
        echo(f"\nbeside the results published by {published['source']} (read {published['read']})")
        header, *rows = board_table(result)
        show_table(header, rows)
        for caveat in caveats(result["task"]):
            echo(f"- {caveat}")
    if setup.panel.info.dataset is not Dataset.REAL:
        echo("- These are windows of the demo chain: not comparable with the board.")
    if report["competition"]:
        echo("\nlike the private part of the Kaggle competition: stores of test.csv, days 20 to 48")
        header, *rows = competition_table(report["competition"])
        show_table(header, rows)
        echo("- Other weeks than the competition's; which days its private part had is inferred.")
