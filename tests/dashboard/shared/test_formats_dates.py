"""Typed dates: every usual format, weeks, and all candidates of an ambiguous text."""

from datetime import date, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rossmann.dashboard.shared.formats import (
    contradicted_date,
    long_date,
    parse_date_candidates,
    short_date,
)

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
        "Fr 21.08.2015",
        "Freitag, 21. August 2015",
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
def test_any_text_has_at_most_two_days_or_weeks(text: str) -> None:
    assert len(parse_date_candidates(text)) in (0, 1, 2, 7, 14)


TODAY = date(2015, 8, 1)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("5 August", [date(2015, 8, 5)]),
        ("Aug 5", [date(2015, 8, 5)]),
        ("5. August", [date(2015, 8, 5)]),
        ("01.08.", [date(2015, 8, 1)]),
        ("Mi 5. Aug", [date(2015, 8, 5)]),
        # The next one is further off than a plan: the last one may be meant too.
        ("5 July", [date(2015, 7, 5), date(2016, 7, 5)]),
        ("29 Feb", [date(2012, 2, 29), date(2016, 2, 29)]),
    ],
)
def test_day_without_a_year_is_the_next_one(text: str, expected: list[date]) -> None:
    assert parse_date_candidates(text, TODAY) == expected


@pytest.mark.parametrize("text", ["KW 32", "kw32", "KW 32/2015", "week 32", "2015-W32", "W32 2015"])
def test_week_has_seven_candidates(text: str) -> None:
    days = [date(2015, 8, 3) + timedelta(days=i) for i in range(7)]
    assert parse_date_candidates(text, TODAY) == days
    assert parse_date_candidates(f"Di {text}", TODAY) == [date(2015, 8, 4)]


def test_week_of_today_has_not_passed() -> None:
    assert parse_date_candidates("KW 31", TODAY)[0] == date(2015, 7, 27)
    assert len(parse_date_candidates("KW 30", TODAY)) == 14


def test_wrong_weekday_has_no_candidate_but_is_told() -> None:
    assert parse_date_candidates("So 01.08.2015") == []
    assert contradicted_date("So 01.08.2015") == date(2015, 8, 1)
    assert contradicted_date("Sa 01.08.2015") is None
    assert contradicted_date("soon") is None
