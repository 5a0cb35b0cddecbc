"""The demo chain's schedule: openings, promotions and holidays of every store and day."""

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
from rossmann.schema import FlagArray

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
