"""The demo chain's calendar (promotions, state and school holidays of German states) and stores."""

from dataclasses import dataclass
from datetime import date, timedelta
from typing import Final

import holidays
import numpy as np
import numpy.typing as npt
from dateutil.easter import easter

from rossmann.epoch_days import weekday_of
from rossmann.schema import ASSORTMENTS, MONTH_NAMES, STORE_TYPES, FlagArray, FloatArray

STATES: Final = {
    "NW": 286, "BY": 180, "SH": 115, "HE": 112, "BE": 92, "SN": 75, "BW": 73, "ST": 56,
    "RP": 40, "TH": 36, "HH": 28, "NI": 22,
}  # fmt: skip
"""The chain's states, with the number of its 1,115 stores in each."""

Dates = npt.NDArray[np.datetime64]

_SUMMER_START: Final = {
    "NW": (7, 3), "BY": (7, 30), "SH": (7, 14), "HE": (7, 21), "BE": (7, 7), "SN": (7, 14),
    "BW": (7, 28), "ST": (7, 14), "RP": (7, 14), "TH": (7, 14), "HH": (7, 10), "NI": (7, 17),
}  # fmt: skip
_ROLLING_DAYS: Final = (0, 9, -6, 6)
"""Most states move their summer holidays from year to year; the two in the south do not."""
_FIXED_SUMMER: Final = ("BY", "BW")
_WINTER_WEEKS: Final = {"BE": 1, "SN": 2, "ST": 1, "TH": 1, "HH": 2, "NI": 0}
_AUTUMN_START: Final = {
    "NW": 21, "BY": 28, "SH": 7, "HE": 14, "BE": 7, "SN": 21, "BW": 28, "ST": 21, "RP": 7,
    "TH": 21, "HH": 3, "NI": 7,
}  # fmt: skip
_ONE_AUTUMN_WEEK: Final = ("BY", "BW", "ST")
_CATHOLIC_STATES: Final = ("BY", "SN")
"""States where the real table has holidays of only some of their towns."""
_WEEKEND_STATES: Final = ("BE", "HH")
"""States where school holidays include weekends; elsewhere they are on school days only."""


def dates_between(first: date, days: int) -> Dates:
    """``days`` days in a row from ``first``, as datetime64[D] of shape (days,)."""
    return np.datetime64(first, "D") + np.arange(days)


def promotion_days(rng: np.random.Generator, dates: Dates) -> FlagArray:
    """1 on promotion days: Monday to Friday, mostly every other week; (days,).

    The break over New Year is a week longer; sometimes two promotion weeks follow each other.
    """
    first, last = dates[0].astype(date), dates[-1].astype(date)
    monday = _first_monday(first.year)
    weeks = []
    while monday <= last:
        weeks.append(monday)
        if (monday.month, monday.day) >= (12, 14):
            monday = _first_monday(monday.year + 1)
        else:
            # The week before Christmas always has one.
            step = timedelta(weeks=1 if rng.random() < 0.15 else 2)
            late = (monday + step).month == 12 and (monday + step).day > 20
            monday += timedelta(weeks=1) if late else step
    starts = np.array(weeks, "datetime64[D]")
    run = (starts[:, None] + np.arange(5)).ravel()
    return np.isin(dates, run).astype(np.uint8)


def _first_monday(year: int) -> date:
    """The Monday of the year's first promotion: after New Year's week."""
    day = date(year, 1, 4)
    return day + timedelta(days=-day.weekday() % 7)


def state_holidays(dates: Dates) -> FlagArray:
    """Code of each state's holidays (0 none, 1 public, 2 Easter, 3 Christmas); (states, days)."""
    years = _years(dates)
    codes = np.zeros((len(STATES), len(dates)), np.uint8)
    easter_days = [easter(year) + timedelta(days=d) for year in years for d in (-2, 1)]
    christmas = [date(year, 12, day) for year in years for day in (25, 26)]
    for row, state in zip(codes, STATES, strict=True):
        kinds = ("public", "catholic") if state in _CATHOLIC_STATES else ("public",)
        days = holidays.country_holidays("DE", subdiv=state, years=years, categories=kinds)
        row[np.isin(dates, _as_dates(list(days)))] = 1
        row[np.isin(dates, _as_dates(easter_days))] = 2
        row[np.isin(dates, _as_dates(christmas))] = 3
    return codes


def school_holidays(dates: Dates) -> FlagArray:
    """1 on each state's school holidays, by a plausible rule for each season; (states, days)."""
    flags = np.zeros((len(STATES), len(dates)), np.uint8)
    weekend = weekday_of(dates.astype("int64")) >= 5
    for row, state in zip(flags, STATES, strict=True):
        for year in _years(dates):
            for start, length in _school_breaks(state, year):
                begin = np.datetime64(start, "D")
                row[(dates >= begin) & (dates < begin + length)] = 1
        if state not in _WEEKEND_STATES:
            row[weekend] = 0
    return flags


def _school_breaks(state: str, year: int) -> list[tuple[date, int]]:
    """First day and length of each break of a year, including the days after New Year."""
    sunday = easter(year)
    shift = 0 if state in _FIXED_SUMMER else _ROLLING_DAYS[year % len(_ROLLING_DAYS)]
    summer = date(year, *_SUMMER_START[state]) + timedelta(days=shift)
    autumn = date(year, 10, _AUTUMN_START[state])
    breaks = [
        (date(year, 1, 1), 4 if state != "BY" else 6),
        (sunday - timedelta(days=6 if state in ("NW", "RP", "ST") else 13), 15),
        (summer, 43),
        (autumn - timedelta(days=autumn.weekday()), 5 if state in _ONE_AUTUMN_WEEK else 12),
        (date(year, 12, 23), 9),
    ]
    if state in _WINTER_WEEKS:
        first = date(year, 2, 1)
        breaks.append((first + timedelta(days=-first.weekday() % 7), 5 * _WINTER_WEEKS[state] + 2))
    if state in _FIXED_SUMMER:
        breaks.append((sunday + timedelta(days=50), 12))
    else:
        breaks.append((sunday + timedelta(days=51), 1))
    return breaks


def _years(dates: Dates) -> list[int]:
    return list(range(dates[0].astype(date).year, dates[-1].astype(date).year + 2))


def _as_dates(days: list[date]) -> Dates:
    return np.array(days, "datetime64[D]")


CHAIN_STORES: Final = 1115
"""Stores in the real tables."""

# Type, assortment: stores, mean log sales, its spread, log sales per customer, mean log distance.
_STORE_KINDS: Final = {
    ("a", "a"): (381, 8.66, 0.33, 2.16, 7.2),
    ("a", "c"): (221, 8.81, 0.35, 2.18, 7.4),
    ("b", "a"): (7, 9.16, 0.42, 1.83, 6.3),
    ("b", "b"): (9, 8.93, 0.42, 1.42, 6.8),
    ("b", "c"): (1, 9.75, 0.30, 1.75, 7.1),
    ("c", "a"): (77, 8.74, 0.27, 2.10, 7.0),
    ("c", "c"): (71, 8.74, 0.34, 2.19, 7.5),
    ("d", "a"): (128, 8.68, 0.25, 2.39, 8.2),
    ("d", "c"): (220, 8.77, 0.26, 2.42, 8.35),
}
_PROMO_LIFT: Final = {"a": 0.97, "b": 0.55, "c": 1.03, "d": 1.06}
_ROUND_SHARES: Final = (0.587, 0.228, 0.185)
"""Share of the stores whose Promo2 rounds start in January, February and March."""
_NO_COMPETITION_DATE: Final = 0.317
_WEEKDAY: Final = (0.0, -0.075, -0.085, -0.063, 0.035, -0.085, -0.10)

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Stores:
    """Attributes of the stores, in arrays of shape (stores,); ``weekday`` is (stores, 7)."""

    kind: IntArray
    state: IntArray
    distance: FloatArray
    competition: npt.NDArray[np.datetime64]
    promo2_since: npt.NDArray[np.datetime64]
    promo2_first_month: IntArray
    level: FloatArray
    per_customer: FloatArray
    weekday: FloatArray
    lift: FloatArray
    open_sundays: npt.NDArray[np.bool_]
    open_holidays: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.kind)


def make_stores(rng: np.random.Generator, stores: int, first: date, last: date) -> Stores:
    """``stores`` stores in the chain's mix of types, states, competitors and opening days.

    ``weekday``: log sales against the store's own mean, Monday first; ``lift``: strength of
    promotions, 1 in the mean. Dates are NaT where a store has no competitor or no Promo2.
    """
    kind = _mix(rng, [row[0] for row in _STORE_KINDS.values()], stores)
    table = np.array([row[1:] for row in _STORE_KINDS.values()])[kind]
    letters = np.array([k[0] for k in _STORE_KINDS])[kind]
    is_b = letters == "b"
    distance = np.round(np.exp(rng.normal(table[:, 3], 1.45)), -1).clip(20, 75_860)
    distance[rng.permutation(stores)[: round(0.0027 * stores)]] = np.nan
    promo2_since, promo2_first_month = _promo2(rng, stores, last)
    lift = np.array([_PROMO_LIFT[x] for x in letters]) * rng.normal(1.0, 0.24, stores)
    also_sundays = rng.permutation(stores) < round(16 / CHAIN_STORES * stores)
    return Stores(
        kind=kind,
        state=_mix(rng, list(STATES.values()), stores),
        distance=distance,
        competition=_competition(rng, stores, first, last),
        promo2_since=promo2_since,
        promo2_first_month=promo2_first_month,
        level=rng.normal(table[:, 0], 0.95 * table[:, 1]),
        per_customer=rng.normal(table[:, 2], np.where(is_b, 0.10, 0.15)),
        weekday=_weekdays(rng, is_b),
        lift=lift.clip(0.1, 2.2),
        open_sundays=is_b | also_sundays,
        open_holidays=is_b,
    )


def store_table(chain: Stores) -> dict[str, list[object]]:
    """The store table's columns in Kaggle's spelling; None is empty."""
    types = [STORE_TYPES.index(k[0]) for k in _STORE_KINDS]
    assortments = [ASSORTMENTS.index(k[1]) for k in _STORE_KINDS]
    since = [None if np.isnat(d) else d.astype(date) for d in chain.competition]
    promo2 = [None if np.isnat(d) else d.astype(date).isocalendar() for d in chain.promo2_since]
    rounds = [
        _round_text(m) if p else "" for p, m in zip(promo2, chain.promo2_first_month, strict=True)
    ]
    return {
        "Store": list(range(1, len(chain) + 1)),
        "StoreType": [STORE_TYPES[types[k]] for k in chain.kind],
        "Assortment": [ASSORTMENTS[assortments[k]] for k in chain.kind],
        "CompetitionDistance": [None if np.isnan(d) else int(d) for d in chain.distance],
        "CompetitionOpenSinceMonth": [d.month if d else None for d in since],
        "CompetitionOpenSinceYear": [d.year if d else None for d in since],
        "Promo2": [int(p is not None) for p in promo2],
        "Promo2SinceWeek": [p.week if p else None for p in promo2],
        "Promo2SinceYear": [p.year if p else None for p in promo2],
        "PromoInterval": list(rounds),
    }


def _round_text(first_month: int) -> str:
    return ",".join(MONTH_NAMES[m] for m in range(first_month, 12, 3))


def _mix(rng: np.random.Generator, counts: list[int], stores: int) -> IntArray:
    """Shuffled indices into ``counts``: those exact numbers at the chain's size, else a sample."""
    return np.resize(rng.permutation(np.repeat(np.arange(len(counts)), counts)), stores)


def _weekdays(rng: np.random.Generator, is_b: npt.NDArray[np.bool_]) -> FloatArray:
    stores = len(is_b)
    effect = np.array(_WEEKDAY) + rng.normal(0, 0.045, (stores, 7))
    # Saturdays differ most: stores in office districts against those near motorways.
    effect[:, 5] += rng.normal(0, 0.26, stores)
    effect[:, 6] += np.where(is_b, -0.05, -0.3) + rng.normal(0, 0.45, stores)
    return effect


def _competition(
    rng: np.random.Generator, stores: int, first: date, last: date
) -> npt.NDArray[np.datetime64]:
    """First of the month in which the competitor opened; a sixth within the history."""
    months = (last.year - first.year) * 12 + last.month - first.month
    recent = rng.random(stores) < 0.25
    within = rng.integers(0, max(months, 1), stores)
    before = months + rng.gamma(2.0, 30.0, stores).astype(np.int64)
    opened = (np.datetime64(last, "M") - np.where(recent, within, before)).astype("datetime64[D]")
    opened[rng.random(stores) < _NO_COMPETITION_DATE] = np.datetime64("NaT")
    return opened


def _promo2(
    rng: np.random.Generator, stores: int, last: date
) -> tuple[npt.NDArray[np.datetime64], IntArray]:
    monday = np.datetime64(last - timedelta(days=last.weekday()), "D")
    since = monday - 7 * rng.integers(10, 320, stores)
    since[rng.random(stores) >= 0.512] = np.datetime64("NaT")
    return since, rng.choice(len(_ROUND_SHARES), stores, p=_ROUND_SHARES)
