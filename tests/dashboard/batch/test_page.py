"""Batch page: upload, doubt, faults, forecasts and files, as a planner meets them."""

from datetime import date, timedelta
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from rossmann.dashboard.batch import job as batch_job
from rossmann.dashboard.batch import result as batch_result
from rossmann.dashboard.shared import service_state as state

BATCH = "from rossmann.dashboard import batch, state\nwith state.guarded():\n    batch.show()\n"
HEADER = "Store,Date,Open,Promo,StateHoliday,SchoolHoliday\n"


@pytest.fixture(autouse=True)
def _look_afresh() -> None:
    state.clear_cache()


def open_page(content: str | None = None, name: str = "plan.csv") -> AppTest:
    page = AppTest.from_string(BATCH, default_timeout=60).run()
    if content is not None:
        page.file_uploader[0].set_value((name, content.encode(), "text/csv")).run()
    assert not page.exception
    return page


def plan(day_format: str, count: int = 20) -> str:
    """Two stores over ``count`` days from 1 August 2015, open but on Sundays."""
    days = [date(2015, 8, 1) + timedelta(days=i) for i in range(count)]
    lines = [
        f"{store},{day.strftime(day_format)},{int(day.isoweekday() != 7)},0,0,1"
        for day in days
        for store in (2, 1)
    ]
    return HEADER + "\n".join(lines) + "\n"


def go(page: AppTest) -> AppTest:
    page.button[0].click().run()
    assert not page.exception
    return page


def numbers(page: AppTest) -> dict[str, str]:
    return {metric.label: metric.value for metric in page.metric}


def test_before_an_upload_there_is_a_template_and_no_button(stub_service: Any) -> None:
    page = open_page()
    assert not page.button and not page.metric and not page.error


@pytest.mark.parametrize("form", ["%Y-%m-%d", "%m/%d/%y", "%m/%d/%Y", "%d.%m.%Y"])
def test_all_four_date_formats_are_forecast(stub_service: Any, form: str) -> None:
    page = go(open_page(plan(form)))
    assert numbers(page)["Stores"] == "2"
    assert numbers(page)["Days"] == "20"
    assert stub_service.asked[-1]["inputs"][0]["Date"] == "2015-08-01"
    assert not page.error


def test_a_doubtful_column_is_asked_about(stub_service: Any) -> None:
    page = open_page(plan("%m/%d/%Y", 5))
    assert not page.button
    assert set(page.radio[0].options) == {"MM/DD/YYYY", "DD/MM/YYYY"}
    page.radio[0].set_value("MM/DD/YYYY").run()
    go(page)
    assert {row["Date"][:7] for row in stub_service.asked[-1]["inputs"]} == {"2015-08"}


def test_the_other_answer_gives_the_other_days(stub_service: Any) -> None:
    page = open_page(plan("%m/%d/%Y", 5))
    page.radio[0].set_value("MM/DD/YYYY").run()
    # The question stays, so that a wrong answer can be taken back, even after the forecast.
    go(page).radio[0].set_value("DD/MM/YYYY").run()
    go(page)
    assert {row["Date"][5:] for row in stub_service.asked[-1]["inputs"]} <= {
        f"{month:02}-08" for month in range(1, 13)
    }


def test_faults_are_listed_by_row_and_the_others_are_forecast(stub_service: Any) -> None:
    bad = "x,2015-08-03,1,0,0,0\n1,2015-08-03,5,0,0,0\n1,2015-02-30,1,0,0,0\n"
    page = open_page(plan("%Y-%m-%d", 2) + bad)
    faults = page.dataframe[0].value
    assert faults["Row"].tolist() == [5, 6, 7]
    assert faults["Column"].tolist() == ["Store", "Open", "Date"]
    assert len(page.warning) == 1
    assert numbers(go(page))["Days"] == "2"


def test_an_unknown_store_is_listed_after_the_service_said_so(stub_service: Any) -> None:
    page = go(open_page(plan("%Y-%m-%d", 2) + "99,2015-08-03,1,0,0,0\n"))
    assert page.dataframe[0].value["Row"].tolist() == [5]
    assert numbers(page)["Stores"] == "2"


def test_rows_come_back_in_the_order_uploaded(stub_service: Any) -> None:
    page = go(open_page(plan("%Y-%m-%d", 3)))
    table = page.dataframe[-1].value
    assert table["Store"].tolist() == [2, 1, 2, 1, 2, 1]
    assert table["Forecast"].tolist() == [2060.0, 1060.0, 0.0, 0.0, 2010.0, 1010.0]


def test_a_file_that_is_no_table_is_told_in_plain_words(stub_service: Any) -> None:
    page = open_page("just some words")
    assert page.error and not page.button
    assert "Traceback" not in page.error[0].value


def test_missing_columns_are_named(stub_service: Any) -> None:
    page = open_page("Store,Date\n1,2015-08-01\n")
    assert "Promo" in page.error[0].value


def test_an_outage_is_told_and_the_batch_goes_on(stub_service: Any) -> None:
    page = open_page(plan("%Y-%m-%d", 4))
    stub_service.stop()
    go(page)
    assert "does not answer" in page.error[0].value
    stub_service.start()
    assert numbers(go(page))["Days"] == "4"
    assert not page.error


def test_the_version_and_what_it_knew_are_told(stub_service: Any) -> None:
    page = go(open_page(plan("%Y-%m-%d", 4)))
    assert page.caption[-1].value == (
        "Model version 3, knowing sales up to Fri 31 Jul 2015. "
        "Made for: smallest error of each day."
    )


def test_totals_without_bias_are_asked_for_in_every_chunk(
    stub_service: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_job, "CHUNK", 7)
    page = open_page(plan("%Y-%m-%d", 10))
    page.selectbox(key="batch-objective").set_value("unbiased").run()
    go(page)
    priced = [one for one in stub_service.asked if one.get("intervals")]
    assert len(priced) == 3
    assert {one["objective"] for one in priced} == {"unbiased"}
    assert "Made for: totals without bias." in page.caption[-1].value
    assert numbers(page)["Days"] == "10"


def test_another_choice_takes_the_forecasts_back_and_asks_anew(stub_service: Any) -> None:
    page = go(open_page(plan("%Y-%m-%d", 4) + "99,2015-08-03,1,0,0,0\n"))
    assert stub_service.asked[-1]["objective"] == "accuracy"
    page.selectbox(key="batch-objective").set_value("unbiased").run()
    assert not page.metric and not page.exception
    assert stub_service.asked[-1]["objective"] == "accuracy"
    go(page)
    assert stub_service.asked[-1]["objective"] == "unbiased"
    assert numbers(page)["Days"] == "4"
    assert page.dataframe[0].value["Row"].tolist() == [9]


def test_the_choice_holds_for_the_next_file(stub_service: Any) -> None:
    page = open_page(plan("%Y-%m-%d", 4))
    page.selectbox(key="batch-objective").set_value("unbiased").run()
    page.file_uploader[0].set_value(("o.csv", plan("%Y-%m-%d", 6).encode(), "text/csv")).run()
    go(page)
    assert stub_service.asked[-1]["objective"] == "unbiased"
    assert page.selectbox(key="batch-objective").value == "unbiased"


def test_the_settings_say_what_is_chosen_first(
    stub_service: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROSSMANN_OBJECTIVE", "unbiased")
    page = go(open_page(plan("%Y-%m-%d", 4)))
    assert page.selectbox(key="batch-objective").value == "unbiased"
    assert stub_service.asked[-1]["objective"] == "unbiased"


def test_another_file_replaces_the_first(stub_service: Any) -> None:
    page = go(open_page(plan("%Y-%m-%d", 4)))
    other = plan("%Y-%m-%d", 6).encode()
    page.file_uploader[0].set_value(("other.csv", other, "text/csv")).run()
    assert not page.metric
    assert numbers(go(page))["Days"] == "6"


def test_a_file_like_kaggles_goes_through(stub_service: Any) -> None:
    stub_service.stores = range(1, 857)
    days = [date(2015, 8, 1) + timedelta(days=i) for i in range(48)]
    lines = ['"Id","Store","DayOfWeek","Date","Open","Promo","StateHoliday","SchoolHoliday"']
    for day in reversed(days):
        for store in stub_service.stores:
            opened = "" if store == 622 and day <= date(2015, 8, 11) else 1
            lines.append(f'{len(lines)},{store},{day.isoweekday()},{day},{opened},0,"0",0')
    page = go(open_page("\n".join(lines), "test.csv"))
    assert numbers(page)["Stores"] == "856"
    assert any("11 rows" in info.value and "opens" in info.value for info in page.info)
    table = page.dataframe[-1].value
    assert table["Id"].tolist() == list(range(1, 41_089))
    assert table["Forecast"].notna().all()
    assert max(len(asked["inputs"]) for asked in stub_service.asked) <= 5_000


def downloads(page: AppTest) -> dict[str, Any]:
    return {button.proto.label: button.proto for button in page.get("download_button")}


def test_files_are_written_before_they_are_asked_for(stub_service: Any) -> None:
    """A file written on the click may be swept away by other sessions before it is fetched."""
    files = downloads(go(open_page(plan("%Y-%m-%d", 4))))
    assert {"Download CSV", "Download Excel"} <= set(files)
    assert all(proto.url and not proto.deferred_file_id for proto in files.values())


def test_a_file_too_long_for_a_workbook_has_a_table_all_the_same(
    stub_service: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_result, "MOST_SHEET_ROWS", 7)
    page = go(open_page(plan("%Y-%m-%d", 4)))
    assert "Download CSV" in downloads(page)
    assert "Download Excel" not in downloads(page)
    assert any("7 rows" in caption.value for caption in page.caption)
