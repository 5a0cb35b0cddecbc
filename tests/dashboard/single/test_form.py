"""Single prediction: prefilled from the plan, answered at once, in plain words."""

from datetime import date
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from rossmann.dashboard.shared import service_state as state

SINGLE = "from rossmann.dashboard import single, state\nwith state.guarded():\n    single.show()\n"


@pytest.fixture(autouse=True)
def _look_afresh() -> None:
    state.clear_cache()


def open_page(day: str | None = None, store: int | None = None) -> AppTest:
    page = AppTest.from_string(SINGLE, default_timeout=30).run()
    if store is not None:
        page.selectbox(key="store").set_value(store).run()
    if day is not None:
        page.text_input(key="day").set_value(day).run()
    assert not page.exception
    return page


def numbers(page: AppTest) -> dict[str, str]:
    return {metric.label: metric.value for metric in page.metric}


def toggles(page: AppTest) -> dict[str, bool]:
    return {toggle.label: toggle.value for toggle in page.toggle}


def version_line(page: AppTest) -> str:
    [line] = [one.value for one in page.caption if "version 3" in one.value]
    return str(line)


def test_it_starts_with_the_first_unknown_day_as_planned(stub_service: Any) -> None:
    page = open_page()
    assert page.text_input(key="day").value == "2015-08-01"
    # Saturday of an odd week: open, with a promotion.
    assert toggles(page) == {"Open": True, "Promotion": True, "School holiday": True}
    assert numbers(page) == {
        "Forecast, Sat 1 Aug": "1,560",
        "80 % range": "1,404\N{EN DASH}1,716",
        "Without promotion": "1,060",
    }


def test_the_weekday_is_worked_out(stub_service: Any) -> None:
    page = open_page("08/21/2015")
    assert any("Friday 21 August 2015" in m.value for m in page.markdown)
    assert stub_service.asked[-1]["inputs"][0]["DayOfWeek"] == 5


def test_version_and_as_of_are_told(stub_service: Any) -> None:
    assert "31 Jul 2015" in version_line(open_page())


def test_a_change_of_plan_changes_the_forecast(stub_service: Any) -> None:
    page = open_page()
    page.toggle[1].set_value(False).run()
    assert numbers(page)["Forecast, Sat 1 Aug"] == "1,060"
    assert "With promotion" in numbers(page)


def test_another_day_brings_its_own_plan(stub_service: Any) -> None:
    page = open_page()
    page.toggle[1].set_value(False).run()
    page.text_input(key="day").set_value("2015-08-15").run()
    assert toggles(page)["Promotion"] is True
    assert page.selectbox[1].value == "a"


def test_a_closed_day_is_zero_and_explained(stub_service: Any) -> None:
    page = open_page("2015-08-02")
    assert toggles(page)["Open"] is False
    assert numbers(page)["Forecast, Sun 2 Aug"] == "0"
    assert "closed" in page.info[0].value and "Sunday" in page.info[0].value


def test_a_day_without_a_schedule_is_told(stub_service: Any) -> None:
    page = open_page(store=3)
    assert any("No schedule" in caption.value for caption in page.caption)
    assert "Days without a schedule." in page.warning[0].value


def test_a_doubtful_date_is_asked_about(stub_service: Any) -> None:
    page = open_page("03/09/2015")
    assert not page.metric
    stub_service.asked.clear()
    page.radio[0].set_value(date(2015, 9, 3)).run()
    assert stub_service.asked[0]["inputs"][0]["Date"] == "2015-09-03"
    assert page.metric


def test_text_that_is_no_date_is_told(stub_service: Any) -> None:
    page = open_page("next week")
    assert "not a date" in page.warning[0].value
    assert not page.metric


def test_a_day_that_the_service_refuses_is_told_in_its_words(stub_service: Any) -> None:
    page = open_page("2030-01-01")
    assert page.error and not page.metric
    assert "start is too late" in page.error[0].value


def test_the_picture_holds_two_months_and_the_days_around(stub_service: Any) -> None:
    open_page("2015-08-10")
    around = stub_service.asked[-1]
    days = sorted(row["Date"] for row in around["inputs"])
    assert (days[0], days[-1], len(days)) == ("2015-08-01", "2015-08-17", 17)
    assert around["as_of"] == "2015-07-31"


def test_a_day_in_the_past_is_forecast_from_the_day_before(stub_service: Any) -> None:
    page = open_page("2015-06-10")
    assert "9 Jun 2015" in version_line(page)
    assert stub_service.asked[-1]["as_of"] == "2015-06-09"
    assert "Really sold" in numbers(page)


def test_days_around_that_lie_too_far_are_left_out(stub_service: Any) -> None:
    page = open_page("2016-07-29")
    assert page.metric and not page.error
    assert max(row["Date"] for row in stub_service.asked[-1]["inputs"]) == "2016-07-30"


def test_a_first_visit_during_an_outage_leaves_no_wrong_day_behind(stub_service: Any) -> None:
    open_page()
    stub_service.stop()
    state.clear_status_cache()
    # The stores are still known, the last day of sales is not.
    page = open_page()
    assert page.error
    stub_service.start()
    state.clear_cache()
    page.run()
    assert page.text_input(key="day").value == "2015-08-01"


def test_a_service_that_is_away_is_told_without_a_stack_trace(stub_service: Any) -> None:
    stub_service.stop()
    page = open_page()
    assert "does not answer" in page.error[0].value
    assert "Traceback" not in page.error[0].value


def test_drivers_are_those_of_the_forecast_that_is_shown(stub_service: Any) -> None:
    page = open_page()
    [asked] = stub_service.explained[-1:]
    assert asked["inputs"] == stub_service.asked[0]["inputs"][:1]
    assert (asked["model_stage"], asked["as_of"]) == (3, "2015-07-31")
    assert any("Plain day x drivers = forecast" in one.value for one in page.caption)


def test_a_closed_day_has_no_drivers_and_says_so(stub_service: Any) -> None:
    page = open_page("2015-08-02")
    assert all(asked["inputs"][0]["Open"] for asked in stub_service.explained)
    assert "closed" in page.caption[-1].value


@pytest.mark.parametrize("code", [404, 413, 500, 503])
def test_a_service_without_drivers_costs_one_calm_line(stub_service: Any, code: int) -> None:
    stub_service.explain_fails = code
    page = open_page()
    assert numbers(page)["Forecast, Sat 1 Aug"] == "1,560"
    assert "the forecast stands" in page.caption[-1].value
    assert not page.error and not page.warning


def test_the_objective_is_asked_for_everywhere_and_told(stub_service: Any) -> None:
    page = open_page()
    assert "smallest error" in version_line(page)
    stub_service.asked.clear()
    page.selectbox(key="objective").set_value("unbiased").run()
    assert {one["objective"] for one in [*stub_service.asked, stub_service.explained[-1]]} == {
        "unbiased"
    }
    assert "totals without bias" in version_line(page)
