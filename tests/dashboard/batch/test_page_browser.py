"""Page "Batch" in a real browser: numbers, faults, large files, results and their files."""

from pathlib import Path
from typing import Any

import pytest

from tests.fixtures.browser import metric_value
from tests.fixtures.dashboard import StubService

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]
HEADER = "Store,Date,Open,Promo,StateHoliday,SchoolHoliday\n"
PLAN = HEADER + "".join(
    f"{store},2015-08-{day:02d},1,0,0,0\n" for store in (1, 2) for day in range(3, 8)
)


def upload(page: Any, folder: Path, text: str) -> None:
    file = folder / "plan.csv"
    file.write_text(text)
    page.locator("input[type=file]").set_input_files(file)


def forecast(page: Any) -> None:
    page.get_by_role("button", name="Forecast").click()
    page.get_by_test_id("stMetric").filter(has_text="Total forecast").wait_for()


def cells(page: Any, tab: str, column: str) -> list[str]:
    """The cells of a table's column, as the grid offers them to screen readers: unformatted."""
    page.get_by_role("tab", name=tab).click()
    grid = page.get_by_role("tabpanel", name=tab).get_by_test_id("stDataFrame")
    header = grid.locator("[role=columnheader]").filter(has_text=column)
    header.wait_for(state="attached")
    index = header.get_attribute("aria-colindex")
    found = grid.locator(f"[role=gridcell][aria-colindex='{index}']")
    found.first.wait_for(state="attached")
    return [str(text) for text in found.all_text_contents()]


def test_numbers_are_rounded_once_and_add_up_in_a_german_browser(
    open_page: Any, stub: StubService, tmp_path: Path
) -> None:
    # Forecasts of 1,010.585 and so on: cut off, they would be one less than rounded.
    stub.fraction = 0.585
    page = open_page("/batch", locale="de-DE")
    upload(page, tmp_path, PLAN)
    forecast(page)
    rows = cells(page, "All rows, as uploaded", "Forecast")
    assert rows[0] == "1011"
    stores = cells(page, "By store", "Total forecast")
    assert stores == ["10155", "5155"]
    total = sum(map(int, rows))
    assert metric_value(page, "Total forecast") == f"{total:,}" == "15,310"


def test_too_large_file_is_explained(open_page: Any, tmp_path: Path) -> None:
    page = open_page("/batch")
    explanation = page.get_by_text("The file marked in red is not taken.")
    explanation.wait_for(state="attached")
    explanation.wait_for(state="hidden")
    line = "1,2015-08-03,1,0,0,0\n"
    upload(page, tmp_path, HEADER + line * (65 * 2**20 // len(line)))
    explanation.wait_for()
    text = page.locator(".st-key-rejected-file").inner_text()
    assert "64 MB" in text and "rossmann predict" in text and "POST /predict/file" in text
    page.get_by_role("button", name="Remove plan.csv").click()
    explanation.wait_for(state="hidden")


def test_all_faults_are_shown_before_the_forecast(
    open_page: Any, stub: StubService, tmp_path: Path
) -> None:
    page = open_page("/batch")
    faults = "99,2015-08-03,1,0,0,0\n1,2015-08-03,5,0,0,0\n1,2040-08-03,1,0,0,0\n"
    upload(page, tmp_path, PLAN + faults)
    page.get_by_role("button", name="Forecast 10 rows").wait_for()
    rows = page.get_by_test_id("stDataFrame").locator("[role=gridcell][aria-colindex='1']")
    rows.first.wait_for(state="attached")
    assert rows.all_text_contents() == ["line 12", "line 13", "line 14"]
    assert not any(body.get("intervals") for body in stub.predict_bodies)


def test_another_objective_keeps_the_result(open_page: Any, tmp_path: Path) -> None:
    page = open_page("/batch")
    upload(page, tmp_path, PLAN)
    forecast(page)
    page.get_by_role("combobox", name="Made for").click()
    page.get_by_role("option", name="Totals without bias").click()
    page.get_by_text("The result below is made for: smallest error of each day.").wait_for()
    assert metric_value(page, "Total forecast") == "15,300"
    page.get_by_role("button", name="Forecast 10 rows again").click()
    page.get_by_text("Made for: totals without bias.").wait_for()


def test_batch_goes_on_by_itself_after_an_outage(
    open_page: Any, stub: StubService, tmp_path: Path
) -> None:
    page = open_page("/batch")
    upload(page, tmp_path, PLAN)
    page.get_by_role("button", name="Forecast 10 rows").wait_for()
    stub.predict_status = 500
    page.get_by_role("button", name="Forecast 10 rows").click()
    page.get_by_text("The prediction service does not answer.").wait_for()
    stub.predict_status = 200
    page.get_by_test_id("stMetric").filter(has_text="Total forecast").wait_for()
    page.get_by_text("The prediction service does not answer.").wait_for(state="detached")
