"""Clean tables to the arrays that features are gathered from: the plan, then the past."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date
from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl

from rossmann.features import calendars, competition, history, kalman, plan, state_space
from rossmann.features.build_features import Arrays
from rossmann.schema import DayArray

AHEAD: Final = 366
"""Days after the end of history for which a forecast may be asked."""
_MARGIN: Final = plan.SCHOOL_CAP + 2
"""Days beyond those that counts look at."""

Report = Callable[[str], None]


@dataclass(frozen=True)
class Built:
    """Arrays, and what a panel needs beside them."""

    arrays: Arrays
    sales: npt.NDArray[np.int32]  # (stores, days), -1 where not known
    seen: npt.NDArray[np.int16]  # (stores, days), days with sales up to each


def build_arrays(
    tables: dict[str, pl.DataFrame], first: date, last: date, threads: int, report: Report
) -> Built:
    """Everything for one data version from its ``history``, ``schedule`` and ``stores``."""
    days = (last - first).days + 1
    ends = [days + AHEAD]
    planned_to = tables["schedule"].select(pl.max("Date")).item()
    if planned_to is not None:
        ends.append((planned_to - first).days + 1)
    axis = calendars.to_day(first) + np.arange(max(ends) + _MARGIN, dtype=np.int32)
    numbers = tables["stores"]["Store"].to_numpy()
    cube, regions = _plan(tables, axis, days, numbers)
    table, terms = calendars.date_table(axis), calendars.date_terms(axis, int(axis[0]))
    stores = _store_table(tables["stores"], regions, int(axis[0]))
    sales, customers = _sales(tables["history"], axis, days, numbers)
    with ThreadPoolExecutor(threads) as pool:
        run = _Chunks(pool, len(numbers), threads)
        report("counting the days around each day")
        run(lambda lo, hi: plan.fill_counts(cube, int(table[0, 0]) - 1, lo, hi))
        masks = np.zeros((len(numbers), len(axis)), np.uint32)
        run(lambda lo, hi: state_space.fill_masks(table, cube, lo, hi, masks))
        past = _past(run, sales, customers, cube, masks, terms, report)
    arrays = Arrays(table, terms, cube, masks, stores, *past)
    seen = np.cumsum(~np.isnan(arrays.log_sales), axis=1, dtype=np.int16)
    return Built(arrays, sales, seen)


class _Chunks:
    """Runs a kernel over ranges of stores (or days) on a pool; the kernels release the GIL."""

    def __init__(self, pool: ThreadPoolExecutor, size: int, threads: int) -> None:
        self.pool, self.size, self.threads = pool, size, threads

    def __call__(self, kernel: Callable[[int, int], None], size: int | None = None) -> None:
        bounds = self._bounds(self.size if size is None else size)
        for done in [self.pool.submit(kernel, lo, hi) for lo, hi in bounds]:
            done.result()

    def _bounds(self, size: int) -> Iterator[tuple[int, int]]:
        edges = np.linspace(0, size, min(4 * self.threads, size) + 1).astype(int)
        yield from zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)


def _past(
    run: _Chunks,
    sales: npt.NDArray[np.int32],
    customers: npt.NDArray[np.int32],
    cube: npt.NDArray[np.uint8],
    masks: npt.NDArray[np.uint32],
    terms: npt.NDArray[np.float64],
    report: Report,
) -> tuple[npt.NDArray[np.float32], ...]:
    """Log sales, the statistics of the past, the filters' states and the chain's errors."""
    stores, days = sales.shape
    log_sales, log_customers = _positive_log(sales), _positive_log(customers)
    log_customers[np.isnan(log_sales)] = np.nan
    weekly = np.empty((days, stores, history.N_WEEKLY), np.float32)
    trailing = np.empty((days, stores, history.N_TRAILING), np.float32)
    centred = np.empty((days, stores, history.N_CENTRED), np.float32)
    promo = np.ascontiguousarray(cube[:days, :, plan.PROMO])
    report("averaging each store's past")
    run(
        lambda lo, hi: history.fill_history(
            log_sales, log_customers, promo, lo, hi, weekly, trailing, centred
        )
    )
    report("filtering each store's sales")
    states = np.empty((days, stores, state_space.N_STATES), np.float32)
    chain_level = kalman.chain_levels(log_sales)
    prior = state_space.prior_variances()
    for at, size, level, weekday in state_space.FILTERS:
        process = state_space.process_variances(level, weekday)
        run(
            lambda lo, hi, a=at, n=size, q=process: kalman.run_filter(  # type: ignore[misc]
                log_sales, masks, terms, chain_level, prior, q, n, a, lo, hi, states
            )
        )
    report("measuring what the filters got wrong a year ago")
    chain = np.empty((days, state_space.CHAIN_COLUMNS), np.float32)
    run(
        lambda lo, hi: kalman.fill_chain_errors(log_sales, masks, terms, states, lo, hi, chain),
        days,
    )
    return log_sales, weekly, trailing, centred, states, chain


def _positive_log(values: npt.NDArray[np.int32]) -> npt.NDArray[np.float32]:
    out = np.full(values.shape, np.nan, np.float32)
    np.log(values, out=out, where=values > 0, casting="unsafe")
    return out


def _places(
    frame: pl.DataFrame, axis: DayArray, numbers: npt.NDArray[np.int32]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Places of a table's rows on the day axis and in the store table."""
    day = frame["Date"].cast(pl.Int32).to_numpy() - int(axis[0])
    return day.astype(np.int64), np.searchsorted(numbers, frame["Store"].to_numpy())


def _sales(
    frame: pl.DataFrame, axis: DayArray, days: int, numbers: npt.NDArray[np.int32]
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """Sales and customers (stores, days), -1 where not known."""
    t, s = _places(frame, axis, numbers)
    out = []
    for name in ("Sales", "Customers"):
        dense = np.full((len(numbers), days), -1, np.int32)
        dense[s, t] = frame[name].to_numpy()
        out.append(dense)
    return out[0], out[1]


def _plan(
    tables: dict[str, pl.DataFrame], axis: DayArray, days: int, numbers: npt.NDArray[np.int32]
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """The plan cube with its flags set, and each store's region.

    Days without a plan are filled by rule: what the chain (promotions) or the region (school
    holidays) does on that day where anyone's plan says, public holidays by calendar, and the
    store's usual opening by weekday.
    """
    cube = np.zeros((len(axis), len(numbers), plan.N_PLAN), np.uint8)
    for name in ("history", "schedule"):
        frame = tables[name]
        if frame.height:
            at = _places(frame, axis, numbers)
            cube[(*at, plan.OPEN)] = frame["Open"].to_numpy()
            cube[(*at, plan.PROMO)] = frame["Promo"].to_numpy()
            cube[(*at, plan.HOLIDAY)] = frame["StateHoliday"].to_numpy()
            cube[(*at, plan.SCHOOL)] = frame["SchoolHoliday"].to_numpy()
            cube[(*at, plan.KNOWN)] = 1
    known = cube[:, :, plan.KNOWN] > 0
    kinds = calendars.public_holidays(axis)
    regions = calendars.find_regions(cube[:, :, plan.HOLIDAY] > 0, known, kinds)
    gaps = ~known
    holiday = kinds[regions].T
    everyone = np.zeros(len(numbers), np.int64)
    promo, promo_said = _majority(cube[:, :, plan.PROMO], known, everyone)
    school, school_said = _majority(cube[:, :, plan.SCHOOL], known, regions)
    cube[:, :, plan.SAID] = known | (promo_said & school_said)
    for column, filler in (
        (plan.HOLIDAY, holiday),
        (plan.PROMO, promo),
        (plan.SCHOOL, school),
        (plan.OPEN, _usual_opening(cube, known, axis, days, holiday > 0)),
    ):
        cube[:, :, column] = np.where(gaps, filler, cube[:, :, column])
    return cube, regions


def _majority(
    flag: npt.NDArray[np.uint8], known: npt.NDArray[np.bool_], group: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
    """What most stores of the same group have on each day, and whether any plan says."""
    member = np.eye(int(group.max(initial=0)) + 1, dtype=np.float32)[group]
    ayes = (flag * known).astype(np.float32) @ member
    votes = known.astype(np.float32) @ member
    return (2 * ayes > votes).astype(np.uint8)[:, group], (votes > 0)[:, group]


def _usual_opening(
    cube: npt.NDArray[np.uint8],
    known: npt.NDArray[np.bool_],
    axis: DayArray,
    days: int,
    holiday: npt.NDArray[np.bool_],
) -> npt.NDArray[np.uint8]:
    """Open where the store mostly is on that weekday (or holiday); the chain's habit if new."""
    weekday = (axis + 3) % 7
    opened = cube[:days, :, plan.OPEN] > 0
    kept = cube[:days, :, plan.HOLIDAY] > 0
    out = np.zeros(known.shape, np.uint8)
    for slot in range(8):  # seven weekdays, then holidays
        here = kept if slot == 7 else ~kept & (weekday[:days] == slot)[:, None]
        votes = (here & known[:days]).sum(axis=0)
        ayes = (here & known[:days] & opened).sum(axis=0)
        chain = 2 * ayes.sum() > votes.sum()
        usual = np.where(votes > 0, 2 * ayes > votes, chain)
        where = holiday if slot == 7 else ~holiday & (weekday == slot)[:, None]
        out[where & usual[None, :]] = 1
    return out


def _store_table(
    frame: pl.DataFrame, regions: npt.NDArray[np.int64], first_day: int
) -> npt.NDArray[np.float64]:
    """The fixed traits of stores, (stores, N_STORE)."""
    out = np.empty((frame.height, competition.N_STORE))
    metres = frame["CompetitionDistance"].cast(pl.Float64).fill_null(float("nan")).to_numpy()
    out[:, competition.LOG_DISTANCE] = competition.log_distance(metres)
    opened = frame["CompetitionSince"]
    months = (opened.dt.year() - 1970) * 12 + opened.dt.month() - 1
    out[:, competition.COMPETITION_MONTH] = months.cast(pl.Float64).fill_null(float("nan"))
    out[:, competition.ASSORTMENT] = frame["Assortment"].to_numpy()
    out[:, competition.REGION] = regions
    since = frame["Promo2Since"].cast(pl.Int32).cast(pl.Float64) - first_day
    out[:, competition.PROMO2_SINCE] = since.fill_null(float("nan")).to_numpy()
    runs = frame["Promo2"].to_numpy() * frame["PromoMonths"].to_numpy()
    out[:, competition.PROMO2_MONTHS] = runs
    return out
