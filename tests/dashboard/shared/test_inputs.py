"""One typed date: any usual way is read, and doubt is told rather than resolved."""

from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rossmann.dashboard.shared import inputs as dates

DAYS = st.dates(date(2000, 1, 1), date(2068, 12, 31))


@pytest.mark.parametrize(
    "text",
    [
        "2015-08-21",
        "2015/08/21",
        "2015-8-21",
        "20150821",
        "08/21/2015",
        "08/21/15",
        "8/21/2015",
        "21/08/2015",
        "21.08.2015",
        "21.8.15",
        "21-08-2015",
        "21 August 2015",
        "21 aug 2015",
        "21. August 2015",
        "August 21, 2015",
        "Aug 21 2015",
        "21st Aug 2015",
        "Friday 21 August 2015",
        "Fri, 21.08.2015",
        "2015-08-21T00:00:00",
        "2015-08-21 00:00",
        "  2015-08-21 ",
    ],
)
def test_usual_ways_are_read(text: str) -> None:
    assert dates.parse_date_candidates(text) == [date(2015, 8, 21)]


@pytest.mark.parametrize(
    "text",
    ["", "soon", "2015-02-30", "13/13/2015", "2015-08", "1/2", "201508", "12345", "0000-01-01"],
)
def test_what_is_no_date_has_no_reading(text: str) -> None:
    assert dates.parse_date_candidates(text) == []


def test_day_and_month_either_way_gives_both() -> None:
    assert set(dates.parse_date_candidates("03/04/2015")) == {date(2015, 3, 4), date(2015, 4, 3)}


def test_the_same_day_either_way_is_no_doubt() -> None:
    assert dates.parse_date_candidates("04/04/2015") == [date(2015, 4, 4)]


@given(DAYS)
def test_what_is_spoken_can_be_read_back(day: date) -> None:
    assert dates.parse_date_candidates(dates.long_date(day)) == [day]
    assert dates.parse_date_candidates(dates.short_date(day)) == [day]


@given(DAYS, st.sampled_from(["%m/%d/%Y", "%d/%m/%Y", "%m/%d/%y", "%d.%m.%Y", "%Y-%m-%d"]))
def test_the_day_that_was_meant_is_among_the_readings(day: date, form: str) -> None:
    assert day in dates.parse_date_candidates(day.strftime(form))


@given(st.text(max_size=30))
def test_no_text_breaks_it(text: str) -> None:
    assert len(dates.parse_date_candidates(text)) <= 2
