"""Write the demo chain: synthetic tables in the form of Kaggle's, for use without its licence.

1,115 stores over two and a half years, with the effects and irregularities of the real tables, and
a schedule for the days after. The same seed gives the same tables.
"""

from datetime import date, timedelta
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl

from rossmann.data.demo.sales import DemoSchedule, make_sales, make_schedule
from rossmann.data.demo.stores import CHAIN_STORES, dates_between, make_stores, store_table
from rossmann.filesystem.atomic_write import atomic_path
from rossmann.schema import MAX_HORIZON, STATE_HOLIDAYS

LAST_DAY: Final = date(2015, 7, 31)
DAYS: Final = 942
_ROWS_WITHOUT_OPEN: Final = 11
"""Rows of the schedule whose Open is empty."""

DayIndex = npt.NDArray[np.int64]


def write_demo(
    folder: Path,
    seed: int,
    stores: int = CHAIN_STORES,
    days: int = DAYS,
    schedule_days: int = MAX_HORIZON,
) -> None:
    """Write train.csv, store.csv and test.csv of a demo chain to ``folder``, in Kaggle's spelling.

    ``days`` of history end on 2015-07-31, ``schedule_days`` follow. Newest day first. Each file
    replaces an older one atomically.
    """
    if min(stores, days, schedule_days) < 1:
        raise ValueError("a demo chain needs a store, a day of history and a day of schedule")
    seeds = np.random.SeedSequence(seed).spawn(3)
    for_stores, for_schedule, for_sales = (np.random.default_rng(s) for s in seeds)
    first = LAST_DAY - timedelta(days=days - 1)
    chain = make_stores(for_stores, stores, first, LAST_DAY)
    schedule = make_schedule(for_schedule, chain, dates_between(first, days + schedule_days), days)
    sales, customers = make_sales(for_sales, chain, schedule)
    train = _daily_table(schedule, np.arange(days - 1, -1, -1), sales, customers)
    test = _daily_table(schedule, np.arange(days + schedule_days - 1, days - 1, -1))
    folder.mkdir(parents=True, exist_ok=True)
    _write(pl.DataFrame(store_table(chain), infer_schema_length=None), folder / "store.csv")
    _write(_with_missing_open(test), folder / "test.csv")
    _write(train, folder / "train.csv")


def _daily_table(
    schedule: DemoSchedule,
    days: DayIndex,
    sales: npt.NDArray[np.int64] | None = None,
    customers: npt.NDArray[np.int64] | None = None,
) -> pl.DataFrame:
    """The rows of ``days``, in their order, then by store."""
    stores = len(schedule.open)
    store = np.tile(np.arange(stores), len(days))
    day = np.repeat(days, stores)
    recorded = schedule.recorded[store, day]
    store, day = store[recorded], day[recorded]
    columns: dict[str, npt.NDArray[np.generic]] = {
        "Store": store + 1,
        "DayOfWeek": schedule.weekday[day] + 1,
        "Date": schedule.dates[day],
    }
    if sales is not None and customers is not None:
        columns |= {"Sales": sales[store, day], "Customers": customers[store, day]}
    columns |= {
        "Open": schedule.open[store, day],
        "Promo": schedule.promo[day],
        "StateHoliday": schedule.holiday[store, day],
        "SchoolHoliday": schedule.school[store, day],
    }
    code, codes = pl.col("StateHoliday"), range(len(STATE_HOLIDAYS))
    return pl.DataFrame(columns).with_columns(
        code.replace_strict(list(codes), list(STATE_HOLIDAYS), return_dtype=pl.String),
        pl.col("SchoolHoliday").cast(pl.String),
    )


def _with_missing_open(test: pl.DataFrame) -> pl.DataFrame:
    """The schedule with an ``Id``, and with ``Open`` left empty on one store's last open days."""
    store = test["Store"].max()
    rows = (pl.col("Store") == store) & (pl.col("Open") == 1)
    missing = rows & (rows.cum_sum() <= _ROWS_WITHOUT_OPEN)
    return test.with_columns(pl.when(~missing).then("Open").alias("Open")).with_row_index("Id", 1)


def _write(frame: pl.DataFrame, path: Path) -> None:
    """As Kaggle writes: names and texts in quotes, numbers and dates plain, nothing for null."""
    quoted = (pl.lit('"') + pl.col(pl.String) + pl.lit('"')).name.keep()
    header = ",".join(f'"{name}"' for name in frame.columns)
    with atomic_path(path) as draft, draft.open("wb") as stream:
        stream.write(f"{header}\n".encode())
        frame.with_columns(quoted).write_csv(stream, include_header=False, quote_style="never")
