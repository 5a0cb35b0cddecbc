"""Decimal mark detection: one mark for a column, or an error that names the numbers."""

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rossmann.data.uploads.value_formats import AmbiguousNumbersError, detect_decimal_mark

numbers = st.sampled_from(
    [
        *("1", "0.5", "0,5", "1.234,5", "1,234.5", "-1.234,5", "1.234.567", "1,234,567", "1.234"),
        *("1,234", "+1.5", "1,2,3", "x.y", ".", "1.2,"),
    ]
)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["6.133,5", "0.5"], r"the numbers have different decimal marks \(6\.133,5 and 0\.5\)"),
        (["0.5", "1.234.567"], r"different decimal marks \(1\.234\.567 and 0\.5\)"),
        (["0,5", "0.5", "1,000"], r"1,000 can be read as 1 or as 1000 \(the file has 0,5 and 0\.5"),
    ],
)
def test_contradicting_numbers_are_named(texts: list[str], message: str) -> None:
    with pytest.raises(AmbiguousNumbersError, match=message):
        detect_decimal_mark([pl.Series(texts)])


@given(st.lists(st.lists(numbers, max_size=4), max_size=3))
def test_any_columns_have_a_mark_or_are_ambiguous(columns: list[list[str]]) -> None:
    texts = [pl.Series(column, dtype=pl.String) for column in columns]
    try:
        mark = detect_decimal_mark(texts)
    except AmbiguousNumbersError as error:
        assert "say which decimal mark the file has" in str(error)
        return
    assert mark in (None, ".", ",")
