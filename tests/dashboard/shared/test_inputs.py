"""Typed dates: every usual format, and all candidates of an ambiguous one."""

from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rossmann.dashboard.shared.inputs import long_date, parse_date_candidates, short_date

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
def test_usual_formats_are_parsed(text: str) -> None:
    assert parse_date_candidates(text) == [date(2015, 8, 21)]


@pytest.mark.parametrize(
    "text",
    ["", "soon", "2015-02-30", "13/13/2015", "2015-08", "1/2", "201508", "12345", "0000-01-01"],
)
def test_invalid_dates_have_no_candidate(text: str) -> None:
    assert parse_date_candidates(text) == []


def test_ambiguous_date_has_two_candidates() -> None:
    assert set(parse_date_candidates("03/04/2015")) == {date(2015, 3, 4), date(2015, 4, 3)}


def test_equal_day_and_month_has_one_candidate() -> None:
    assert parse_date_candidates("04/04/2015") == [date(2015, 4, 4)]


@given(DAYS)
def test_formatted_dates_can_be_parsed(day: date) -> None:
    assert parse_date_candidates(long_date(day)) == [day]
    assert parse_date_candidates(short_date(day)) == [day]


@given(DAYS, st.sampled_from(["%m/%d/%Y", "%d/%m/%Y", "%m/%d/%y", "%d.%m.%Y", "%Y-%m-%d"]))
def test_formatted_date_is_among_the_candidates(day: date, date_format: str) -> None:
    assert day in parse_date_candidates(day.strftime(date_format))


@given(st.text(max_size=30))
def test_any_text_has_at_most_two_candidates(text: str) -> None:
    assert len(parse_date_candidates(text)) <= 2
