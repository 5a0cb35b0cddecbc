"""A column of dates has one format; where the file cannot tell which, nobody guesses."""

from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rossmann.data.uploads.fields import (
    DATE_FORMATS,
    AmbiguousDatesError,
    date_formats,
    detect_date_format,
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
}
days = st.lists(st.dates(date(2000, 1, 1), date(2099, 12, 31)), min_size=1, max_size=30)
formats = st.sampled_from(DATE_FORMATS)


def written(column: list[date], form: str) -> list[str]:
    return [WRITERS[form].format(day) for day in column]


def test_the_formats_that_users_were_promised_are_there() -> None:
    promised = {"YYYY-MM-DD", "MM/DD/YY", "MM/DD/YYYY", "DD.MM.YYYY"}
    assert promised <= set(DATE_FORMATS)
    assert set(WRITERS) == set(DATE_FORMATS)


@given(days, formats)
def test_what_was_written_is_read_back(column: list[date], form: str) -> None:
    texts = written(column, form)
    assert form in date_formats(texts)
    read = parse_dates(texts, form)
    assert [read[text] for text in texts] == column


@given(days, formats)
def test_the_format_is_found_or_asked_for_never_mistaken(column: list[date], form: str) -> None:
    texts = written(column, form)
    try:
        chosen = detect_date_format(texts)
    except AmbiguousDatesError as error:
        assert form in error.formats
        readings = {tuple(parse_dates(texts, name)[t] for t in texts) for name in error.formats}
        assert len(readings) == len(error.formats) > 1
    else:
        read = parse_dates(texts, chosen)
        assert [read[text] for text in texts] == column


@given(days, formats, st.lists(st.text(max_size=12), max_size=5))
def test_garbage_in_some_rows_mistakes_no_other(
    column: list[date], form: str, garbage: list[str]
) -> None:
    texts = written(column, form)
    noise = [text for text in garbage if not date_formats([text])][: len(texts)]
    try:
        chosen = detect_date_format([*noise, *texts])
    except AmbiguousDatesError as error:
        assert form in error.formats
    else:
        read = parse_dates(texts, chosen)
        assert [read[text] for text in texts] == column


@given(days, formats)
def test_the_order_of_rows_does_not_matter(column: list[date], form: str) -> None:
    def verdict(texts: list[str]) -> str | list[str]:
        try:
            return detect_date_format(texts)
        except AmbiguousDatesError as error:
            return error.formats

    texts = written(column, form)
    assert verdict(texts) == verdict(texts[::-1])


def test_days_and_months_that_could_be_either_are_asked_about() -> None:
    with pytest.raises(AmbiguousDatesError, match="08/01/2015") as caught:
        detect_date_format(["08/01/2015", "08/02/2015"])
    assert caught.value.formats == ["MM/DD/YYYY", "DD/MM/YYYY"]


@pytest.mark.parametrize(
    ("texts", "form"),
    [
        (["08/01/2015", "08/13/2015"], "MM/DD/YYYY"),
        (["08/01/2015", "13/08/2015"], "DD/MM/YYYY"),
        (["08/01/15", "08/31/15"], "MM/DD/YY"),
        (["8/1/2015", "8/31/2015"], "MM/DD/YYYY"),
        (["1.8.2015", "02.08.2015"], "DD.MM.YYYY"),
        (["01/01/2015", "02/02/2015"], "MM/DD/YYYY"),  # the same days either way
    ],
)
def test_one_telling_row_settles_the_column(texts: list[str], form: str) -> None:
    assert detect_date_format(texts) == form


def test_rows_that_contradict_each_other_are_asked_about_too() -> None:
    with pytest.raises(AmbiguousDatesError):
        detect_date_format(["08/13/2015", "13/08/2015", "08/14/2015", "01/02/2015"])


def test_a_minority_format_is_left_for_faults() -> None:
    assert detect_date_format(["2015-08-01", "2015-08-02", "03.08.2015"]) == "YYYY-MM-DD"


@pytest.mark.parametrize(
    "text",
    [
        "2015-02-29",
        "2015-13-01",
        "31.04.2015",
        "2015-8-1",
        "20150801",
        "soon",
        "",
        "\u0662015-08-01",
    ],
)
def test_what_is_no_date_has_no_format(text: str) -> None:
    assert date_formats([text]) == []


def test_no_text_has_no_format() -> None:
    assert date_formats([]) == []


def test_an_unknown_format_names_those_there_are() -> None:
    with pytest.raises(DataValidationError, match="YYYY-MM-DD, DD"):
        parse_dates(["2015-08-01"], "YYYY/MM/DD")
