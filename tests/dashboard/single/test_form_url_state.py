"""State of the page in its URL: read at the start of a session, written after each change."""

from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from rossmann.dashboard.shared.markdown import escape_markdown
from rossmann.dashboard.shared.service_state import clear_cache

PAGE = """
from rossmann.dashboard.shared.error_boundary import error_boundary
from rossmann.dashboard.single.form import show_single
with error_boundary():
    show_single()
"""


@pytest.fixture(autouse=True)
def _clear_cache() -> None:
    clear_cache()


def open_url(**query: str) -> AppTest:
    page = AppTest.from_string(PAGE, default_timeout=30)
    for name, value in query.items():
        page.query_params[name] = value
    page.run()
    assert not page.exception
    return page


def query(page: AppTest) -> dict[str, str]:
    return {name: str(value) for name, value in page.query_params.items()}


def last_row(stub_service: Any) -> dict[str, Any]:
    row: dict[str, Any] = stub_service.predict_bodies[-1]["inputs"][0]
    return row


def test_first_visit_writes_store_and_date(stub_service: Any) -> None:
    assert query(open_url()) == {"store": "1", "date": "2015-08-01"}


def test_url_sets_store_date_plan_and_objective(stub_service: Any) -> None:
    state = {
        "store": "2", "date": "2015-08-02", "open": "1", "promo": "0", "school_holiday": "0",
        "state_holiday": "b", "objective": "unbiased",
    }  # fmt: skip
    page = open_url(**state)
    assert last_row(stub_service) == {
        "Store": 2, "DayOfWeek": 7, "Date": "2015-08-02", "Open": 1, "Promo": 0,
        "StateHoliday": "b", "SchoolHoliday": 0,
    }  # fmt: skip
    assert stub_service.predict_bodies[-1]["objective"] == "unbiased"
    assert query(page) == state


def test_only_what_differs_from_the_plan_is_written(stub_service: Any) -> None:
    page = open_url(store="1", date="2015-08-01", promo="1")
    assert query(page) == {"store": "1", "date": "2015-08-01"}
    page.toggle[1].set_value(False).run()
    assert query(page) == {"store": "1", "date": "2015-08-01", "promo": "0"}


def test_changes_of_a_day_are_kept_while_another_is_shown(stub_service: Any) -> None:
    page = open_url(store="1", date="2015-08-01", promo="0")
    page.text_input(key="day").set_value("2015-08-03").run()
    assert query(page) == {"store": "1", "date": "2015-08-03"}
    page.text_input(key="day").set_value("2015-08-01").run()
    assert query(page)["promo"] == "0"
    assert last_row(stub_service)["Promo"] == 0


def test_state_is_written_while_the_service_is_away(stub_service: Any) -> None:
    page = open_url(store="2", date="2015-08-03")
    stub_service.stop()
    page.text_input(key="day").set_value("2015-08-05").run()
    assert "does not answer" in page.error[0].value
    assert query(page) == {"store": "2", "date": "2015-08-05"}
    page = open_url(store="2", date="2015-08-03", promo="1")
    assert query(page) == {"store": "2", "date": "2015-08-03", "promo": "1"}
    stub_service.start()
    assert query(page.run())["promo"] == "1"
    assert last_row(stub_service)["Promo"] == 1


def test_invalid_values_are_ignored(stub_service: Any) -> None:
    page = open_url(store="1", date="2015-08-01", open="7", state_holiday="z", objective="x")
    assert query(page) == {"store": "1", "date": "2015-08-01"}
    assert page.metric


def test_unknown_store_and_text_that_is_no_date_stay_in_the_url(stub_service: Any) -> None:
    page = open_url(store="9999", date="soon")
    assert query(page) == {"store": "9999", "date": "soon"}
    assert "There is no store 9999" in page.error[0].value
    assert "not a date" in page.warning[0].value and not page.metric


@pytest.mark.parametrize("typed", ["2", "Store 2", "002"])
def test_number_of_a_store_is_that_store(stub_service: Any, typed: str) -> None:
    page = open_url(store=typed)
    assert last_row(stub_service)["Store"] == 2
    assert query(page)["store"] == "2"
    assert any("Store 2 · Saturday 1 August 2015" in item.value for item in page.subheader)


@pytest.mark.parametrize("typed", ["9999", "-1", "Berlin", "0"])
def test_unknown_store_has_no_forecast_and_is_named(stub_service: Any, typed: str) -> None:
    page = open_url(store=typed)
    assert f"There is no store {escape_markdown(typed)}" in page.error[0].value
    assert "3 stores" in page.error[0].value
    assert not page.metric and not stub_service.predict_bodies


@pytest.mark.parametrize("store", ["", "1e9", "\uff19", "%00", "9" * 400])
def test_no_url_breaks_the_page(stub_service: Any, store: str) -> None:
    page = open_url(store=store, date="\x00")
    assert not any("cannot be shown" in error.value for error in page.error)
