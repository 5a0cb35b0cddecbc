"""Calendar columns compared with the standard library and the ``holidays`` package."""

import calendar
from datetime import date, timedelta
from typing import Any

import holidays
import numpy as np
import pytest
from dateutil.easter import easter
from hypothesis import given, settings
from hypothesis import strategies as st

from rossmann.epoch_days import to_date, to_day
from rossmann.errors import SettingsError
from rossmann.features import calendars


@settings(deadline=None)  # the first call reads the calendar
@given(st.dates(date(2000, 1, 1), date(2060, 12, 31)))
def test_date_table_matches_the_standard_library(when: date) -> None:
    row = calendars.date_table(np.array([to_day(when)], np.int32))[0]
    assert row[calendars.WEEKDAY] == when.isoweekday()
    assert row[calendars.DAY_OF_MONTH] == when.day
    assert row[calendars.DAY_OF_YEAR] == when.timetuple().tm_yday
    public = holidays.country_holidays("DE", years=when.year)
    last = calendar.monthrange(when.year, when.month)[1]
    later = [when.replace(day=day) for day in range(when.day + 1, last + 1)]
    working = [day for day in later if day.isoweekday() <= 5 and day not in public]
    assert row[calendars.WORKING_DAYS_LEFT] == len(working)
    assert row[calendars.MONTH] == when.month
    distances = [(when - easter(year)).days for year in (when.year - 1, when.year, when.year + 1)]
    assert row[calendars.EASTER] == min(90, max(-60, min(distances, key=abs)))
    days_left = (date(when.year, 12, 25) - when).days
    assert row[calendars.CHRISTMAS] == (60 if days_left < 0 else min(days_left, 60))
    assert to_date(to_day(when)) == when


def test_public_holidays_differ_by_state() -> None:
    first = date(2014, 1, 1)
    days = np.arange(365, dtype=np.int32) + to_day(first)
    codes = calendars.public_holidays(days)

    def code(state: str, when: date) -> int:
        return int(codes[calendars.country_regions("DE").index(state), (when - first).days])

    assert code("BY", date(2014, 8, 15)) == 1  # Assumption, in catholic towns
    assert code("SN", date(2014, 6, 19)) == 1  # Corpus Christi, in catholic towns
    assert code("BY", date(2014, 1, 6)) == 1  # Epiphany, not kept in Berlin
    assert code("BE", date(2014, 1, 6)) == 0
    assert code("BE", date(2014, 4, 18)) == code("BY", date(2014, 4, 21)) == 2
    assert code("HH", date(2014, 12, 25)) == code("HH", date(2014, 12, 26)) == 3
    assert code("HH", date(2014, 12, 24)) == 0


GERMAN = calendars.country_regions("DE")


def keep(country: str, states: tuple[str, ...], first: date, days: int) -> Any:
    """Holidays that a store of each state keeps, (days, stores), and the table of all."""
    axis = np.arange(days, dtype=np.int32) + to_day(first)
    table = calendars.public_holidays(axis, country)
    regions = calendars.country_regions(country)
    return table[[regions.index(state) for state in states]].T > 0, table


def test_infer_regions_from_kept_holidays() -> None:
    """With a gap in one store; states that no holiday tells apart stay unknown."""
    kept, table = keep("DE", ("BY", "SN", "BE", "NW"), date(2013, 1, 1), 900)
    known = np.ones_like(kept)
    known[100:300, 1] = False
    regions, candidates = calendars.infer_regions(kept & known, known, table)
    names = [[GERMAN[i] for i in np.flatnonzero(c)] for c in candidates.T]
    assert names == [["BY"], ["SN"], ["BE", "HB", "HH", "NI", "SH"], ["NW", "RP"]]
    expected = [GERMAN.index("BY"), GERMAN.index("SN"), -1 - GERMAN.index("BE")]
    assert regions[-1].tolist() == [*expected, -1 - GERMAN.index("NW")]
    assert set(regions[0]) == {-1}  # nothing told them apart yet


def test_regions_depend_on_no_holiday_after_the_day() -> None:
    kept, table = keep("DE", ("BY", "SN", "TH"), date(2013, 1, 1), 900)
    known, changed = np.ones_like(kept), kept.copy()
    changed[400:] ^= np.random.default_rng(1).random(changed[400:].shape) < 0.3
    regions, other = (calendars.infer_regions(k, known, table)[0] for k in (kept, changed))
    assert (regions[:400] == other[:400]).all()
    assert (regions[400:] != other[400:]).any()


def test_later_holidays_tell_states_apart_that_were_the_same() -> None:
    """31 October in Lower Saxony and 8 March in Berlin are holidays since 2018 and 2019."""
    kept, table = keep("DE", ("BE", "NI"), date(2013, 1, 1), 2_600)
    regions, _ = calendars.infer_regions(kept, np.ones_like(kept), table)
    at_2016 = regions[(date(2016, 1, 1) - date(2013, 1, 1)).days]
    assert (at_2016 == -1 - GERMAN.index("BE")).all()
    assert regions[-1].tolist() == [GERMAN.index("BE"), -1 - GERMAN.index("HB")]


@pytest.mark.parametrize("year", range(2018, 2031))
def test_holidays_of_an_unknown_state_are_those_that_all_candidates_have(year: int) -> None:
    kept, _ = keep("DE", ("BE", "NW"), date(2013, 1, 1), 900)
    _, past = keep("DE", ("BE",), date(2013, 1, 1), 900)
    _, candidates = calendars.infer_regions(kept, np.ones_like(kept), past)
    first = date(year, 1, 1)
    axis = np.arange(365, dtype=np.int32) + to_day(first)
    table = calendars.public_holidays(axis)
    unknown, known = calendars.shared_holidays(table, candidates).T
    assert (known == table[GERMAN.index("NW")]).all()  # as in Rhineland-Palatinate, always

    def code(month: int, day: int) -> int:
        return int(unknown[(date(year, month, day) - first).days])

    assert code(3, 8) == code(10, 31) == 0  # only some of the five have them
    assert code(1, 1) == code(5, 1) == code(10, 3) == 1
    assert code(12, 25) == 3


@pytest.mark.parametrize(
    ("country", "holiday"), [("DE", (10, 3)), ("FR", (7, 14)), ("AT", (10, 26))]
)
@pytest.mark.parametrize("year", [2018, 2022, 2030])
def test_calendar_of_a_country(country: str, holiday: tuple[int, int], year: int) -> None:
    first = date(year, 1, 1)
    axis = np.arange(365, dtype=np.int32) + to_day(first)
    table = calendars.public_holidays(axis, country)
    at = (date(year, *holiday) - first).days
    others = {"DE", "FR", "AT"} - {country}
    assert (table[:, at] == 1).all()
    for other in others:
        assert not (calendars.public_holidays(axis, other)[:, at] > 0).all()
    left = calendars.date_table(axis, country)[:, calendars.WORKING_DAYS_LEFT]
    public = holidays.country_holidays(country, years=year)
    for month in range(1, 13):
        start = date(year, month, 1)
        rest = [start + timedelta(days=i) for i in range(1, 31)]
        expected = sum(d.month == month and d.weekday() < 5 and d not in public for d in rest)
        assert left[(start - first).days] == expected


def test_an_unknown_country_is_named() -> None:
    with pytest.raises(SettingsError, match="'XX' is not known"):
        calendars.country_regions("XX")


def test_date_regressors_follow_the_year() -> None:
    first = to_day(date(2013, 1, 1))
    days = np.arange(730, dtype=np.int32) + first
    terms = calendars.date_regressors(days, first)
    ramp = terms[:, calendars.RAMP]
    december = [i for i in range(730) if ramp[i] > 0]
    assert [date(2013, 1, 1) + timedelta(i) for i in (december[0], december[22])] == [
        date(2013, 12, 1),
        date(2013, 12, 23),
    ]
    assert ramp[december[22]] == 1.0
    assert abs(terms[365, calendars.TREND] - 1.0) < 0.001
    assert np.allclose((terms[:, 1:7:2] ** 2 + terms[:, 2:8:2] ** 2)[:, :3], 1.0)
