"""Page "Batch": upload, ambiguous dates, row errors, forecasts, files, objective."""

import threading
from datetime import date, timedelta
from io import BytesIO
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest
from xlsxwriter import Workbook

from rossmann.dashboard.batch import job, result
from rossmann.dashboard.shared.markdown import escape_markdown
from rossmann.dashboard.shared.service_state import clear_cache
from rossmann.data.uploads.result_files import ResultFormat

BATCH_PAGE = """
from rossmann.dashboard.batch.page import show_batch
from rossmann.dashboard.shared.error_boundary import error_boundary
with error_boundary():
    show_batch()
"""
HEADER = "Store,Date,Open,Promo,StateHoliday,SchoolHoliday\n"


@pytest.fixture(autouse=True)
def _clear_cache() -> None:
    clear_cache()


def open_page(content: str | None = None, name: str = "plan.csv") -> AppTest:
    page = AppTest.from_string(BATCH_PAGE, default_timeout=60).run()
    if content is not None:
        page.file_uploader[0].set_value((name, content.encode(), "text/csv")).run()
    assert not page.exception
    return page


def plan_csv(day_format: str, count: int = 20) -> str:
    """Two stores over ``count`` days from 1 August 2015, open but on Sundays."""
    days = [date(2015, 8, 1) + timedelta(days=i) for i in range(count)]
    lines = [
        f"{store},{day.strftime(day_format)},{int(day.isoweekday() != 7)},0,0,1"
        for day in days
        for store in (2, 1)
    ]
    return HEADER + "\n".join(lines) + "\n"


def run_forecast(page: AppTest) -> AppTest:
    page.button[0].click().run()
    assert not page.exception
    return page


def metrics(page: AppTest) -> dict[str, str]:
    return {metric.label: metric.value for metric in page.metric}


def test_page_before_an_upload_has_no_forecast_button(stub_service: Any) -> None:
    page = open_page()
    assert not page.button and not page.metric and not page.error


@pytest.mark.parametrize("date_format", ["%Y-%m-%d", "%m/%d/%y", "%m/%d/%Y", "%d.%m.%Y"])
def test_every_date_format_is_forecast(stub_service: Any, date_format: str) -> None:
    page = run_forecast(open_page(plan_csv(date_format)))
    assert metrics(page)["Stores"] == "2"
    assert metrics(page)["Days"] == "20"
    assert stub_service.predict_bodies[-1]["inputs"][0]["Date"] == "2015-08-01"
    assert not page.error


def test_ambiguous_dates_show_a_choice(stub_service: Any) -> None:
    page = open_page(plan_csv("%m/%d/%Y", 5))
    assert not page.button
    assert set(page.radio[0].options) == {"MM/DD/YYYY", "DD/MM/YYYY"}
    page.radio[0].set_value("MM/DD/YYYY").run()
    run_forecast(page)
    assert {row["Date"][:7] for row in stub_service.predict_bodies[-1]["inputs"]} == {"2015-08"}


def test_other_date_format_gives_other_days(stub_service: Any) -> None:
    page = open_page(plan_csv("%m/%d/%Y", 5))
    page.radio[0].set_value("MM/DD/YYYY").run()
    # The choice stays visible, so that it can be changed even after the forecast.
    run_forecast(page).radio[0].set_value("DD/MM/YYYY").run()
    run_forecast(page)
    assert {row["Date"][5:] for row in stub_service.predict_bodies[-1]["inputs"]} <= {
        f"{month:02}-08" for month in range(1, 13)
    }


def test_ambiguous_numbers_show_a_choice(stub_service: Any) -> None:
    stub_service.stores = (1, 2, 1000)
    page = open_page(HEADER + "1.000,2015-08-03,1,0,0,0\n")
    assert "1.000" in page.radio[0].label and not page.button
    page.radio[0].set_value(",").run()
    run_forecast(page)
    assert stub_service.predict_bodies[-1]["inputs"][0]["Store"] == 1000
    page.radio[0].set_value(".").run()
    run_forecast(page)
    assert stub_service.predict_bodies[-1]["inputs"][0]["Store"] == 1


def test_several_sheets_show_a_choice(stub_service: Any) -> None:
    file = BytesIO()
    with Workbook(file) as book:
        for name, store in (("Plan", 1), ("Other", 2)):
            sheet = book.add_worksheet(name)
            sheet.write_row(0, 0, HEADER.strip().split(","))
            sheet.write_row(1, 0, [store, "2015-08-03", 1, 0, "0", 0])
    page = AppTest.from_string(BATCH_PAGE, default_timeout=60).run()
    page.file_uploader[0].set_value(("plan.xlsx", file.getvalue(), "application/zip")).run()
    assert page.radio[0].options == ["Plan", "Other"] and not page.button
    page.radio[0].set_value("Other").run()
    run_forecast(page)
    assert stub_service.predict_bodies[-1]["inputs"][0]["Store"] == 2


def test_invalid_rows_are_listed_and_the_others_are_forecast(stub_service: Any) -> None:
    invalid_rows = "x,2015-08-03,1,0,0,0\n1,2015-08-03,5,0,0,0\n1,2015-02-30,1,0,0,0\n"
    page = open_page(plan_csv("%Y-%m-%d", 2) + invalid_rows)
    errors = page.dataframe[0].value
    assert errors["Where"].tolist() == ["line 6", "line 7", "line 8"]
    assert errors["Column"].tolist() == ["Store", "Open", "Date"]
    assert len(page.warning) == 1
    assert metrics(run_forecast(page))["Days"] == "2"


def test_every_fault_is_listed_before_the_forecast(stub_service: Any) -> None:
    faults = "99,2015-08-03,1,0,0,0\n1,2015-08-03,5,0,0,0\n1,2040-08-03,1,0,0,0\n"
    page = open_page(plan_csv("%Y-%m-%d", 2) + faults)
    assert page.dataframe[0].value["Where"].tolist() == ["line 6", "line 7", "line 8"]
    assert page.button[0].label == "Forecast 4 rows"
    run_forecast(page)
    assert page.dataframe[0].value["Where"].tolist() == ["line 6", "line 7", "line 8"]
    assert metrics(page)["Stores"] == "2"


def test_repeated_days_have_forecasts_but_no_totals(stub_service: Any) -> None:
    repeated = "1,2015-08-01,1,1,0,0\n"
    page = open_page(plan_csv("%Y-%m-%d", 2) + repeated)
    warning = page.warning[0].value
    assert "1 row repeats the store and day of another row" in warning
    assert "Leave one row of each store and day in the file" in warning
    errors = page.dataframe[0].value
    assert errors["Where"].tolist() == ["line 6"]
    assert "store 1 on 2015-08-01 is in line 3 already" in errors["What is wrong"][0]
    run_forecast(page)
    assert not page.metric and not page.tabs
    assert page.dataframe[-1].value["forecast"].tolist() == [2060, 1060, 0, 0, 1560]
    assert {"Download CSV", "Download Excel"} <= set(downloads(page))
    whole = page.file_uploader[0].set_value(("o.csv", plan_csv("%Y-%m-%d", 2).encode(), "text/csv"))
    assert metrics(run_forecast(whole.run()))["Days"] == "2"


def test_rows_keep_the_uploaded_order(stub_service: Any) -> None:
    page = run_forecast(open_page(plan_csv("%Y-%m-%d", 3)))
    table = page.dataframe[-1].value
    assert table["Store"].tolist() == [2, 1, 2, 1, 2, 1]
    assert table["forecast"].tolist() == [2060.0, 1060.0, 0.0, 0.0, 2010.0, 1010.0]


def test_invalid_file_is_shown_as_an_error(stub_service: Any) -> None:
    page = open_page("just some words")
    assert page.error and not page.button
    assert "Traceback" not in page.error[0].value


def test_missing_columns_are_named(stub_service: Any) -> None:
    page = open_page("Store,Date\n1,2015-08-01\n")
    assert "Promo" in page.error[0].value


def test_batch_goes_on_after_an_outage(stub_service: Any) -> None:
    page = open_page(plan_csv("%Y-%m-%d", 4))
    stub_service.stop()
    run_forecast(page)
    assert "does not answer" in page.error[0].value
    stub_service.start()
    # As the sidebar does when the service is back.
    page.run()
    assert metrics(page)["Days"] == "4"
    assert not page.error


def test_version_origin_and_objective_are_shown(stub_service: Any) -> None:
    page = run_forecast(open_page(plan_csv("%Y-%m-%d", 4)))
    assert page.caption[-1].value == escape_markdown(
        "Model version 3, knowing sales up to Fri 31 Jul 2015. "
        "Made for: smallest error of each day."
    )


def test_objective_is_sent_with_every_chunk(
    stub_service: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job, "CHUNK_ROWS", 7)
    page = open_page(plan_csv("%Y-%m-%d", 10))
    page.selectbox(key="batch-objective").set_value("unbiased").run()
    run_forecast(page)
    chunks = [body for body in stub_service.predict_bodies if body.get("intervals")]
    assert len(chunks) == 3
    assert {body["objective"] for body in chunks} == {"unbiased"}
    assert "Made for: totals without bias." in page.caption[-1].value
    assert metrics(page)["Days"] == "10"


def test_another_objective_keeps_the_forecasts_until_there_are_new_ones(stub_service: Any) -> None:
    page = run_forecast(open_page(plan_csv("%Y-%m-%d", 4) + "99,2015-08-03,1,0,0,0\n"))
    assert stub_service.predict_bodies[-1]["objective"] == "accuracy"
    page.selectbox(key="batch-objective").set_value("unbiased").run()
    assert metrics(page)["Days"] == "4"
    assert "made for: smallest error" in page.info[0].value
    assert "Made for: smallest error of each day." in page.caption[-1].value
    assert stub_service.predict_bodies[-1]["objective"] == "accuracy"
    run_forecast(page)
    assert stub_service.predict_bodies[-1]["objective"] == "unbiased"
    assert "Made for: totals without bias." in page.caption[-1].value
    assert metrics(page)["Days"] == "4" and not page.info
    assert page.dataframe[0].value["Where"].tolist() == ["line 10"]


def test_outage_of_a_repetition_keeps_the_first_result(stub_service: Any) -> None:
    page = run_forecast(open_page(plan_csv("%Y-%m-%d", 4)))
    page.selectbox(key="batch-objective").set_value("unbiased").run()
    stub_service.stop()
    run_forecast(page)
    assert "does not answer" in page.error[0].value
    assert metrics(page)["Days"] == "4"
    stub_service.start()
    page.run()
    assert "Made for: totals without bias." in page.caption[-1].value
    assert not page.error


def test_objective_is_kept_for_the_next_file(stub_service: Any) -> None:
    page = open_page(plan_csv("%Y-%m-%d", 4))
    page.selectbox(key="batch-objective").set_value("unbiased").run()
    page.file_uploader[0].set_value(("o.csv", plan_csv("%Y-%m-%d", 6).encode(), "text/csv")).run()
    run_forecast(page)
    assert stub_service.predict_bodies[-1]["objective"] == "unbiased"
    assert page.selectbox(key="batch-objective").value == "unbiased"


def test_settings_set_the_initial_objective(
    stub_service: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROSSMANN_OBJECTIVE", "unbiased")
    page = run_forecast(open_page(plan_csv("%Y-%m-%d", 4)))
    assert page.selectbox(key="batch-objective").value == "unbiased"
    assert stub_service.predict_bodies[-1]["objective"] == "unbiased"


def test_second_file_replaces_the_first(stub_service: Any) -> None:
    page = run_forecast(open_page(plan_csv("%Y-%m-%d", 4)))
    other = plan_csv("%Y-%m-%d", 6).encode()
    page.file_uploader[0].set_value(("other.csv", other, "text/csv")).run()
    assert not page.metric
    assert metrics(run_forecast(page))["Days"] == "6"


def test_kaggle_test_file_is_forecast(stub_service: Any) -> None:
    stub_service.stores = range(1, 857)
    days = [date(2015, 8, 1) + timedelta(days=i) for i in range(48)]
    lines = ['"Id","Store","DayOfWeek","Date","Open","Promo","StateHoliday","SchoolHoliday"']
    for day in reversed(days):
        for store in stub_service.stores:
            open_ = "" if store == 622 and day <= date(2015, 8, 11) else 1
            lines.append(f'{len(lines)},{store},{day.isoweekday()},{day},{open_},0,"0",0')
    page = run_forecast(open_page("\n".join(lines), "test.csv"))
    assert metrics(page)["Stores"] == "856"
    assert any("11 rows" in info.value and "opens" in info.value for info in page.info)
    table = page.dataframe[-1].value
    assert table["Id"].tolist() == list(range(1, 41_089))
    assert table["forecast"].notna().all()
    assert max(len(body["inputs"]) for body in stub_service.predict_bodies) <= job.CHUNK_ROWS


def downloads(page: AppTest) -> dict[str, Any]:
    """The download buttons, once the files are written in the background."""
    written = page.session_state["batch"].result
    written.csv.result(60)
    if written.excel is not None:
        written.excel.result(60)
    page.run()
    return {button.proto.label: button.proto for button in page.get("download_button")}


def test_result_is_shown_before_its_files_are_written(
    stub_service: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    permitted = threading.Event()

    def slow_file(run: job.BatchRun, form: ResultFormat) -> bytes:
        assert form.file_format == "csv" or permitted.wait(60)
        return b"file"

    monkeypatch.setattr(result, "result_file", slow_file)
    page = run_forecast(open_page(plan_csv("%Y-%m-%d", 4)))
    assert metrics(page)["Days"] == "4"
    assert [button.label for button in page.button if button.disabled][-1] == "Writing Excel …"
    permitted.set()
    assert "Download Excel" in downloads(page)
    assert not any("Writing" in button.label for button in page.button)


def test_download_files_are_written_in_advance(stub_service: Any) -> None:
    """A file written on a click may be deleted by other sessions before it is fetched."""
    files = downloads(run_forecast(open_page(plan_csv("%Y-%m-%d", 4))))
    assert {"Download CSV", "Download Excel"} <= set(files)
    assert all(proto.url and not proto.deferred_file_id for proto in files.values())


def test_too_many_rows_for_excel_still_have_csv_and_table(
    stub_service: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(result, "MAX_EXCEL_ROWS", 7)
    page = run_forecast(open_page(plan_csv("%Y-%m-%d", 4)))
    assert "Download CSV" in downloads(page)
    assert "Download Excel" not in downloads(page)
    assert any("7 rows" in caption.value for caption in page.caption)
