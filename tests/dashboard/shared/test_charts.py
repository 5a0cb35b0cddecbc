"""Charts: rows of their data, and valid Vega-Lite specifications."""

from datetime import date, timedelta
from typing import Any

import polars as pl
import pytest

from rossmann.dashboard.shared import charts
from rossmann.dashboard.shared.charts import Day

START = date(2015, 7, 1)


def to_spec(chart: Any) -> dict[str, Any]:
    spec: dict[str, Any] = chart.to_dict()
    return spec


def data_rows(spec: dict[str, Any]) -> list[dict[str, Any]]:
    return max(spec["datasets"].values(), key=len)


def example_days() -> list[Day]:
    past = [
        Day(START + timedelta(days=i), charts.SOLD, 100.0 + i, None, None, True, i % 2 == 0)
        for i in range(20)
    ]
    past[3] = Day(past[3].day, charts.SOLD, None, None, None, False, False)
    selected = START + timedelta(days=20)
    return [*past, Day(selected, charts.SELECTED, 150.0, 120.0, 180.0, True, True)]


def test_store_chart_has_a_row_per_day_in_plain_words() -> None:
    rows = data_rows(to_spec(charts.store_chart(example_days(), START + timedelta(days=19))))
    assert len(rows) == 21
    assert list(rows[0]) == [
        "Day", "What", "Sales", "80 % from", "80 % to", "Open", "Promotion",
    ]  # fmt: skip
    assert rows[3]["Sales"] is None
    assert [row["What"] for row in rows].count(charts.SELECTED) == 1


def test_tooltips_have_no_field_that_a_bar_lacks() -> None:
    spec = to_spec(charts.store_chart(example_days(), None))
    sold, forecast = (
        {item["field"] for item in layer["encoding"]["tooltip"]} for layer in spec["layer"][:2]
    )
    assert sold == {"Day", "Sales", "Promotion"}
    assert forecast == sold | {"80 % from", "80 % to"}


def test_store_chart_bars_do_not_overlap() -> None:
    assert charts._BAR_END - charts._BAR_START <= 24


def test_bars_stand_above_the_name_of_their_day() -> None:
    assert charts._BAR_START == -charts._BAR_END


def test_store_chart_marks_the_end_of_known_sales() -> None:
    with_end = to_spec(charts.store_chart(example_days(), START))
    without = to_spec(charts.store_chart(example_days(), None))
    assert len(with_end["layer"]) == len(without["layer"]) + 1


def test_totals_chart_has_a_row_per_day() -> None:
    days = [START + timedelta(days=i) for i in range(5)]
    frame = pl.DataFrame({"Day": days, "Total forecast": range(1, 6), "Stores open": [1] * 5})
    rows = data_rows(to_spec(charts.totals_chart(frame)))
    assert [row["Total forecast"] for row in rows] == [1, 2, 3, 4, 5]


def test_accuracy_chart_colours_only_the_model() -> None:
    spec = to_spec(charts.accuracy_chart({"This model": 0.1, "Median": 0.13}))
    assert [(row["Forecast by"], row["Error"]) for row in data_rows(spec)] == [
        ("This model", "10.0 %"),
        ("Median", "13.0 %"),
    ]
    condition = spec["layer"][0]["encoding"]["color"]["condition"]
    assert "This model" in condition["test"]


def test_numbers_of_charts_follow_the_locale(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROSSMANN_LOCALE", "de")
    monkeypatch.setenv("ROSSMANN_CURRENCY", "EUR")
    spec = to_spec(charts.store_chart(example_days(), None))
    assert spec["config"]["locale"]["number"]["thousands"] == "."
    assert "Sales a day (EUR)" in str(spec)
