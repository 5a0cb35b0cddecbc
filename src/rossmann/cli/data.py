"""Verbs on the tables: ``rossmann data ...``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rossmann.cli.terminal import (
    DateFormatOption,
    DecimalOption,
    SheetOption,
    echo,
    parse_choice,
    progress,
    reading_options,
)
from rossmann.cli.training import prepare_dataset
from rossmann.installation import shell_command

if TYPE_CHECKING:
    from rossmann.data.tables.ingest import IngestResult, ScheduleCoverage
    from rossmann.settings import Settings

app = typer.Typer(help="The sales tables: get, make, check them.", no_args_is_help=True)


@app.command("get")
def get() -> None:
    """Fetch the real tables from Kaggle, or say where to put them.

    Needs the package kagglehub and Kaggle's credentials. Example: rossmann data get
    """
    from rossmann.data.tables.raw_tables import download_tables
    from rossmann.settings import load_settings

    download_tables(load_settings(), progress)


@app.command("demo")
def demo(
    seed: Annotated[int | None, typer.Option(help="another seed makes another chain")] = None,
    stores: Annotated[int, typer.Option(min=1, max=100_000, help="stores of the chain")] = 1115,
    days: Annotated[int, typer.Option(min=1, max=5_000, help="days of history")] = 942,
) -> None:
    """Write the demo chain: synthetic tables in the form of the real ones.

    Example: rossmann data demo --seed 7 --stores 200
    """
    from rossmann.data.demo.write_tables import write_demo
    from rossmann.data.tables.increments import list_increments
    from rossmann.schema import Dataset
    from rossmann.settings import load_settings

    settings = load_settings()
    write_demo(settings.demo_raw_dir, settings.seed if seed is None else seed, stores, days)
    echo(f"demo tables written to {settings.demo_raw_dir}")
    ingested = settings.ingested_dir / Dataset.DEMO
    if list_increments(ingested):
        echo(
            f"what was ingested in {ingested} lies over them: delete it if it was for another seed"
        )


@app.command("check")
def check() -> None:
    """Check the raw tables against every rule, and write nothing.

    Example: rossmann data check
    """
    from rossmann.data.tables.cleaning import read_clean_tables
    from rossmann.data.tables.raw_tables import find_raw_tables
    from rossmann.settings import load_settings

    raw = find_raw_tables(load_settings())
    tables = read_clean_tables(raw, progress)
    echo(
        f"good: {tables.history.height:,} days of sales, {tables.stores.height:,} stores,"
        f" {tables.schedule.height:,} planned days ({raw.dataset} data in {raw.train.parent})"
    )


@app.command("ingest")
def ingest(
    file: Annotated[Path, typer.Argument(help="CSV, Parquet or a workbook, also in gzip or zip")],
    kind: Annotated[str | None, typer.Option(help="sales or schedule, where it is unclear")] = None,
    date_format: DateFormatOption = None,
    decimal: DecimalOption = None,
    sheet: SheetOption = None,
) -> None:
    """Add new sales days, or a schedule, over the raw tables; a day given again is corrected.

    A file with train.csv's columns holds sales days, one with test.csv's (no Sales and Customers)
    a schedule. A file that breaks a rule is refused as a whole. Example: rossmann data ingest
    august.csv
    """
    from rossmann.data.tables.increments import INCREMENT_KINDS
    from rossmann.data.tables.ingest import ingest as take
    from rossmann.settings import load_settings

    increment_kind = parse_choice("--kind", kind, INCREMENT_KINDS)
    settings = load_settings()
    with reading_options(date_format, decimal, sheet) as options:
        done = take(settings, file, increment_kind, options)
    _show_counts(file, done)
    if done.increment is None:
        echo("nothing is new: the data version stays as it is")
        prepare_dataset(settings)  # an earlier ingest may have been killed before it made them
        return
    echo(f"kept in {done.increment.path}")
    info = prepare_dataset(settings)
    _remove_old_arrays(settings)
    echo(f"data version {info.version} is ready; a running service loads it by itself")
    echo(f"to learn from the new days too: {shell_command('train')}")


def _show_counts(file: Path, done: "IngestResult") -> None:
    for note in done.notes:
        progress(note)
    what = "sales days" if done.kind == "sales" else "planned days"
    counts = f"{done.added:,} added, {done.corrected:,} corrected, {done.unchanged:,} unchanged"
    echo(f"{file.name}: {what}: {counts}")
    if done.planned:
        echo(f"{done.planned:,} of them were planned days: they are history now")
    if done.skipped:
        echo(f"{done.skipped:,} planned days were left out: their sales are known already")
    was = "" if done.last_day == done.last_day_before else f" (before: {done.last_day_before})"
    echo(f"last day of sales: {done.last_day}{was}")
    if done.gap:
        echo(f"days between without sales of any store: {done.gap:,}; they stay unknown")
    echo(f"last planned day: {done.planned_to or 'none after it'}")


@app.command("status")
def status() -> None:
    """Say which tables are in use, what was ingested, what was made, and what is not planned.

    Example: rossmann data status
    """
    from rossmann.data.make_dataset import current_dataset
    from rossmann.data.tables.increments import read_source_name
    from rossmann.data.tables.ingest import schedule_coverage
    from rossmann.data.tables.raw_tables import find_raw_tables
    from rossmann.errors import DataNotFoundError
    from rossmann.settings import load_settings

    settings = load_settings()
    raw = find_raw_tables(settings)
    for name, path in raw.by_name().items():
        echo(f"{name:<10}  {path}  {_size(path)}")
    for piece in raw.increments:
        echo(f"{'ingested':<10}  {piece.path}  {_size(piece.path)}, from {read_source_name(piece)}")
    try:
        info = current_dataset(settings)
    except DataNotFoundError as error:
        echo(str(error))
        return
    echo(f"{'dataset':<10}  {info.dataset}, version {info.version}, in {info.folder}")
    echo(f"{'rows':<10}  {info.rows:,} of {info.stores:,} stores")
    planned = f", planned to {info.schedule_end}" if info.schedule_end else ", nothing planned"
    echo(f"{'days':<10}  {info.first_day} to {info.last_day}{planned}")
    for span in schedule_coverage(info):
        echo(f"{'schedule':<10}  {_planned(span, info.stores)}")


def _planned(span: "ScheduleCoverage", stores: int) -> str:
    days = f"{span.first} to {span.last}" if span.last > span.first else str(span.first)
    if span.stores == stores:
        return f"{days}: all stores"
    return f"{days}: {span.stores:,} of {stores:,} stores" if span.stores else f"{days}: none"


def _size(path: Path) -> str:
    size = path.stat().st_size
    return f"{size / 1e6:.1f} MB" if size > 1e5 else f"{size / 1e3:.1f} kB"


def _remove_old_arrays(settings: "Settings") -> None:
    """Remove arrays of old data versions; none where the registry cannot say which are used."""
    from rossmann.data.panel.panel import remove_old_arrays
    from rossmann.errors import ServiceError
    from rossmann.models.registry.registry import Registry
    from rossmann.schema import Stage

    try:
        with Registry(settings.tracking_uri) as registry:
            versions = registry.versions()
    except ServiceError:
        return
    used = {
        version.tags.get("data.version", "")
        for version in versions
        if version.stage in {Stage.PRODUCTION, Stage.STAGING}
    }
    for name in remove_old_arrays(settings.processed_dir, used, settings.data_keep_versions):
        progress(
            f"arrays of data version {name} removed; made again by: {shell_command('features')}"
        )
