"""The demo chain's schedule and its simulated sales: effects and noise, additive in logs.

The sizes of effects were measured on the real tables; ``benchmarks/demo_vs_real.py`` compares the
two.
"""

from dataclasses import dataclass
from datetime import date
from typing import Final

import numpy as np
import numpy.typing as npt

from rossmann.data.demo.stores import (
    CHAIN_STORES,
    STATES,
    Dates,
    Stores,
    promotion_days,
    school_holidays,
    state_holidays,
)
from rossmann.epoch_days import weekday_of
from rossmann.schema import FlagArray, FloatArray

LONG_CLOSURE: Final = 6
"""Consecutive closed days that count as a refurbishment, not a holiday."""
DATA_GAP: Final = (np.datetime64("2014-07-01"), np.datetime64("2014-12-31"))
"""180 stores have no rows in this period, as in the real tables."""
_GAP_STATE: Final = tuple(STATES).index("BY")
_PARTIAL_HOLIDAY_STATE: Final = tuple(STATES).index("SN")
_CHRISTMAS: Final = 3
BoolMatrix = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class DemoSchedule:
    """``promo`` is (days,), the others (stores, days); ``recorded``: the tables have the row."""

    dates: Dates
    promo: FlagArray
    holiday: FlagArray
    school: FlagArray
    open: FlagArray
    recorded: BoolMatrix

    @property
    def weekday(self) -> npt.NDArray[np.int64]:
        """0 for Monday to 6; (days,)."""
        return weekday_of(self.dates.astype("int64"))


def make_schedule(
    rng: np.random.Generator, chain: Stores, dates: Dates, history_days: int
) -> DemoSchedule:
    """The schedule for ``dates``; refurbishments begin within the first ``history_days``."""
    promo = promotion_days(rng, dates)
    holiday = state_holidays(dates)[chain.state]
    school = school_holidays(dates)[chain.state]
    closed = _closed_by_calendar(rng, chain, dates, holiday)
    closed |= _refurbished(rng, len(chain), len(dates), history_days)
    closed |= rng.random(closed.shape) < 0.0002
    missing = (chain.state == _GAP_STATE)[:, None] & (dates >= DATA_GAP[0]) & (dates <= DATA_GAP[1])
    # One store's first row is missing, as it is in the real table.
    missing[rng.integers(len(chain)), 0] = True
    return DemoSchedule(dates, promo, holiday, school, (~closed).astype(np.uint8), ~missing)


def _closed_by_calendar(
    rng: np.random.Generator, chain: Stores, dates: Dates, holiday: FlagArray
) -> BoolMatrix:
    sunday = weekday_of(dates.astype("int64")) == 6
    # Stores in stations always opened on Sundays; the others began at some time.
    start = np.where(chain.open_holidays, 0, rng.integers(0, len(dates) // 2 + 1, len(chain)))
    opens_sundays = chain.open_sundays[:, None] & (np.arange(len(dates)) >= start[:, None])
    closed = sunday & ~opens_sundays
    is_holiday = holiday > 0
    strict_holiday = (holiday == _CHRISTMAS) | (_month_day(dates) == (1, 1)).all(1)
    closed |= is_holiday & ~chain.open_holidays[:, None] & (~opens_sundays | strict_holiday)
    # Corpus Christi is a holiday in a few villages of one state: most stores there open.
    thursday = weekday_of(dates.astype("int64")) == 3
    early_summer = np.isin(dates.astype("datetime64[M]").astype(int) % 12, (4, 5))
    local = (chain.state == _PARTIAL_HOLIDAY_STATE) & (rng.random(len(chain)) < 0.7)
    corpus_christi = thursday & early_summer & _differs_between_states(holiday)
    return np.asarray(closed & ~(local[:, None] & corpus_christi & ~sunday))


def _differs_between_states(holiday: FlagArray) -> npt.NDArray[np.bool_]:
    return np.asarray((holiday > 0).any(0) & (holiday == 0).any(0))


def _month_day(dates: Dates) -> npt.NDArray[np.int64]:
    days = [d.astype(date) for d in dates]
    return np.array([(d.month, d.day) for d in days])


def _refurbished(rng: np.random.Generator, stores: int, days: int, history_days: int) -> BoolMatrix:
    """True where a store is refurbished: one store in 13, for a week to half a year."""
    closed = np.zeros((stores, days), bool)
    count = max(1, round(83 / CHAIN_STORES * stores))
    lengths = LONG_CLOSURE + rng.gamma(1.6, 6.5, count).astype(np.int64)
    lengths[rng.random(count) < 0.06] = rng.integers(85, 186)
    # A few begin so late that they run into the schedule.
    begins = rng.integers(0, max(history_days - 5, 1), count)
    for store, begin, length in zip(rng.integers(0, stores, count), begins, lengths, strict=True):
        closed[store, begin : begin + length] = True
    return closed


_PROMO_LIFT: Final = (0.46, 0.355, 0.285, 0.26, 0.19, 0.0, 0.0)
"""Log effect of a promotion from Monday to Sunday."""
_MONTH_EFFECT: Final = (
    -0.04, -0.03, -0.03, 0.0, 0.03, 0.02, 0.01, -0.01, -0.06, -0.07, 0.01, 0.03,
)  # fmt: skip
_DAY_EFFECT: Final = {
    1: 0.09, 2: 0.07, 3: 0.02, 7: 0.02, 8: 0.02, 12: -0.03, 14: -0.02, 15: -0.03, 16: -0.06,
    17: -0.06, 18: -0.05, 19: -0.04, 24: -0.02, 25: -0.02, 28: 0.03, 29: 0.07, 30: 0.13, 31: 0.13,
}  # fmt: skip
_DECEMBER_RAMP: Final = (
    (325, 0.0),
    (335, 0.16),
    (349, 0.21),
    (352, 0.35),
    (355, 0.46),
    (357, 0.71),
)
"""Day of a common year and log effect of Christmas: a ramp to 23 December."""
_AFTER_RAMP: Final = {
    (12, 24): -0.22, (12, 27): 0.12, (12, 28): 0.05, (12, 29): 0.10, (12, 30): 0.18,
    (12, 31): -0.68,
}  # fmt: skip


def make_sales(
    rng: np.random.Generator, chain: Stores, schedule: DemoSchedule
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Sales and customers of each store and day, 0 where closed; each (stores, days)."""
    signal = _base(chain, schedule) + _calendar(rng, chain, schedule) + _holidays(rng, schedule)
    signal += _promotions(rng, chain, schedule) + _changes(rng, chain, schedule)
    noise = (
        _shocks(rng, chain, schedule)
        + _level(rng, schedule.open.shape)
        + _daily(rng, schedule.open.shape)
    )
    is_open = schedule.open == 1
    sales = np.rint(np.exp(signal + noise)).astype(np.int64).clip(100, 60_000)
    # Rarely an open store sells nothing, as in the real tables.
    sales[rng.random(sales.shape) < 6e-5] = 0
    sales[~is_open] = 0
    spend = _spend(rng, chain, schedule, noise)
    customers = np.rint(sales / np.exp(spend)).astype(np.int64)
    return sales, np.where(sales > 0, np.maximum(customers, 1), 0)


def _base(chain: Stores, schedule: DemoSchedule) -> FloatArray:
    return np.asarray(chain.level[:, None] + chain.weekday[:, schedule.weekday] - 0.06)


def _calendar(rng: np.random.Generator, chain: Stores, schedule: DemoSchedule) -> FloatArray:
    """Season, month ends, December and school holidays, with a strength for each store."""
    stores = len(chain)
    days = [d.astype(date) for d in schedule.dates]
    season = np.array([_MONTH_EFFECT[d.month - 1] for d in days])
    season = np.convolve(np.pad(season, 10, mode="edge"), np.full(21, 1 / 21), mode="valid")
    month = np.array([_DAY_EFFECT.get(d.day, 0.0) for d in days])
    yearday = np.array([d.timetuple().tm_yday for d in days])
    knots, heights = np.array(_DECEMBER_RAMP).T
    ramp = np.interp(yearday, knots, heights, right=0.0)
    ramp += np.array([_AFTER_RAMP.get((d.month, d.day), 0.0) for d in days])
    angle = 2 * np.pi * yearday / 365.25
    waves = np.stack([f(k * angle) / k for k in (1, 2, 3) for f in (np.sin, np.cos)])
    own = rng.normal(0, 0.025, (stores, len(waves))) @ waves
    school = rng.normal(0.02, 0.045, stores)[:, None] * schedule.school
    return np.asarray(
        season
        + _store_factors(rng, stores, 0.25) * month
        + _store_factors(rng, stores, 0.25) * ramp
        + own
        + school
    )


def _store_factors(rng: np.random.Generator, stores: int, spread: float) -> FloatArray:
    return rng.normal(1.0, spread, (stores, 1)).clip(0.1, 2.0)


def _holidays(rng: np.random.Generator, schedule: DemoSchedule) -> FloatArray:
    """Effects of a state holiday: shopping moves to the days before and after it."""
    holiday = (schedule.holiday > 0).astype(float)
    before, after = np.zeros_like(holiday), np.zeros_like(holiday)
    before[:, :-1], after[:, 1:] = holiday[:, 1:], holiday[:, :-1]
    # Before a holiday on Monday the last shopping day is Saturday.
    saturday_before = np.zeros_like(holiday)
    saturday_before[:, :-2] = holiday[:, 2:] * (schedule.weekday[:-2] == 5)
    week = _rolling_any(holiday, 3) * (1 - holiday)
    stores = len(holiday)
    on_day = -0.12 * holiday
    return np.asarray(
        on_day
        + _store_factors(rng, stores, 0.3) * 0.19 * np.maximum(before, saturday_before)
        + _store_factors(rng, stores, 0.3) * 0.13 * after
        + 0.03 * week
    )


def _rolling_any(flags: FloatArray, reach: int) -> FloatArray:
    sums = np.cumsum(np.pad(flags, ((0, 0), (reach + 1, reach))), axis=1)
    return ((sums[:, 2 * reach + 1 :] - sums[:, : -2 * reach - 1]) > 0).astype(float)


def _promotions(rng: np.random.Generator, chain: Stores, schedule: DemoSchedule) -> FloatArray:
    """Promotions, the dip in the week after one, and the mailings of Promo2."""
    lift = np.array(_PROMO_LIFT)[schedule.weekday] * schedule.promo
    dip = np.zeros(len(schedule.dates))
    dip[7:] = np.where(schedule.promo[7:] == 0, -0.035 * schedule.promo[:-7], 0)
    phase = schedule.dates.astype("datetime64[M]").astype(np.int64) % 3
    runs = schedule.dates >= chain.promo2_since[:, None]
    mailing = runs & (phase == chain.promo2_first_month[:, None] % 3)
    strength = rng.normal(0.025, 0.02, (len(chain), 1))
    return np.asarray(chain.lift[:, None] * (lift + dip) + strength * mailing)


def _changes(rng: np.random.Generator, chain: Stores, schedule: DemoSchedule) -> FloatArray:
    """Level changes: a competitor opens, the store is refurbished, its surroundings change."""
    stores, days = schedule.open.shape
    day = np.arange(days)
    opened = schedule.dates >= chain.competition[:, None]
    nearness = 1 - np.log(np.nan_to_num(chain.distance, nan=20_000) / 20) / 9
    drop = -(0.06 + 0.2 * nearness) * rng.uniform(0.4, 1.3, stores)
    late = chain.competition > schedule.dates[0]
    out = opened * (drop * late)[:, None]
    since = _days_since_refurbishment(schedule)
    gain = rng.normal(0.07, 0.07, (stores, 1))
    out += np.where(since < days, gain + 0.15 * np.exp(-since / 12), 0.0)
    for _ in range(2):
        start = rng.integers(0, round(3.5 * days), stores)
        out += (day >= start[:, None]) * rng.normal(0, 0.09, (stores, 1))
    # Road works or a neighbour that closes: some weeks at another level.
    for _ in range(2):
        begin = rng.integers(0, round(9 * days), (stores, 1))
        end = begin + rng.integers(8, 50, (stores, 1))
        out += ((day >= begin) & (day < end)) * rng.laplace(-0.06, 0.28, (stores, 1))
    trend = rng.normal(0.025, 0.03, (stores, 1))
    return np.asarray(out + trend * (day - days / 2) / 365)


def _days_since_refurbishment(schedule: DemoSchedule) -> FloatArray:
    """Days since a closure of at least ``LONG_CLOSURE`` days, ``days`` where there was none."""
    stores, days = schedule.open.shape
    since = np.full((stores, days), float(days))
    run, last = np.zeros(stores), np.full(stores, -1.0)
    for day in range(days):
        is_open = schedule.open[:, day] == 1
        last = np.where(is_open & (run >= LONG_CLOSURE), day, last)
        run = np.where(is_open, 0, run + 1)
        since[:, day] = np.where(last >= 0, day - last, days)
    return since


def _shocks(rng: np.random.Generator, chain: Stores, schedule: DemoSchedule) -> FloatArray:
    """Daily shocks that the whole chain shares, or a state (weather)."""
    days = len(schedule.dates)
    common = rng.normal(0, 0.027, days) + _autoregressive(rng, (1, days), 0.015, 5)[0]
    states = rng.normal(0, 0.012, (len(STATES), days))
    states += _autoregressive(rng, (len(STATES), days), 0.010, 4)
    return np.asarray(_store_factors(rng, len(chain), 0.3) * common + states[chain.state])


def _level(rng: np.random.Generator, shape: tuple[int, int]) -> FloatArray:
    """A store's own level: a random walk, and autoregressive noise of a month and of days."""
    stores, _ = shape
    step = 0.0017 * np.exp(rng.normal(0, 0.5, (stores, 1)))
    walk = np.cumsum(rng.normal(0, 1, shape) * step, axis=1)
    walk -= walk.mean(axis=1, keepdims=True)
    spread = np.exp(rng.normal(0, 0.4, (stores, 1)))
    months = _autoregressive(rng, shape, 0.014, 30) * spread
    return np.asarray(walk + months + _autoregressive(rng, shape, 0.022, 2.5) * spread)


def _daily(rng: np.random.Generator, shape: tuple[int, int]) -> FloatArray:
    """Independent daily noise: heavy tails, wider in some stores, and rare outliers."""
    stores, _ = shape
    spread = 0.044 * np.exp(rng.normal(0, 0.3, (stores, 1)))
    noise = spread * rng.standard_t(5, shape)
    outlier = rng.random(shape) < 0.0014
    return np.asarray(noise.clip(-0.9, 0.9) + outlier * rng.laplace(0.12, 0.5, shape))


def _autoregressive(
    rng: np.random.Generator, shape: tuple[int, int], spread: float, memory: float
) -> FloatArray:
    """AR(1) noise of standard deviation ``spread`` with a decay time of ``memory`` days."""
    decay = np.exp(-1 / memory)
    steps = rng.normal(0, spread, shape)
    steps[:, 1:] *= np.sqrt(1 - decay**2)
    for day in range(1, shape[1]):
        steps[:, day] += decay * steps[:, day - 1]
    return steps


def _spend(
    rng: np.random.Generator, chain: Stores, schedule: DemoSchedule, noise: FloatArray
) -> FloatArray:
    """Log of sales per customer: higher on promotions, and on days that sell more."""
    weekday = np.array((-0.05, -0.055, -0.05, -0.05, -0.025, 0.0, 0.03))[schedule.weekday]
    promo = 0.42 * np.array(_PROMO_LIFT)[schedule.weekday] * schedule.promo
    own = rng.normal(0, 0.05, schedule.open.shape)
    return np.asarray(
        chain.per_customer[:, None] + weekday + chain.lift[:, None] * promo + 0.25 * noise + own
    )
