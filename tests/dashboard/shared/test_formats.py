"""Number format: one rounding, locales, currencies, and unknown settings."""

import numpy as np
import polars as pl
import pytest
from streamlit.testing.v1 import AppTest

from rossmann.dashboard.shared.formats import number_format, round_sales
from rossmann.errors import SettingsError


def set_format(monkeypatch: pytest.MonkeyPatch, locale: str, currency: str) -> None:
    monkeypatch.setenv("ROSSMANN_LOCALE", locale)
    monkeypatch.setenv("ROSSMANN_CURRENCY", currency)


@pytest.mark.parametrize(
    ("locale", "currency", "expected"),
    [
        ("en", "", "12,210"),
        ("en", "EUR", "€12,210"),
        ("de", "", "12.210"),
        ("de", "EUR", "12.210\N{NO-BREAK SPACE}€"),
        ("de-CH", "CHF", "CHF\N{NO-BREAK SPACE}12'210"),
        ("fr", "", "12\N{NARROW NO-BREAK SPACE}210"),
    ],
)
def test_sales_are_written_in_the_locale(
    monkeypatch: pytest.MonkeyPatch, locale: str, currency: str, expected: str
) -> None:
    set_format(monkeypatch, locale, currency)
    assert number_format().money(12_209.985) == expected


def test_changes_and_shares_follow_the_locale(monkeypatch: pytest.MonkeyPatch) -> None:
    set_format(monkeypatch, "de", "")
    formats = number_format()
    assert formats.signed(-1234.4) == "-1.234"
    assert formats.signed_percent(8.46) == "+8,5 %"
    assert formats.signed_percent(-0.02) == "+0,0 %"
    assert formats.percent(0.058) == "6 %"


def test_rounding_of_a_table_is_that_of_a_number() -> None:
    values = np.array([12_209.985, 0.5, 1.5, 2.5, 1e9 + 0.4999])
    rounded = [f"{value:,.0f}" for value in round_sales(values)]
    assert rounded == [number_format().whole(value) for value in values]


@pytest.mark.parametrize(("locale", "currency"), [("xx", ""), ("en_QQQ", ""), ("en", "ABC")])
def test_unknown_setting_is_named(
    monkeypatch: pytest.MonkeyPatch, locale: str, currency: str
) -> None:
    set_format(monkeypatch, locale, currency)
    with pytest.raises(SettingsError, match=currency or locale):
        number_format()


TABLE_PAGE = """
import polars as pl
from rossmann.dashboard.shared.formats import show_table
table = pl.DataFrame({"Store": [1, 2, 3], "Total": [12210, 980, None]})
show_table(table, ("Total",))
"""


def shown_table() -> pl.DataFrame:
    page = AppTest.from_string(TABLE_PAGE).run()
    assert not page.exception
    return pl.from_pandas(page.dataframe[0].value)


def test_english_tables_hold_numbers() -> None:
    assert shown_table()["Total"].to_list() == [12210, 980, None]


def test_tables_of_another_locale_hold_text_that_sorts_by_value(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    set_format(monkeypatch, "de", "")
    texts = shown_table()["Total"].to_list()
    assert texts == ["12.210", "   980", None]
    assert sorted(texts[:2]) == ["   980", "12.210"]
