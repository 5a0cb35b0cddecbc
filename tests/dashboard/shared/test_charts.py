"""Charts: rows of their data, and valid Vega-Lite specifications."""

from datetime import date, timedelta
from itertools import pairwise
from typing import Any

import polars as pl

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
        Day(START + timedelta(days=i), charts.SOLD, 100.0 + i, None, None, "", i % 2 == 0)
        for i in range(20)
    ]
    past[3] = Day(past[3].day, charts.SOLD, None, None, None, "", False)
    selected = START + timedelta(days=20)
    return [*past, Day(selected, charts.SELECTED, 150.0, 120.0, 180.0, "", True)]


def test_store_chart_has_a_row_per_day() -> None:
    rows = data_rows(to_spec(charts.store_chart(example_days(), START + timedelta(days=19))))
    assert len(rows) == 21
    assert rows[3]["sales"] is None
    assert [row["kind"] for row in rows].count(charts.SELECTED) == 1


def test_store_chart_bars_do_not_overlap() -> None:
    rows = data_rows(to_spec(charts.store_chart(example_days(), None)))
    assert all(one["end"] < two["start"] for one, two in pairwise(rows))


def test_store_chart_marks_the_end_of_known_sales() -> None:
    with_end = to_spec(charts.store_chart(example_days(), START))
    without = to_spec(charts.store_chart(example_days(), None))
    assert len(with_end["layer"]) == len(without["layer"]) + 1


def test_totals_chart_has_a_row_per_day() -> None:
    days = [START + timedelta(days=i) for i in range(5)]
    frame = pl.DataFrame({"day": days, "total": [1.0, 2.0, 3.0, 4.0, 5.0], "stores": [1] * 5})
    rows = data_rows(to_spec(charts.totals_chart(frame)))
    assert [row["total"] for row in rows] == [1, 2, 3, 4, 5]


def test_accuracy_chart_colours_only_the_model() -> None:
    scores = {"This model": 0.1, "Median": 0.13}
    rows = data_rows(to_spec(charts.accuracy_chart(scores)))
    assert [(row["who"], row["ours"]) for row in rows] == [("This model", True), ("Median", False)]
