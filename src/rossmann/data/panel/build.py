"""Build the arrays that features are gathered from: the schedule's, then those of past sales.

Kernels work on blocks of stores: each fills a small buffer that is then copied to its place, so
that a chain of any size needs little memory besides the arrays themselves.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl

from rossmann.data.make_dataset import DatasetInfo
from rossmann.data.panel.array_storage import ArrayStorage, ParallelBlocks, SalesArrays
from rossmann.data.panel.filter_states import compute_filter_states
from rossmann.data.panel.schedule_arrays import (
    fill_schedule,
    row_positions,
    store_kind_codes,
    store_traits,
)
from rossmann.epoch_days import to_day
from rossmann.features import kalman
from rossmann.features.build_features import FeatureArrays
from rossmann.features.calendars import date_regressors, date_table
from rossmann.features.sales_statistics import (
    N_CENTRED,
    N_TRAILING,
    N_WEEKLY,
    SalesStatistics,
    fill_sales_statistics,
)
from rossmann.features.schedule_counts import N_PLAN, PROMO, SCHOOL_CAP, fill_schedule_counts
from rossmann.features.state_space import CHAIN_COLUMNS, fill_masks
from rossmann.schema import DayArray, ProgressReporter

MAX_DAYS_AHEAD: Final = 366
"""Days after the end of history that can be forecast."""
_MARGIN_DAYS: Final = SCHOOL_CAP + 2
"""Days that the counts of the last forecast day read beyond it."""


@dataclass(frozen=True)
class BuiltArrays:
    """The arrays of features, and those that a panel uses besides."""

    arrays: FeatureArrays
    sales: npt.NDArray[np.int32]  # (stores, days), -1 where not known
    sales_days: npt.NDArray[np.int16]  # (stores, days), days with sales up to each


def build_arrays(
    info: DatasetInfo,
    tables: dict[str, pl.DataFrame],
    storage: ArrayStorage,
    threads: int,
    report: ProgressReporter,
) -> BuiltArrays:
    """The arrays of one data version, from its ``history``, ``schedule`` and ``stores``."""
    axis = _day_axis(info, tables["schedule"])
    days = to_day(info.last_day) - int(axis[0]) + 1
    numbers = tables["stores"]["Store"].to_numpy()
    table, terms = date_table(axis, info.country), date_regressors(axis, int(axis[0]))
    cube = storage.array("cube", (len(axis), len(numbers), N_PLAN), np.uint8)
    regions = storage.array("regions", (days, len(numbers)), np.int16)
    regions[:] = fill_schedule(tables, axis, days, numbers, cube, info.country)
    stores = store_traits(tables["stores"], int(axis[0]))
    sales = storage.array("sales", (len(numbers), days), np.int32)
    _fill_matrix(tables["history"], "Sales", axis, numbers, sales)
    log_sales = _positive_log(sales, storage.array("log_sales", sales.shape, np.float32))
    log_customers = _log_customers(tables["history"], axis, numbers, log_sales)
    sales_days = storage.array("seen", sales.shape, np.int16)
    np.cumsum(~np.isnan(log_sales), axis=1, dtype=np.int16, out=sales_days)
    kinds = store_kind_codes(tables["stores"])
    with ThreadPoolExecutor(threads) as pool:
        run_blocks = ParallelBlocks(pool, len(numbers), threads, storage.release_pages)
        report("counting the days around each day")
        run_blocks(lambda low, high: fill_schedule_counts(cube, int(table[0, 0]) - 1, low, high))
        masks = storage.array("masks", (len(numbers), len(axis)), np.uint32)
        run_blocks(lambda low, high: fill_masks(table, cube, low, high, masks))
        past = SalesArrays(
            run_blocks, storage, log_sales, log_customers, sales_days, kinds, cube, masks, terms
        )
        report("averaging each store's past")
        statistics = _sales_statistics(past)
        report("filtering each store's sales")
        states = compute_filter_states(past)
        report("measuring what the filters got wrong a year ago")
        chain = _chain_errors(past, states)
    schedule = (table, terms, cube, masks, stores, regions)
    arrays = FeatureArrays(*schedule, log_sales, *statistics, states, chain)
    return BuiltArrays(arrays, sales, sales_days)


def _sales_statistics(past: SalesArrays) -> SalesStatistics:
    """The statistics by weekday, trailing and centred."""
    stores, days = past.log_sales.shape
    widths = {"weekly": N_WEEKLY, "trailing": N_TRAILING, "centred": N_CENTRED}
    statistics = SalesStatistics(
        *(past.storage.array(name, (days, stores, n), np.float32) for name, n in widths.items())
    )

    def fill(low: int, high: int) -> None:
        part = slice(low, high)
        block = SalesStatistics(
            *(np.empty((days, high - low, n), np.float32) for n in widths.values())
        )
        promo = np.ascontiguousarray(past.cube[:days, part, PROMO])
        fill_sales_statistics(past.log_sales[part], past.log_customers[part], promo, block)
        for array, values in zip(statistics, block, strict=True):
            array[:, part] = values

    past.run_blocks(fill)
    return statistics


def _chain_errors(past: SalesArrays, states: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """The chain's forecast errors by origin and horizon."""
    inputs = kalman.FilterInputs(past.log_sales, past.masks, past.terms)
    errors = past.storage.array("chain", (len(states), CHAIN_COLUMNS), np.float32)
    past.run_blocks(
        lambda low, high: kalman.fill_chain_errors(inputs, states, low, high, errors), len(states)
    )
    return errors


def _log_customers(
    history: pl.DataFrame,
    axis: DayArray,
    numbers: npt.NDArray[np.int32],
    log_sales: npt.NDArray[np.float32],
) -> npt.NDArray[np.float32]:
    """Log customers (stores, days), NaN on days without sales or customers."""
    customers = np.empty(log_sales.shape, np.int32)
    _fill_matrix(history, "Customers", axis, numbers, customers)
    log_customers = _positive_log(customers, np.empty(log_sales.shape, np.float32))
    log_customers[np.isnan(log_sales)] = np.nan
    return log_customers


def _positive_log(
    values: npt.NDArray[np.int32], out: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
    out[...] = np.nan
    return np.log(values, out=out, where=values > 0, casting="unsafe")


def _fill_matrix(
    frame: pl.DataFrame,
    column: str,
    axis: DayArray,
    numbers: npt.NDArray[np.int32],
    out: npt.NDArray[np.int32],
) -> None:
    """Fill ``out`` (stores, days) with a column; -1 where the table has no row."""
    day, store = row_positions(frame, axis, numbers)
    out[...] = -1
    out[store, day] = frame[column].to_numpy()


def _day_axis(info: DatasetInfo, schedule: pl.DataFrame) -> DayArray:
    """All days of the arrays: history, schedule, the days that can be forecast, and a margin."""
    first = to_day(info.first_day)
    end = to_day(info.last_day) + MAX_DAYS_AHEAD
    scheduled_to = schedule.select(pl.max("Date")).item()
    if scheduled_to is not None:
        end = max(end, to_day(scheduled_to))
    return np.arange(first, end + 1 + _MARGIN_DAYS, dtype=np.int32)
