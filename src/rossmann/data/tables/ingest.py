"""A file of new days over the raw tables: sales days, or a schedule; all of it or nothing."""

from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Final

import polars as pl

from rossmann.data.make_dataset import DatasetInfo
from rossmann.data.tables import validation_rules as checks
from rossmann.data.tables.cleaning import (
    SALES_COLUMNS,
    CleanTables,
    clean_daily_rows,
    read_as_given,
)
from rossmann.data.tables.increments import Increment, IncrementKind, exclusive, write_increment
from rossmann.data.tables.raw_tables import find_raw_tables
from rossmann.data.uploads.fields import FLAGS, flag_text
from rossmann.data.uploads.table_reader import read_table
from rossmann.schema import MAX_HORIZON
from rossmann.settings import Settings

_KEY: Final = ["Store", "Date"]
_REACH: Final = 366
"""Days beyond the history's ends; a year mistyped would make arrays that no machine can hold."""


@dataclass(frozen=True, slots=True)
class IngestResult:
    """What an ingest did, in rows; ``piece`` is None where nothing changed.

    ``planned``: sales that came for days that were planned until then. ``passed``: planned days
    that have sales already, and were left out. ``last_day`` (of sales) and ``planned_to`` (None
    where no day after it is): after the ingest; ``last_day_before``: before it. ``gap``: days
    between the two of which no store's sales are known.
    """

    kind: IncrementKind
    added: int
    corrected: int
    unchanged: int
    planned: int
    skipped: int
    last_day_before: date
    last_day: date
    gap: int
    planned_to: date | None
    piece: Increment | None


@dataclass(frozen=True, slots=True)
class ScheduleCoverage:
    """Days in a row for which equally many stores are planned."""

    first: date
    last: date
    stores: int


def ingest(settings: Settings, path: Path) -> IngestResult:
    """Add or correct days by Store and Date, from CSV (also gzipped), Parquet or Excel.

    A file with Sales or Customers holds sales days, another a schedule. What changes is kept as a
    piece over the raw tables; a planned day that has sales is left out, since what was is known
    (and who exports a plan by the month should not have to cut it). Raises ``MissingData``
    without raw tables, and ``BrokenRule`` with every rule that the file breaks: then nothing is
    kept.
    """
    text = read_table(path.name, path.read_bytes())
    text = text.with_columns(flag_text(name) for name in FLAGS if name in text.columns)
    folder = settings.ingested_dir / find_raw_tables(settings).dataset
    with exclusive(folder):
        # Read under the lock: another ingest may just have added a piece.
        said = read_as_given(find_raw_tables(settings))
        kind: IncrementKind = "schedule" if not set(SALES_COLUMNS) & set(text.columns) else "sales"
        days = _checked(path.name, text, said, kind)
        base = said.history if kind == "sales" else said.schedule
        fresh = days if kind == "sales" else days.join(said.history, on=_KEY, how="anti")
        changed = fresh.join(base, on=fresh.columns, how="anti", nulls_equal=True)
        corrected = changed.join(base, on=_KEY, how="semi").height
        piece = write_increment(folder, kind, changed, path.name) if changed.height else None
    before = said.history.select(pl.max("Date")).item()
    last = max([before, *_latest(changed)]) if kind == "sales" else before
    new_days = changed.filter(pl.col("Date") > before)["Date"].n_unique()
    plans = (said.schedule, fresh) if kind == "schedule" else (said.schedule,)
    ahead = [day for plan in plans for day in _latest(plan) if day > last]
    return IngestResult(
        kind=kind,
        added=changed.height - corrected,
        corrected=corrected,
        unchanged=fresh.height - changed.height,
        planned=_planned_until_now(changed, said) if kind == "sales" else 0,
        skipped=days.height - fresh.height,
        last_day_before=before,
        last_day=last,
        gap=(last - before).days - new_days if kind == "sales" else 0,
        planned_to=max(ahead, default=None),
        piece=piece,
    )


def schedule_coverage(info: DatasetInfo) -> list[ScheduleCoverage]:
    """How many stores are planned on the days after history that a model is trained for."""
    first, end = (info.last_day + timedelta(days=days) for days in (1, MAX_HORIZON))
    schedule = pl.read_parquet(info.folder / "schedule.parquet")
    ahead = pl.date_range(first, end, eager=True).alias("Date").to_frame()
    counts = schedule.group_by("Date").len("stores")
    days = ahead.join(counts, on="Date", how="left", maintain_order="left").fill_null(0)
    spans: list[ScheduleCoverage] = []
    for day, stores in days.iter_rows():
        if spans and spans[-1].stores == stores:
            spans[-1] = ScheduleCoverage(spans[-1].first, day, stores)
        else:
            spans.append(ScheduleCoverage(day, day, stores))
    return spans


def _checked(name: str, text: pl.DataFrame, said: CleanTables, kind: IncrementKind) -> pl.DataFrame:
    """The file's rows as clean days; raises ``BrokenRule`` with every rule that they break."""
    columns = checks.HISTORY_COLUMNS if kind == "sales" else checks.PLAN_COLUMNS
    rules = checks.history_rules if kind == "sales" else checks.plan_rules
    frame = checks.parse_columns(name, text, columns)
    numbers = said.stores["Store"].to_list()
    checks.raise_violations(
        checks.find_violations(name, frame, (*rules(numbers), _reach(said.history)))
    )
    return clean_daily_rows(frame, SALES_COLUMNS if kind == "sales" else ())


def _reach(history: pl.DataFrame) -> checks.Rule:
    first, last = history.select(first=pl.min("Date"), last=pl.max("Date")).row(0)
    year = pl.duration(days=_REACH)
    inside = pl.col("Date").is_between(pl.lit(first) - year, pl.lit(last) + year)
    says = f"Date is at most {_REACH} days before or after the days with sales, {first} to {last}"
    return checks.Rule("Date_reach", says, ~inside, ())


def _planned_until_now(changed: pl.DataFrame, said: CleanTables) -> int:
    new = changed.join(said.history, on=_KEY, how="anti")
    return new.join(said.schedule, on=_KEY, how="semi").height


def _latest(frame: pl.DataFrame) -> list[date]:
    return [frame["Date"].max()] if frame.height else []  # type: ignore[list-item]
