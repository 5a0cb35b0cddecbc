"""Pictures: every day is drawn, and the drawing is valid Vega-Lite."""

from datetime import date, timedelta
from itertools import pairwise
from typing import Any

import polars as pl

from rossmann.dashboard.shared import charts
from rossmann.dashboard.shared.charts import Day

START = date(2015, 7, 1)


def drawn(chart: Any) -> dict[str, Any]:
    picture: dict[str, Any] = chart.to_dict()
    return picture


def rows_of(picture: dict[str, Any]) -> list[dict[str, Any]]:
    return max(picture["datasets"].values(), key=len)


def some_days() -> list[Day]:
    past = [
        Day(START + timedelta(days=i), charts.SOLD, 100.0 + i, None, None, "", i % 2 == 0)
        for i in range(20)
    ]
    past[3] = Day(past[3].day, charts.SOLD, None, None, None, "", False)
    ahead = START + timedelta(days=20)
    return [*past, Day(ahead, charts.CHOSEN, 150.0, 120.0, 180.0, "", True)]


def test_each_day_has_its_bar_and_an_unknown_day_none() -> None:
    rows = rows_of(drawn(charts.store_chart(some_days(), START + timedelta(days=19))))
    assert len(rows) == 21
    assert rows[3]["sales"] is None
    assert [row["kind"] for row in rows].count(charts.CHOSEN) == 1


def test_bars_of_neighbouring_days_do_not_touch() -> None:
    rows = rows_of(drawn(charts.store_chart(some_days(), None)))
    assert all(one["end"] < two["start"] for one, two in pairwise(rows))


def test_the_end_of_known_sales_is_drawn_only_where_there_is_one() -> None:
    with_end = drawn(charts.store_chart(some_days(), START))
    without = drawn(charts.store_chart(some_days(), None))
    assert len(with_end["layer"]) == len(without["layer"]) + 1


def test_totals_show_every_day() -> None:
    days = [START + timedelta(days=i) for i in range(5)]
    frame = pl.DataFrame({"day": days, "total": [1.0, 2.0, 3.0, 4.0, 5.0], "stores": [1] * 5})
    assert [row["total"] for row in rows_of(drawn(charts.totals_chart(frame)))] == [1, 2, 3, 4, 5]


def test_the_model_alone_is_coloured() -> None:
    scores = {"This model": 0.1, "Median": 0.13}
    rows = rows_of(drawn(charts.accuracy_chart(scores)))
    assert [(row["who"], row["ours"]) for row in rows] == [("This model", True), ("Median", False)]
