"""Calendar columns compared with the standard library and the ``holidays`` package."""

import calendar
from datetime import date, timedelta

import holidays
import numpy as np
from dateutil.easter import easter
from hypothesis import given, settings
from hypothesis import strategies as st

from rossmann.epoch_days import to_date, to_day
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
        return int(codes[calendars.GERMAN_STATES.index(state), (when - first).days])

    assert code("BY", date(2014, 8, 15)) == 1  # Assumption, in catholic towns
    assert code("SN", date(2014, 6, 19)) == 1  # Corpus Christi, in catholic towns
    assert code("BY", date(2014, 1, 6)) == 1  # Epiphany, not kept in Berlin
    assert code("BE", date(2014, 1, 6)) == 0
    assert code("BE", date(2014, 4, 18)) == code("BY", date(2014, 4, 21)) == 2
    assert code("HH", date(2014, 12, 25)) == code("HH", date(2014, 12, 26)) == 3
    assert code("HH", date(2014, 12, 24)) == 0


def test_infer_regions_from_kept_holidays() -> None:
    days = np.arange(900, dtype=np.int32) + to_day(date(2013, 1, 1))
    table = calendars.public_holidays(days)
    states = [calendars.GERMAN_STATES.index(s) for s in ("BY", "SN", "BE", "NW")]
    kept = table[states].T > 0
    known = np.ones_like(kept)
    known[100:300, 1] = False  # a store with a gap
    regions = calendars.infer_regions(kept & known, known, table)
    for region, state in zip(regions, states, strict=True):
        assert (table[region] > 0).tolist() == (table[state] > 0).tolist()


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
