"""Ingest a file of new days (sales or schedule) as an increment; all of its rows or none."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Final

import polars as pl

from rossmann.data.make_dataset import DatasetInfo
from rossmann.data.tables.cleaning import (
    SALES_COLUMNS,
    CleanTables,
    clean_daily_rows,
    read_as_given,
)
from rossmann.data.tables.increments import (
    Increment,
    IncrementKind,
    lock_increments,
    write_increment,
)
from rossmann.data.tables.raw_tables import find_raw_tables
from rossmann.data.tables.validation_rules import (
    HISTORY_COLUMNS,
    SCHEDULE_COLUMNS,
    Rule,
    find_violations,
    history_rules,
    parse_columns,
    raise_violations,
    schedule_rules,
)
from rossmann.data.uploads.fields import known_name
from rossmann.data.uploads.table_reader import DEFAULT_OPTIONS, ReadOptions, WholeTable, read_fields
from rossmann.errors import DataValidationError
from rossmann.schema import MAX_HORIZON
from rossmann.settings import Settings

_KEY: Final = ["Store", "Date"]
_MAX_DISTANCE: Final = 366
"""Days before or after the history: a mistyped year would make arrays that no machine can hold."""


@dataclass(frozen=True, slots=True)
class IngestResult:
    """The result of an ingest, in rows; ``increment`` is None where nothing changed.

    ``planned``: sales for days that were scheduled before. ``skipped``: scheduled days that have
    sales already, and were left out. ``last_day`` (of sales) and ``planned_to`` (None where no day
    after it is scheduled): after the ingest; ``last_day_before``: before it. ``gap``: days between
    the two for which no store's sales are known. ``notes``: what was skipped or renamed.
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
    increment: Increment | None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ScheduleCoverage:
    """Consecutive days for which the same number of stores is scheduled."""

    first: date
    last: date
    stores: int


def ingest(
    settings: Settings,
    path: Path,
    kind: IncrementKind | None = None,
    options: ReadOptions = DEFAULT_OPTIONS,
) -> IngestResult:
    """Add or correct days by Store and Date, from CSV, Parquet or a workbook.

    ``kind`` is needed where the file has no Sales and columns that are not known. Changed rows
    become an increment. Scheduled days that have sales are left out, so that an export by month
    need not be cut. Raises ``DataNotFoundError`` without raw tables, and ``DataValidationError``
    with every rule that the file breaks; then nothing is written.
    """
    text, table, notes = read_fields(path.name, path, options)
    kind = kind or _detect_kind(path.name, table.columns)
    folder = settings.ingested_dir / find_raw_tables(settings).dataset
    with lock_increments(folder):
        # Read under the lock: another ingest may just have added an increment.
        tables = read_as_given(find_raw_tables(settings))
        days = _validated_days(table, text, tables, kind)
        base = tables.history if kind == "sales" else tables.schedule
        fresh = days if kind == "sales" else days.join(tables.history, on=_KEY, how="anti")
        changed = fresh.join(base, on=fresh.columns, how="anti", nulls_equal=True)
        corrected = changed.join(base, on=_KEY, how="semi").height
        increment = write_increment(folder, kind, changed, path.name) if changed.height else None
    before = tables.history.select(pl.max("Date")).item()
    last = max([before, *_last_day(changed)]) if kind == "sales" else before
    new_days = changed.filter(pl.col("Date") > before)["Date"].n_unique()
    schedules = (tables.schedule, fresh) if kind == "schedule" else (tables.schedule,)
    ahead = [day for schedule in schedules for day in _last_day(schedule) if day > last]
    return IngestResult(
        kind=kind,
        added=changed.height - corrected,
        corrected=corrected,
        unchanged=fresh.height - changed.height,
        planned=_count_scheduled(changed, tables) if kind == "sales" else 0,
        skipped=days.height - fresh.height,
        last_day_before=before,
        last_day=last,
        gap=(last - before).days - new_days if kind == "sales" else 0,
        planned_to=max(ahead, default=None),
        increment=increment,
        notes=tuple(notes),
    )


def _detect_kind(name: str, columns: Sequence[str]) -> IncrementKind:
    """Sales days where the file has Sales or Customers, else a schedule.

    Raises ``DataValidationError`` where columns are not known: one may hold the sales.
    """
    fields = {known_name(column) for column in columns}
    if fields & set(SALES_COLUMNS):
        return "sales"
    unknown = [column for column in columns if column and known_name(column) is None]
    if unknown:
        raise DataValidationError(
            f"{name} has no column Sales, and columns that are not known: {', '.join(unknown)}."
            " If one holds the sales, name it Sales; if the file is a schedule, add --kind schedule"
        )
    return "schedule"


def schedule_coverage(info: DatasetInfo) -> list[ScheduleCoverage]:
    """The number of scheduled stores on each day of the model's horizon after the history."""
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


def _validated_days(
    table: WholeTable, text: pl.DataFrame, tables: CleanTables, kind: IncrementKind
) -> pl.DataFrame:
    """The file's rows as clean days; raises ``DataValidationError`` with every broken rule."""
    columns = HISTORY_COLUMNS if kind == "sales" else SCHEDULE_COLUMNS
    rules = history_rules if kind == "sales" else schedule_rules
    frame = parse_columns(table.name, text, columns)
    numbers = tables.stores["Store"].to_list()
    all_rules = (*rules(numbers), _distance_rule(tables.history))
    raise_violations(find_violations(table.name, frame, all_rules, table.position))
    return clean_daily_rows(frame, SALES_COLUMNS if kind == "sales" else ())


def _distance_rule(history: pl.DataFrame) -> Rule:
    first, last = history.select(first=pl.min("Date"), last=pl.max("Date")).row(0)
    distance = pl.duration(days=_MAX_DISTANCE)
    inside = pl.col("Date").is_between(pl.lit(first) - distance, pl.lit(last) + distance)
    description = (
        f"Date is at most {_MAX_DISTANCE} days before or after the days with sales, "
        f"{first} to {last}"
    )
    return Rule("Date_reach", description, ~inside, ())


def _count_scheduled(changed: pl.DataFrame, tables: CleanTables) -> int:
    """How many new sales rows are for scheduled days."""
    new = changed.join(tables.history, on=_KEY, how="anti")
    return new.join(tables.schedule, on=_KEY, how="semi").height


def _last_day(frame: pl.DataFrame) -> list[date]:
    return [frame["Date"].max()] if frame.height else []  # type: ignore[list-item]
