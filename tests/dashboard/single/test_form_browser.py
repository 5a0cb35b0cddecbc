"""Page "Single prediction" in a real browser: stores, state, dates, outages, slow services."""

from itertools import pairwise
from typing import Any

import pytest

from tests.fixtures.browser import fill_date, flip_toggle, wait_for_value
from tests.fixtures.dashboard import StubService

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]
FIRST_DAY = "/single?store=1&date=2015-08-01"
SATURDAY, SUNDAY, MONDAY = "Forecast, Sat 1 Aug", "Forecast, Sun 2 Aug", "Forecast, Mon 3 Aug"


def type_store(page: Any, text: str) -> None:
    box = page.get_by_role("combobox", name="Store")
    box.click()
    box.fill(text)
    box.press("Enter")


def heading(page: Any, text: str) -> Any:
    return page.get_by_role("heading", name=text, exact=True)


def test_unknown_store_replaces_the_forecast_of_another(open_page: Any) -> None:
    page = open_page("/single")
    wait_for_value(page, SATURDAY, "1,560")
    heading(page, "Store 1 · Saturday 1 August 2015").wait_for()
    type_store(page, "9999")
    page.get_by_text("There is no store 9999.").wait_for()
    page.get_by_test_id("stMetric").first.wait_for(state="detached")
    heading(page, "Store 1 · Saturday 1 August 2015").wait_for(state="detached")
    type_store(page, "2")
    heading(page, "Store 2 · Saturday 1 August 2015").wait_for()
    wait_for_value(page, SATURDAY, "2,560")
    page.get_by_text("There is no store").first.wait_for(state="detached")


def test_reload_and_leaving_the_page_keep_the_state(open_page: Any) -> None:
    page = open_page("/single?store=2&date=2015-08-03")
    wait_for_value(page, MONDAY, "2,010")
    flip_toggle(page, "Promotion")
    wait_for_value(page, MONDAY, "2,510")
    page.wait_for_url("**/single?store=2&date=2015-08-03&promo=1")
    page.reload()
    wait_for_value(page, MONDAY, "2,510")
    sidebar = page.get_by_test_id("stSidebar")
    sidebar.get_by_role("link", name="Home").click()
    heading(page, "What will this store sell?").wait_for()
    sidebar.get_by_role("link", name="Single prediction").click()
    wait_for_value(page, MONDAY, "2,510")
    page.wait_for_url("**/single?store=2&date=2015-08-03&promo=1")
    assert page.get_by_role("switch", name="Promotion").is_checked()


def test_back_button_takes_a_change_back(open_page: Any) -> None:
    page = open_page(FIRST_DAY)
    wait_for_value(page, SATURDAY, "1,560")
    flip_toggle(page, "Promotion")
    wait_for_value(page, SATURDAY, "1,060")
    page.wait_for_url("**promo=0")
    page.go_back()
    wait_for_value(page, SATURDAY, "1,560")
    assert page.get_by_role("switch", name="Promotion").is_checked()


@pytest.mark.nightly
def test_opened_sunday_is_not_called_planned(open_page: Any) -> None:
    page = open_page("/single?store=1&date=2015-08-02")
    wait_for_value(page, SUNDAY, "0")
    page.get_by_text("Filled in from the store's schedule.").wait_for()
    flip_toggle(page, "Open")
    wait_for_value(page, SUNDAY, "1,570")
    page.get_by_text("You opened the store").wait_for()
    page.get_by_text("Changed by you: open.").wait_for()
    page.get_by_text("Filled in from the store's schedule.").first.wait_for(state="detached")
    page.get_by_role("button", name="Back to the plan").click()
    wait_for_value(page, SUNDAY, "0")
    page.get_by_text("Filled in from the store's schedule.").wait_for()


@pytest.mark.nightly
def test_page_recovers_from_one_failed_forecast(open_page: Any, stub: StubService) -> None:
    stub.predict_status = 500
    page = open_page(FIRST_DAY)
    page.get_by_text("The prediction service does not answer.").wait_for()
    stub.predict_status = 200
    # Without any interaction.
    wait_for_value(page, SATURDAY, "1,560")
    page.get_by_text("The prediction service does not answer.").first.wait_for(state="detached")


def rounds(stub: StubService) -> int:
    """How many calls of the page followed one after the other; calls at the same time are one."""
    times = sorted(at for at, path in stub.calls if path not in ("/health", "/model/info"))
    return 1 + sum(later - earlier > 0.8 * stub.seconds for earlier, later in pairwise(times))


def test_change_takes_two_calls_in_a_row_and_dims_the_old_number(
    open_page: Any, stub: StubService
) -> None:
    page = open_page(FIRST_DAY)
    wait_for_value(page, SATURDAY, "1,560")
    page.get_by_text("Plain day x drivers = forecast.").wait_for()
    stub.seconds, stub.calls = 2.0, []
    fill_date(page, "2015-08-03")
    page.wait_for_function(
        """() => {
          const written = document.body.innerText.includes('Monday 3 August 2015');
          const old = [...document.querySelectorAll('[data-testid=stMetric]')]
            .filter(metric => metric.innerText.includes('Sat 1 Aug'));
          const dimmed = metric => {
            for (let node = metric; node; node = node.parentElement)
              if (Number(getComputedStyle(node).opacity) < 0.5) return true;
            return false;
          };
          return written && old.length > 0 && old.every(dimmed);
        }"""
    )
    wait_for_value(page, MONDAY, "1,010")
    page.get_by_text("Plain day x drivers = forecast.").wait_for()
    assert rounds(stub) <= 2
    stub.calls = []
    flip_toggle(page, "Promotion")
    wait_for_value(page, MONDAY, "1,510")
    page.get_by_text("Plain day x drivers = forecast.").wait_for()
    assert rounds(stub) == 1


@pytest.mark.parametrize(
    ("typed", "day"),
    [
        ("Sa 01.08.2015", SATURDAY),
        pytest.param("3 August", MONDAY, marks=pytest.mark.nightly),
        pytest.param("Mo KW 32", MONDAY, marks=pytest.mark.nightly),
    ],
)
def test_date_is_read_and_the_calendar_follows(open_page: Any, typed: str, day: str) -> None:
    page = open_page("/single?store=1&date=2015-09-01")
    page.get_by_test_id("stMetric").first.wait_for()
    fill_date(page, typed)
    page.get_by_test_id("stMetric").filter(has_text=day).wait_for()
    page.get_by_test_id("stPopover").get_by_role("button").click()
    picked = "2015-08-01" if day == SATURDAY else "2015-08-03"
    calendar = page.get_by_test_id("stDateInput").locator("input[type=date]").element_handle()
    page.wait_for_function("([input, value]) => input.value === value", arg=[calendar, picked])


@pytest.mark.nightly
def test_week_offers_its_days(open_page: Any) -> None:
    page = open_page("/single?store=1&date=2015-09-01")
    page.get_by_test_id("stMetric").first.wait_for()
    fill_date(page, "KW 32")
    page.get_by_test_id("stMetric").first.wait_for(state="detached")
    page.get_by_test_id("stRadio").get_by_text("Monday 3 August 2015").click()
    page.get_by_test_id("stMetric").filter(has_text=MONDAY).wait_for()


def test_date_out_of_range_is_told_in_plain_words(open_page: Any) -> None:
    page = open_page("/single?store=1&date=2030-01-01")
    page.get_by_text("The date must be from 2014-01-02 to 2016-07-30").wait_for()
    assert page.get_by_text("start must be").count() == 0


def test_new_result_is_announced_in_the_same_live_region(open_page: Any) -> None:
    page = open_page(FIRST_DAY)
    region = page.get_by_role("status").filter(has_text="Saturday 1 August 2015: forecast 1,560.")
    region.wait_for()
    assert region.get_attribute("aria-live") == "polite"
    node = region.element_handle()
    flip_toggle(page, "Promotion")
    # The node itself stays: a screen reader reads out changes, not new regions.
    page.wait_for_function("node => node.innerText.includes('forecast 1,060.')", arg=node)
    assert node.evaluate("node => node.isConnected")
