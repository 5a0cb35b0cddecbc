"""Verbs about the prediction log."""

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rossmann.cli.terminal import echo, progress

if TYPE_CHECKING:
    from datetime import date

    from rossmann.settings import Settings


app = typer.Typer(help="The prediction log: what was answered.", no_args_is_help=True)


@app.command("status")
def status() -> None:
    """Say where answers are logged, how many there are, and how many rows wait on disk.

    Example: rossmann log status
    """
    from rossmann.addresses import redact_password
    from rossmann.prediction_log.queries.export import LogReader
    from rossmann.settings import load_settings

    settings = load_settings()
    echo(f"{'logging':<10}  {'on' if settings.prediction_log else 'off'}")
    echo(f"{'database':<10}  {redact_password(settings.log_url)}")
    _waiting(settings)
    reader = LogReader(settings.log_url)
    try:
        found = reader.totals()
    finally:
        reader.close()
    echo(f"{'rows':<10}  {found.rows:,} of {found.requests:,} requests")
    if found.first and found.last:
        echo(f"{'answered':<10}  {found.first:%F %T} to {found.last:%F %T} UTC")
    for version, rows in found.versions.items():
        echo(f"{'version':<10}  {version}: {rows:,} rows")
    kept = f"{settings.log_keep_days} days" if settings.log_keep_days else "for ever"
    echo(f"{'kept':<10}  {kept}")


@app.command("export")
def export(
    output: Annotated[Path, typer.Option("-o", "--output", help="ends in .csv, .parquet, .xlsx")],
    first: Annotated[
        datetime | None,
        typer.Option("--from", formats=["%Y-%m-%d"], help="answered on that day (UTC) or later"),
    ] = None,
    last: Annotated[
        datetime | None,
        typer.Option("--to", formats=["%Y-%m-%d"], help="answered on that day (UTC) or before"),
    ] = None,
    store: Annotated[int | None, typer.Option(min=1, help="rows of that store only")] = None,
    version: Annotated[int | None, typer.Option(min=1, help="of that model version only")] = None,
) -> None:
    """Write logged rows to a file, in the order of their answers, however many they are.

    Example: rossmann log export -o july.parquet --from 2026-07-01 --to 2026-07-31 --store 12
    """
    from rossmann.launcher.stop_signals import Interrupts
    from rossmann.prediction_log.queries.export import FORMATS, ExportFilter, LogReader
    from rossmann.settings import load_settings

    if output.suffix.lower() not in FORMATS:
        raise typer.BadParameter(f"{output} must end in one of {', '.join(FORMATS)}")
    if first is not None and last is not None and last < first:
        raise typer.BadParameter(f"--to {last:%Y-%m-%d} is before --from {first:%Y-%m-%d}")
    settings = load_settings()
    _waiting(settings, to_stderr=True)
    reader = LogReader(settings.log_url)
    try:
        with Interrupts():  # so that SIGTERM, too, leaves no draft
            done = reader.export(
                ExportFilter(_day(first), _day(last), store, version), output, progress
            )
    finally:
        reader.close()
    echo(f"{done:,} rows written to {output}")


@app.command("prune")
def prune(
    days: Annotated[
        int | None, typer.Option(min=0, help="rows answered longer ago go; else log_keep_days")
    ] = None,
) -> None:
    """Delete old rows, in small transactions that block no writer. The service does it once a day.

    Example: rossmann log prune --days 90
    """
    from rossmann.errors import SettingsError
    from rossmann.prediction_log.queries.export import LogReader
    from rossmann.settings import load_settings

    settings = load_settings()
    keep = settings.log_keep_days if days is None else days
    if days is None and not keep:
        raise SettingsError("ROSSMANN_LOG_KEEP_DAYS is 0, which keeps all: say how many, --days N")
    reader = LogReader(settings.log_url)
    try:
        done = reader.prune(keep, progress)
    finally:
        reader.close()
    echo(f"{done:,} rows deleted: they were answered more than {keep} days ago")


def _waiting(settings: "Settings", to_stderr: bool = False) -> None:
    from rossmann.prediction_log.writing.disk_spool import spool_totals

    found = spool_totals(settings.log_spool_dir)
    if found.rows or not to_stderr:
        text = f"{found.rows:,} rows in {found.files:,} files, {found.bytes / 1e6:,.1f} MB"
        (progress if to_stderr else echo)(f"{'waiting':<10}  {text}")
    if found.quarantined:
        text = f"{found.quarantined:,} files were not taken: see {settings.log_spool_dir / 'aside'}"
        (progress if to_stderr else echo)(f"{'aside':<10}  {text}")


def _day(moment: datetime | None) -> "date | None":
    return None if moment is None else moment.date()
