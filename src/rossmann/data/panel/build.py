"""Clean tables to the arrays that features are gathered from: the plan, then the past.

Stores go through the kernels in blocks: each block's record is made in a small buffer and then
put in its place, so that a chain of any size needs little memory beside the arrays themselves.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date
from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl

from rossmann.data.panel.array_storage import ArrayStorage, ParallelBlocks, SalesArrays
from rossmann.data.panel.filter_states import compute_filter_states
from rossmann.data.panel.schedule_arrays import (
    fill_schedule,
    row_positions,
    store_kind_codes,
    store_traits,
)
from rossmann.epoch_days import to_day
from rossmann.features import calendars, kalman, state_space
from rossmann.features import sales_statistics as history
from rossmann.features import schedule_counts as plan
from rossmann.features.build_features import FeatureArrays
from rossmann.schema import DayArray, ProgressReporter

MAX_DAYS_AHEAD: Final = 366
"""Days after the end of history for which a forecast may be asked."""
_MARGIN: Final = plan.SCHOOL_CAP + 2
"""Days beyond those that counts look at."""


@dataclass(frozen=True)
class BuiltArrays:
    """Arrays, and what a panel needs beside them."""

    arrays: FeatureArrays
    sales: npt.NDArray[np.int32]  # (stores, days), -1 where not known
    seen: npt.NDArray[np.int16]  # (stores, days), days with sales up to each


def build_arrays(
    tables: dict[str, pl.DataFrame],
    first: date,
    last: date,
    threads: int,
    report: ProgressReporter,
    shelf: ArrayStorage,
) -> BuiltArrays:
    """Everything for one data version from its ``history``, ``schedule`` and ``stores``."""
    days = (last - first).days + 1
    axis = _axis(tables["schedule"], first, days)
    numbers = tables["stores"]["Store"].to_numpy()
    table, terms = calendars.date_table(axis), calendars.date_regressors(axis, int(axis[0]))
    cube = shelf.array("cube", (len(axis), len(numbers), plan.N_PLAN), np.uint8)
    regions = fill_schedule(tables, axis, days, numbers, cube)
    stores = store_traits(tables["stores"], regions, int(axis[0]))
    sales = shelf.array("sales", (len(numbers), days), np.int32)
    customers = np.empty((len(numbers), days), np.int32)
    for name, dense in (("Sales", sales), ("Customers", customers)):
        _spread(tables["history"], name, axis, numbers, dense)
    log_sales = _positive_log(sales, shelf.array("log_sales", sales.shape, np.float32))
    log_customers = _positive_log(customers, np.empty(sales.shape, np.float32))
    log_customers[np.isnan(log_sales)] = np.nan
    del customers
    seen = shelf.array("seen", sales.shape, np.int16)
    np.cumsum(~np.isnan(log_sales), axis=1, dtype=np.int16, out=seen)
    kinds = store_kind_codes(tables["stores"])
    with ThreadPoolExecutor(threads) as pool:
        run = ParallelBlocks(pool, len(numbers), threads, shelf.release_pages)
        report("counting the days around each day")
        run(lambda lo, hi: plan.fill_schedule_counts(cube, int(table[0, 0]) - 1, lo, hi))
        masks = shelf.array("masks", (len(numbers), len(axis)), np.uint32)
        run(lambda lo, hi: state_space.fill_masks(table, cube, lo, hi, masks))
        past = SalesArrays(run, shelf, log_sales, log_customers, cube, masks, terms)
        report("averaging each store's past")
        weekly, trailing, centred = _averages(past)
        report("filtering each store's sales")
        states = compute_filter_states(past, seen, kinds)
        report("measuring what the filters got wrong a year ago")
        chain = _chain(past, states)
    known = (table, terms, cube, masks, stores)
    arrays = FeatureArrays(*known, log_sales, weekly, trailing, centred, states, chain)
    return BuiltArrays(arrays, sales, seen)


def _averages(past: SalesArrays) -> tuple[npt.NDArray[np.float32], ...]:
    """The statistics of the past, by weekday, trailing and centred."""
    stores, days = past.log_sales.shape
    kinds = (
        ("weekly", history.N_WEEKLY),
        ("trailing", history.N_TRAILING),
        ("centred", history.N_CENTRED),
    )
    kept = [past.shelf.array(name, (days, stores, width), np.float32) for name, width in kinds]

    def fill(low: int, high: int) -> None:
        mine = slice(low, high)
        blocks = [np.empty((days, high - low, width), np.float32) for _, width in kinds]
        promo = np.ascontiguousarray(past.cube[:days, mine, plan.PROMO])
        y, customers = past.log_sales[mine], past.log_customers[mine]
        history.fill_sales_statistics(y, customers, promo, 0, high - low, *blocks)
        for whole, block in zip(kept, blocks, strict=True):
            whole[:, mine] = block

    past.run(fill)
    return tuple(kept)


def _chain(past: SalesArrays, states: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """The chain's errors by origin and horizon."""
    days = len(states)
    chain = past.shelf.array("chain", (days, state_space.CHAIN_COLUMNS), np.float32)
    past.run(
        lambda lo, hi: kalman.fill_chain_errors(
            past.log_sales, past.masks, past.terms, states, lo, hi, chain
        ),
        days,
    )
    return chain


def _positive_log(
    values: npt.NDArray[np.int32], out: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
    out[...] = np.nan
    return np.log(values, out=out, where=values > 0, casting="unsafe")


def _spread(
    frame: pl.DataFrame,
    name: str,
    axis: DayArray,
    numbers: npt.NDArray[np.int32],
    dense: npt.NDArray[np.int32],
) -> None:
    """A column of sums into (stores, days), -1 where not known."""
    t, s = row_positions(frame, axis, numbers)
    dense[...] = -1
    dense[s, t] = frame[name].to_numpy()


def _axis(schedule: pl.DataFrame, first: date, days: int) -> DayArray:
    """All days that arrays tell of: history, the schedule, and what may be asked after it."""
    ends = [days + MAX_DAYS_AHEAD]
    planned_to = schedule.select(pl.max("Date")).item()
    if planned_to is not None:
        ends.append((planned_to - first).days + 1)
    return to_day(first) + np.arange(max(ends) + _MARGIN, dtype=np.int32)
