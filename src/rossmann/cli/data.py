"""Verbs on the tables: ``rossmann data ...``."""

from pathlib import Path
from typing import Annotated

import typer

from rossmann.cli.terminal import progress, say

app = typer.Typer(help="The sales tables: get, make, check them.", no_args_is_help=True)


@app.command("get")
def get() -> None:
    """Fetch the real tables from Kaggle, or say where to put them.

    Needs the package kagglehub and Kaggle's credentials. Example: rossmann data get
    """
    from rossmann.data.kaggle import get_tables
    from rossmann.settings import load_settings

    get_tables(load_settings(), progress)


@app.command("demo")
def demo(
    seed: Annotated[int | None, typer.Option(help="another seed makes another chain")] = None,
) -> None:
    """Write the demo chain: synthetic tables in the form of the real ones.

    Example: rossmann data demo --seed 7
    """
    from rossmann.data.demo import write_demo
    from rossmann.settings import load_settings

    settings = load_settings()
    write_demo(settings.demo_raw_dir, settings.seed if seed is None else seed)
    say(f"demo tables written to {settings.demo_raw_dir}")


@app.command("check")
def check() -> None:
    """Check the raw tables against every rule, and write nothing.

    Example: rossmann data check
    """
    from rossmann.data.clean import read_tables
    from rossmann.data.files import find_raw
    from rossmann.settings import load_settings

    raw = find_raw(load_settings())
    tables = read_tables(raw, progress)
    say(
        f"good: {tables.history.height:,} days of sales, {tables.stores.height:,} stores,"
        f" {tables.schedule.height:,} planned days ({raw.dataset} data in {raw.train.parent})"
    )


@app.command("status")
def status() -> None:
    """Say which tables are in use, and what was made from them.

    Example: rossmann data status
    """
    from rossmann.data.files import find_raw
    from rossmann.data.make_dataset import current_dataset
    from rossmann.errors import MissingData
    from rossmann.settings import load_settings

    settings = load_settings()
    for name, path in find_raw(settings).paths().items():
        say(f"{name:<10}  {path}  {_size(path)}")
    try:
        info = current_dataset(settings)
    except MissingData as error:
        say(str(error))
        return
    planned = f", planned to {info.schedule_end}" if info.schedule_end else ", nothing planned"
    say(f"{'dataset':<10}  {info.dataset}, version {info.version}, in {info.folder}")
    say(f"{'rows':<10}  {info.rows:,} of {info.stores:,} stores")
    say(f"{'days':<10}  {info.first_day} to {info.last_day}{planned}")


def _size(path: Path) -> str:
    return f"{path.stat().st_size / 1e6:.1f} MB"
