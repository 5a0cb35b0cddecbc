"""Convert validated raw tables to clean frames: categories as codes, weeks as dates, no gaps."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import polars as pl

from rossmann.data.tables.increments import Increment, read_increment, upsert
from rossmann.data.tables.raw_tables import RawTables, read_text
from rossmann.data.tables.validation_rules import (
    HISTORY_COLUMNS,
    MONTH_INDEX,
    SCHEDULE_COLUMNS,
    STORE_COLUMNS,
    Rule,
    RuleViolation,
    find_violations,
    history_rules,
    parse_columns,
    raise_violations,
    region_rule,
    schedule_rules,
    store_rules,
)
from rossmann.data.uploads.table_reader import WholeTable
from rossmann.features.calendars import country_regions
from rossmann.schema import (
    ASSORTMENTS,
    REGION_COLUMN,
    STATE_HOLIDAYS,
    STORE_TYPES,
    ProgressReporter,
)

SALES_COLUMNS: Final = ("Sales", "Customers")
"""Columns of the history that a schedule lacks."""


@dataclass(frozen=True, slots=True)
class CleanTables:
    """Clean frames, sorted by store and day.

    ``history``: Store, Date, Sales, Customers, Open, Promo, StateHoliday, SchoolHoliday.
    ``schedule``: the same without Sales and Customers, only days that the history does not have;
    may be empty. ``stores``: one row per store. Category codes are positions in ``schema``'s lists.
    """

    history: pl.DataFrame
    schedule: pl.DataFrame
    stores: pl.DataFrame


def read_clean_tables(raw: RawTables, report: ProgressReporter = lambda line: None) -> CleanTables:
    """Read, validate and clean the raw tables with their increments.

    ``report`` gets a line for each thing that was filled, skipped or left out by rule. Raises
    ``DataValidationError`` with every broken rule of every table, its count and first rows, and
    ``SettingsError`` for an unknown country.
    """
    tables = read_as_given(raw, report)
    if raw.increments:
        report(f"laid {len(raw.increments):,} ingested pieces over them")
    schedule = _clean_schedule(tables.schedule, tables.history, report)
    return CleanTables(tables.history, schedule, tables.stores)


def read_as_given(raw: RawTables, report: ProgressReporter = lambda line: None) -> CleanTables:
    """The same, but scheduled days may have sales already and may leave Open empty."""
    stores, violations = _checked_stores(raw, report)
    numbers = stores["Store"].drop_nulls().unique().to_list()
    train, broken = _checked(raw.train, HISTORY_COLUMNS, history_rules(numbers), report)
    violations += broken
    test = None
    if raw.test:
        test, broken = _checked(raw.test, SCHEDULE_COLUMNS, schedule_rules(numbers), report)
        violations += broken
    raise_violations(violations)
    history = clean_daily_rows(train, SALES_COLUMNS)
    schedule = history.drop(SALES_COLUMNS).clear() if test is None else clean_daily_rows(test)
    for increment in raw.increments:
        days = _increment_days(increment, numbers)
        if increment.kind == "sales":
            history = upsert(history, days)
        else:
            schedule = upsert(schedule, days)
    return CleanTables(history, schedule, _clean_stores(stores))


def _checked_stores(
    raw: RawTables, report: ProgressReporter
) -> tuple[pl.DataFrame, list[RuleViolation]]:
    """The store table's typed columns, with that of regions where it has one."""
    text, table = _read(raw.store, report)
    regions = country_regions(raw.country)  # an unknown country is an error without regions, too
    columns, rules = [*STORE_COLUMNS], [*store_rules()]
    if REGION_COLUMN in text.columns:
        columns.append(REGION_COLUMN)
        rules.append(region_rule(regions))
    frame = parse_columns(raw.store.name, text, columns)
    return frame, find_violations(raw.store.name, frame, rules, table.position)


def _checked(
    path: Path, columns: Sequence[str], rules: Sequence[Rule], report: ProgressReporter
) -> tuple[pl.DataFrame, list[RuleViolation]]:
    """A raw table's typed columns, and every rule that it breaks."""
    text, table = _read(path, report)
    frame = parse_columns(path.name, text, columns)
    return frame, find_violations(path.name, frame, rules, table.position)


def _read(path: Path, report: ProgressReporter) -> tuple[pl.DataFrame, WholeTable]:
    """A raw table as text and as it was read; what was skipped in it is reported."""
    text, table, notes = read_text(path)
    for note in notes:
        report(f"{path.name}: {note}")
    return text, table


def _increment_days(increment: Increment, stores: Sequence[int]) -> pl.DataFrame:
    days = read_increment(increment)
    unknown = days.filter(~pl.col("Store").is_in(stores))
    if unknown.height:
        # The store table has changed since the increment was ingested.
        first = tuple(f"Store={store}" for store in unknown["Store"].unique().sort().head(3))
        description = "Store is in the store table"
        raise_violations(
            [RuleViolation(str(increment.path), "Store_known", description, unknown.height, first)]
        )
    return days


def clean_daily_rows(frame: pl.DataFrame, sales_columns: Sequence[str] = ()) -> pl.DataFrame:
    """Validated days (of ``parse_columns``) in the types of ``CleanTables``."""
    flags = [pl.col(name).cast(pl.UInt8) for name in ("Open", "Promo")]
    columns = [
        pl.col("Store").cast(pl.Int32),
        pl.col("Date"),
        *(pl.col(name).cast(pl.Int32) for name in sales_columns),
        *flags,
        _code("StateHoliday", STATE_HOLIDAYS),
        pl.col("SchoolHoliday").cast(pl.UInt8),
    ]
    return frame.select(columns).sort("Store", "Date")


def _code(column: str, values: Sequence[str]) -> pl.Expr:
    return pl.col(column).replace_strict(list(values), range(len(values)), return_dtype=pl.UInt8)


def _clean_schedule(
    schedule: pl.DataFrame, history: pl.DataFrame, report: ProgressReporter
) -> pl.DataFrame:
    ahead = schedule.join(history, on=["Store", "Date"], how="anti", maintain_order="left")
    if ahead.height < schedule.height:
        report(f"left out {schedule.height - ahead.height:,} planned rows of days that have sales")
    empty = ahead["Open"].null_count()
    if not empty:
        return ahead
    report(f"{empty:,} planned rows do not say Open: taken as open where the store usually is")
    return _fill_open(ahead, history)


def _fill_open(schedule: pl.DataFrame, history: pl.DataFrame) -> pl.DataFrame:
    """Fill an empty Open with the store's majority on that weekday, else with the chain's."""
    weekday = pl.col("Date").dt.weekday().alias("weekday")
    days = history.select("Store", weekday, "Open")
    by_store = days.group_by("Store", "weekday").agg((pl.col("Open").mean() >= 0.5).alias("store"))
    by_chain = days.group_by("weekday").agg((pl.col("Open").mean() >= 0.5).alias("chain"))
    filled = pl.coalesce("Open", pl.coalesce("store", "chain", pl.lit(True)).cast(pl.UInt8))
    return (
        schedule.with_columns(weekday)
        .join(by_store, on=["Store", "weekday"], how="left", maintain_order="left")
        .join(by_chain, on="weekday", how="left", maintain_order="left")
        .with_columns(filled.alias("Open"))
        .select(schedule.columns)
    )


def _clean_stores(frame: pl.DataFrame) -> pl.DataFrame:
    year, week = pl.col("Promo2SinceYear"), pl.col("Promo2SinceWeek")
    # 4 January is always in ISO week 1.
    first_week = pl.date(year, 1, 4)
    monday = (
        first_week - pl.duration(days=first_week.dt.weekday() - 1) + pl.duration(weeks=week - 1)
    )
    in_promo2 = pl.col("Promo2") == 1
    region = [pl.col(REGION_COLUMN)] if REGION_COLUMN in frame.columns else []
    return frame.select(
        pl.col("Store").cast(pl.Int32),
        _code("StoreType", STORE_TYPES),
        _code("Assortment", ASSORTMENTS),
        pl.col("CompetitionDistance").cast(pl.Float32).fill_null(float("nan")),
        pl.date(pl.col("CompetitionOpenSinceYear"), pl.col("CompetitionOpenSinceMonth"), 1).alias(
            "CompetitionSince"
        ),
        pl.col("Promo2").cast(pl.UInt8),
        pl.when(in_promo2).then(monday).alias("Promo2Since"),
        pl.when(in_promo2).then(_month_mask()).otherwise(0).cast(pl.UInt16).alias("PromoMonths"),
        *region,
    ).sort("Store")


def _month_mask() -> pl.Expr:
    """The months of PromoInterval as bits: 1 for January, 2 for February, 4 for March."""
    bits = {name: 1 << index for name, index in MONTH_INDEX.items()}
    names = pl.col("PromoInterval").str.split(",")
    bit = (
        pl.element()
        .str.strip_chars()
        .replace_strict(list(bits), list(bits.values()), default=0, return_dtype=pl.Int64)
    )
    return names.list.eval(bit.unique()).list.sum()
