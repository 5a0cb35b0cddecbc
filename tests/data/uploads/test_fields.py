"""Column names that mean a field, and what an invalid store looks like."""

import pytest

from rossmann.data.uploads.fields import field_columns, invalid_value_error, known_name


@pytest.mark.parametrize(
    ("column", "field"),
    [
        *((name, "StateHoliday") for name in ("State-Holiday", "state_holiday", "STATE HOLIDAY")),
        *((name, "Store") for name in ("\u200bStore", "Store\u00a0", "Filial-Nr.", "\ufeffSTORE")),
        *((name, "Open") for name in ("Geo\u0308ffnet", "GE\u00d6FFNET", "geoeffnet")),
        *((name, None) for name in ("Stores", "Open %", "Note", "")),
    ],
)
def test_names_of_columns(column: str, field: str | None) -> None:
    assert known_name(column) == field


def test_a_column_read_under_another_name_is_said() -> None:
    columns = field_columns("plan", ["Filial-Nr.", "date"], required=())
    assert columns.notes == ("the column Filial-Nr. is read as Store",)


@pytest.mark.parametrize(
    "text",
    [
        *("Total", "TOTALS:", "Grand Total", "Sub-total", "Sum", "\u03a3", "\u2211 2"),
        *("Summe 2015", "Gesamt", "Gesamtergebnis", "Zwischensumme", "Ergebnis"),
    ],
)
def test_a_row_of_totals_is_named(text: str) -> None:
    assert invalid_value_error("Store", text, "")[0].endswith("a row of totals: remove it")


@pytest.mark.parametrize("text", ["Sumatra", "Totally", "1a", "Store 1"])
def test_other_texts_are_no_totals(text: str) -> None:
    assert invalid_value_error("Store", text, "")[0].endswith(f"(got {text})")


def test_a_second_header_is_named() -> None:
    assert "a second row of column names" in invalid_value_error("Store", "STORE", "")[0]
