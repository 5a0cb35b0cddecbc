"""Checked raw tables to clean frames: categories as codes, weeks as dates, gaps filled."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import polars as pl

from rossmann.data.tables import validation_rules as checks
from rossmann.data.tables.increments import Increment, read_increment, upsert
from rossmann.data.tables.raw_tables import RawTables, read_text
from rossmann.schema import ASSORTMENTS, STATE_HOLIDAYS, STORE_TYPES, ProgressReporter

SALES_COLUMNS: Final = ("Sales", "Customers")
"""What a day of history has and a planned one has not."""


@dataclass(frozen=True, slots=True)
class CleanTables:
    """Clean frames, sorted by store and day.

    ``history``: Store, Date, Sales, Customers, Open, Promo, StateHoliday, SchoolHoliday.
    ``schedule``: the same without Sales and Customers, only days whose sales the history does not
    have; may be empty. ``stores``: one row a store. Categories are their place in ``schema``'s
    lists.
    """

    history: pl.DataFrame
    schedule: pl.DataFrame
    stores: pl.DataFrame


def read_tables(raw: RawTables, report: ProgressReporter = lambda line: None) -> CleanTables:
    """Read, check and clean the raw tables with what was ingested over them.

    ``report`` gets a line for each thing that was filled or left out by rule. Raises
    ``BrokenRule`` that lists every broken rule of every table, with its count and first rows.
    """
    said = read_as_given(raw)
    if raw.pieces:
        report(f"laid {len(raw.pieces):,} ingested pieces over them")
    return CleanTables(said.history, _schedule(said.schedule, said.history, report), said.stores)


def read_as_given(raw: RawTables) -> CleanTables:
    """The same as it is said: planned days may have sales too, and leave Open empty."""
    stores = checks.parse_columns(raw.store.name, read_text(raw.store), checks.STORE_COLUMNS)
    found = checks.find_violations(raw.store.name, stores, checks.store_rules())
    numbers = stores["Store"].drop_nulls().unique().to_list()
    train = checks.parse_columns(raw.train.name, read_text(raw.train), checks.HISTORY_COLUMNS)
    found += checks.find_violations(raw.train.name, train, checks.history_rules(numbers))
    test = None
    if raw.test:
        test = checks.parse_columns(raw.test.name, read_text(raw.test), checks.PLAN_COLUMNS)
        found += checks.find_violations(raw.test.name, test, checks.plan_rules(numbers))
    checks.raise_violations(found)
    history = clean_daily_rows(train, SALES_COLUMNS)
    plan = history.drop(SALES_COLUMNS).clear() if test is None else clean_daily_rows(test)
    for piece in raw.pieces:
        days = _piece_days(piece, numbers)
        if piece.kind == "sales":
            history = upsert(history, days)
        else:
            plan = upsert(plan, days)
    return CleanTables(history, plan, _stores(stores))


def _piece_days(piece: Increment, stores: Sequence[int]) -> pl.DataFrame:
    days = read_increment(piece)
    strange = days.filter(~pl.col("Store").is_in(stores))
    if strange.height:
        # The store table is another one than when the piece was ingested.
        first = tuple(f"Store={store}" for store in strange["Store"].unique().sort().head(3))
        says = "Store is in the store table"
        checks.raise_violations(
            [checks.RuleViolation(str(piece.path), "Store_known", says, strange.height, first)]
        )
    return days


def clean_daily_rows(frame: pl.DataFrame, sums: Sequence[str] = ()) -> pl.DataFrame:
    """Checked days (as ``checks.typed`` makes them) in the types of ``Tables``; with ``sums``."""
    flags = [pl.col(name).cast(pl.UInt8) for name in ("Open", "Promo")]
    columns = [
        pl.col("Store").cast(pl.Int32),
        pl.col("Date"),
        *(pl.col(name).cast(pl.Int32) for name in sums),
        *flags,
        _code("StateHoliday", STATE_HOLIDAYS),
        pl.col("SchoolHoliday").cast(pl.UInt8),
    ]
    return frame.select(columns).sort("Store", "Date")


def _code(column: str, values: Sequence[str]) -> pl.Expr:
    return pl.col(column).replace_strict(list(values), range(len(values)), return_dtype=pl.UInt8)


def _schedule(plan: pl.DataFrame, history: pl.DataFrame, report: ProgressReporter) -> pl.DataFrame:
    ahead = plan.join(history, on=["Store", "Date"], how="anti", maintain_order="left")
    if ahead.height < plan.height:
        report(f"left out {plan.height - ahead.height:,} planned rows of days that have sales")
    empty = ahead["Open"].null_count()
    if not empty:
        return ahead
    report(f"{empty:,} planned rows do not say Open: taken as open where the store usually is")
    return _fill_open(ahead, history)


def _fill_open(plan: pl.DataFrame, history: pl.DataFrame) -> pl.DataFrame:
    """Fill an empty Open by how the store mostly was on that weekday, else by the chain."""
    weekday = pl.col("Date").dt.weekday().alias("weekday")
    days = history.select("Store", weekday, "Open")
    usual = days.group_by("Store", "weekday").agg((pl.col("Open").mean() >= 0.5).alias("usual"))
    chain = days.group_by("weekday").agg((pl.col("Open").mean() >= 0.5).alias("chain"))
    filled = pl.coalesce("Open", pl.coalesce("usual", "chain", pl.lit(True)).cast(pl.UInt8))
    return (
        plan.with_columns(weekday)
        .join(usual, on=["Store", "weekday"], how="left", maintain_order="left")
        .join(chain, on="weekday", how="left", maintain_order="left")
        .with_columns(filled.alias("Open"))
        .select(plan.columns)
    )


def _stores(frame: pl.DataFrame) -> pl.DataFrame:
    year, week = pl.col("Promo2SinceYear"), pl.col("Promo2SinceWeek")
    # 4 January is always in ISO week 1.
    first_week = pl.date(year, 1, 4)
    monday = (
        first_week - pl.duration(days=first_week.dt.weekday() - 1) + pl.duration(weeks=week - 1)
    )
    runs = pl.col("Promo2") == 1
    return frame.select(
        pl.col("Store").cast(pl.Int32),
        _code("StoreType", STORE_TYPES),
        _code("Assortment", ASSORTMENTS),
        pl.col("CompetitionDistance").cast(pl.Float32).fill_null(float("nan")),
        pl.date(pl.col("CompetitionOpenSinceYear"), pl.col("CompetitionOpenSinceMonth"), 1).alias(
            "CompetitionSince"
        ),
        pl.col("Promo2").cast(pl.UInt8),
        pl.when(runs).then(monday).alias("Promo2Since"),
        pl.when(runs).then(_month_mask()).otherwise(0).cast(pl.UInt16).alias("PromoMonths"),
    ).sort("Store")


def _month_mask() -> pl.Expr:
    bits = {name: 1 << place for name, place in checks.MONTH_INDEX.items()}
    names = pl.col("PromoInterval").str.split(",")
    each = (
        pl.element()
        .str.strip_chars()
        .replace_strict(list(bits), list(bits.values()), default=0, return_dtype=pl.Int64)
    )
    return names.list.eval(each.unique()).list.sum()
