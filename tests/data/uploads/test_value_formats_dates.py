"""Date format detection: one format for a column; an ambiguous column is an error."""

from datetime import date

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rossmann.data.uploads.fields import normalize_text
from rossmann.data.uploads.value_formats import (
    DATE_FORMATS,
    AmbiguousDatesError,
    detect_date_format,
    invalid_date_message,
    parse_dates,
)
from rossmann.errors import DataValidationError

WRITERS = {
    "YYYY-MM-DD": "{0:%Y}-{0:%m}-{0:%d}",
    "DD.MM.YYYY": "{0:%d}.{0:%m}.{0:%Y}",
    "DD.MM.YY": "{0:%d}.{0:%m}.{0:%y}",
    "MM/DD/YYYY": "{0:%m}/{0:%d}/{0:%Y}",
    "DD/MM/YYYY": "{0:%d}/{0:%m}/{0:%Y}",
    "MM/DD/YY": "{0:%m}/{0:%d}/{0:%y}",
    "DD/MM/YY": "{0:%d}/{0:%m}/{0:%y}",
    "YYYY/MM/DD": "{0:%Y}/{0:%m}/{0:%d}",
    "YYYYMMDD": "{0:%Y}{0:%m}{0:%d}",
    "DD-Mon-YYYY": "{0:%d}-{0:%b}-{0:%Y}",
    "DD-Mon-YY": "{0:%d}-{0:%b}-{0:%y}",
    "YYYY.MM.DD": "{0:%Y}.{0:%m}.{0:%d}",
    "MM-DD-YYYY": "{0:%m}-{0:%d}-{0:%Y}",
    "DD-MM-YYYY": "{0:%d}-{0:%m}-{0:%Y}",
    "Mon-DD-YYYY": "{0:%B} {0:%d}, {0:%Y}",
}
days = st.lists(st.dates(date(2000, 1, 1), date(2099, 12, 31)), min_size=1, max_size=30)
formats = st.sampled_from(DATE_FORMATS)


def format_dates(column: list[date], date_format: str) -> list[str]:
    return [WRITERS[date_format].format(day) for day in column]


def date_formats(texts: list[str]) -> list[str]:
    """Every format that reads each of the texts."""
    unique = set(texts)
    return [
        name for name in DATE_FORMATS if unique and len(parse_dates(texts, name)) == len(unique)
    ]


def test_documented_formats_are_supported() -> None:
    documented = {"YYYY-MM-DD", "MM/DD/YY", "MM/DD/YYYY", "DD.MM.YYYY"}
    assert documented <= set(DATE_FORMATS)
    assert set(WRITERS) == set(DATE_FORMATS)


@given(days, formats)
def test_written_dates_are_parsed_back(column: list[date], date_format: str) -> None:
    texts = format_dates(column, date_format)
    assert date_format in date_formats(texts)
    parsed = parse_dates(texts, date_format)
    assert [parsed[text] for text in texts] == column


@given(days, formats)
def test_the_detected_format_is_right_or_the_column_is_ambiguous(
    column: list[date], date_format: str
) -> None:
    texts = format_dates(column, date_format)
    try:
        detected = detect_date_format(texts)
    except AmbiguousDatesError as error:
        assert date_format in error.formats
        interpretations = {
            tuple(parse_dates(texts, name)[t] for t in texts) for name in error.formats
        }
        assert len(interpretations) == len(error.formats) > 1
    else:
        parsed = parse_dates(texts, detected)
        assert [parsed[text] for text in texts] == column


@given(days, formats, st.lists(st.text(max_size=12), max_size=5))
def test_invalid_texts_do_not_change_the_other_dates(
    column: list[date], date_format: str, invalid: list[str]
) -> None:
    texts = format_dates(column, date_format)
    noise = [text for text in invalid if not date_formats([text])][: len(texts)]
    try:
        detected = detect_date_format([*noise, *texts])
    except AmbiguousDatesError as error:
        assert date_format in error.formats
    else:
        parsed = parse_dates(texts, detected)
        assert [parsed[text] for text in texts] == column


@given(days, formats)
def test_the_order_of_rows_does_not_matter(column: list[date], date_format: str) -> None:
    def result(texts: list[str]) -> str | list[str]:
        try:
            return detect_date_format(texts)
        except AmbiguousDatesError as error:
            return error.formats

    texts = format_dates(column, date_format)
    assert result(texts) == result(texts[::-1])


def test_interchangeable_days_and_months_are_ambiguous() -> None:
    with pytest.raises(AmbiguousDatesError, match="08/01/2015") as caught:
        detect_date_format(["08/01/2015", "08/02/2015"])
    assert caught.value.formats == ["MM/DD/YYYY", "DD/MM/YYYY"]


@pytest.mark.parametrize(
    ("texts", "date_format"),
    [
        (["08/01/2015", "08/13/2015"], "MM/DD/YYYY"),
        (["08/01/2015", "13/08/2015"], "DD/MM/YYYY"),
        (["08/01/15", "08/31/15"], "MM/DD/YY"),
        (["8/1/2015", "8/31/2015"], "MM/DD/YYYY"),
        (["1.8.2015", "02.08.2015"], "DD.MM.YYYY"),
        (["01/01/2015", "02/02/2015"], "MM/DD/YYYY"),  # the same days either way
    ],
)
def test_one_unambiguous_row_decides_the_column(texts: list[str], date_format: str) -> None:
    assert detect_date_format(texts) == date_format


def test_contradicting_rows_are_ambiguous() -> None:
    with pytest.raises(AmbiguousDatesError):
        detect_date_format(["08/13/2015", "13/08/2015", "08/14/2015", "01/02/2015"])


def test_rows_in_another_format_do_not_change_the_detected_one() -> None:
    assert detect_date_format(["2015-08-01", "2015-08-02", "03.08.2015"]) == "YYYY-MM-DD"


@pytest.mark.parametrize(
    "text",
    [
        "2015-02-29",
        "2015-13-01",
        "31.04.2015",
        "20151301",
        "Fr 13.08.2015",
        "32-Jan-15",
        "1-Xxx-15",
        "soon",
        "",
        "\u0662015-08-01",
    ],
)
def test_invalid_dates_have_no_format(text: str) -> None:
    assert date_formats([text]) == []


@pytest.mark.parametrize(
    "text",
    [
        *("2015-8-13", "2015.8.13", "13-08-2015", "08-13-2015", "13.8.15", "Do 13.08.2015"),
        *("Do., 13.08.2015", "Thu 8/13/2015", "Donnerstag, 13. August 2015", "13 Aug. 2015"),
        *("August 13, 2015", "Aug-13-2015", "Thursday, Aug 13, 2015", "13-August-15"),
    ],
)
def test_dates_with_one_reading(text: str) -> None:
    assert parse_dates([text], detect_date_format([text])) == {text: date(2015, 8, 13)}


@pytest.mark.parametrize(
    ("texts", "date_format"),
    [
        (["Tue 09/08/2015", "Wed 09/09/2015"], "MM/DD/YYYY"),
        (["So 09/08/2015", "Mi 09/09/2015"], "DD/MM/YYYY"),
    ],
)
def test_weekdays_decide_between_formats(texts: list[str], date_format: str) -> None:
    assert detect_date_format(texts) == date_format


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("2015-W33-4", "formats that are read: YYYY-MM-DD, YYYY/MM/DD"),
        ("Fr 13.08.2015", "that day is another weekday"),
        ("13.08.2015", "all dates of a file must be written in one way"),
        ("42229", "Excel's number for 2015-08-13"),
        ("13.08.2015 14:30", "it has a time of day"),
    ],
)
def test_an_invalid_date_is_explained(text: str, said: str) -> None:
    message = invalid_date_message(text, "YYYY-MM-DD")
    assert message.startswith(f"Date must be a day written YYYY-MM-DD (got {text})")
    assert said in message


@pytest.mark.parametrize("time", ["0:00", "00:00 Uhr", "00:00:00 UTC", "12:00:00 AM", "00:00:00.0"])
def test_a_midnight_after_a_date_is_dropped(time: str) -> None:
    column = normalize_text(pl.Series([f"13.08.2015 {time}", f"13. August 2015 {time}"]))
    assert column.to_list() == ["13.08.2015", "13. August 2015"]


def test_an_empty_column_has_no_format() -> None:
    assert date_formats([]) == []


def test_error_for_an_unknown_format_names_the_supported_ones() -> None:
    with pytest.raises(DataValidationError, match="YYYY-MM-DD, YYYY/MM/DD"):
        parse_dates(["2015-08-01"], "YYYY DDD")
