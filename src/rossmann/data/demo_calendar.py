"""The demo chain's calendar: promotions, state holidays and school holidays of German states."""

from datetime import date, timedelta
from typing import Final

import holidays
import numpy as np
import numpy.typing as npt
from dateutil.easter import easter

from rossmann.schema import FlagArray

STATES: Final = {
    "NW": 286, "BY": 180, "SH": 115, "HE": 112, "BE": 92, "SN": 75, "BW": 73, "ST": 56,
    "RP": 40, "TH": 36, "HH": 28, "NI": 22,
}  # fmt: skip
"""States that the chain trades in, with the number of its 1,115 stores there."""

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
_CATHOLIC_PLACES: Final = ("BY", "SN")
"""Where the real table has holidays that only some of a state's places keep."""
_WEEKEND_STATES: Final = ("BE", "HH")
"""Where the flag runs through weekends too; elsewhere it is on school days only."""


def dates_between(first: date, days: int) -> Dates:
    """``days`` days in a row from ``first``, as datetime64[D] of shape (days,)."""
    return np.datetime64(first, "D") + np.arange(days)


def promotion_days(rng: np.random.Generator, dates: Dates) -> FlagArray:
    """1 where the chain runs its promotion: Monday to Friday, mostly every other week; (days,).

    The pause over New Year is a week longer; now and then two promotion weeks follow each other.
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
    feast = [easter(year) + timedelta(days=d) for year in years for d in (-2, 1)]
    christmas = [date(year, 12, day) for year in years for day in (25, 26)]
    for row, state in zip(codes, STATES, strict=True):
        kinds = ("public", "catholic") if state in _CATHOLIC_PLACES else ("public",)
        days = holidays.country_holidays("DE", subdiv=state, years=years, categories=kinds)
        row[np.isin(dates, _array(list(days)))] = 1
        row[np.isin(dates, _array(feast))] = 2
        row[np.isin(dates, _array(christmas))] = 3
    return codes


def school_holidays(dates: Dates) -> FlagArray:
    """1 on each state's school holidays, by a plausible rule for each season; (states, days)."""
    flags = np.zeros((len(STATES), len(dates)), np.uint8)
    weekend = (dates.astype("int64") + 3) % 7 >= 5
    for row, state in zip(flags, STATES, strict=True):
        for year in _years(dates):
            for start, length in _school_breaks(state, year):
                begin = np.datetime64(start, "D")
                row[(dates >= begin) & (dates < begin + length)] = 1
        if state not in _WEEKEND_STATES:
            row[weekend] = 0
    return flags


def _school_breaks(state: str, year: int) -> list[tuple[date, int]]:
    """First day and length of each break of a year, New Year's tail included."""
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


def _array(days: list[date]) -> Dates:
    return np.array(days, "datetime64[D]")
