"""Page "Single prediction": form, forecast, drivers, objective, and errors."""

from datetime import date
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from rossmann.dashboard.shared.service_state import clear_cache

SINGLE_PAGE = """
from rossmann.dashboard.shared.error_boundary import error_boundary
from rossmann.dashboard.single.form import show_single
with error_boundary():
    show_single()
"""


@pytest.fixture(autouse=True)
def _clear_cache() -> None:
    clear_cache()


def open_page(day: str | None = None, store: int | None = None) -> AppTest:
    page = AppTest.from_string(SINGLE_PAGE, default_timeout=30).run()
    if store is not None:
        page.selectbox(key="store").set_value(store).run()
    if day is not None:
        page.text_input(key="day").set_value(day).run()
    assert not page.exception
    return page


def metrics(page: AppTest) -> dict[str, str]:
    return {metric.label: metric.value for metric in page.metric}


def toggles(page: AppTest) -> dict[str, bool]:
    return {toggle.label: toggle.value for toggle in page.toggle}


def version_line(page: AppTest) -> str:
    [caption] = [item.value for item in page.caption if "version 3" in item.value]
    return str(caption)


def test_form_starts_with_the_first_unknown_day(stub_service: Any) -> None:
    page = open_page()
    assert page.text_input(key="day").value == "2015-08-01"
    # Saturday of an odd week: open, with a promotion.
    assert toggles(page) == {"Open": True, "Promotion": True, "School holiday": True}
    assert metrics(page) == {
        "Forecast, Sat 1 Aug": "1,560",
        "80 % range": "1,404\N{EN DASH}1,716",
        "Without promotion": "1,060",
    }


def test_weekday_is_derived_from_the_date(stub_service: Any) -> None:
    page = open_page("08/21/2015")
    assert any("Friday 21 August 2015" in m.value for m in page.markdown)
    assert stub_service.predict_bodies[-1]["inputs"][0]["DayOfWeek"] == 5


def test_version_and_origin_are_shown(stub_service: Any) -> None:
    assert "31 Jul 2015" in version_line(open_page())


def test_changed_plan_changes_the_forecast(stub_service: Any) -> None:
    page = open_page()
    page.toggle[1].set_value(False).run()
    assert metrics(page)["Forecast, Sat 1 Aug"] == "1,060"
    assert "With promotion" in metrics(page)


def test_each_day_has_its_own_plan(stub_service: Any) -> None:
    page = open_page()
    page.toggle[1].set_value(False).run()
    page.text_input(key="day").set_value("2015-08-15").run()
    assert toggles(page)["Promotion"] is True
    assert page.selectbox[1].value == "a"


def test_closed_day_is_zero_with_a_reason(stub_service: Any) -> None:
    page = open_page("2015-08-02")
    assert toggles(page)["Open"] is False
    assert metrics(page)["Forecast, Sun 2 Aug"] == "0"
    assert "closed" in page.info[0].value and "Sunday" in page.info[0].value


def test_missing_schedule_is_shown(stub_service: Any) -> None:
    page = open_page(store=3)
    assert any("No schedule" in caption.value for caption in page.caption)
    assert "Days without a schedule." in page.warning[0].value


def test_ambiguous_date_shows_a_choice(stub_service: Any) -> None:
    page = open_page("03/09/2015")
    assert not page.metric
    stub_service.predict_bodies.clear()
    page.radio[0].set_value(date(2015, 9, 3)).run()
    assert stub_service.predict_bodies[0]["inputs"][0]["Date"] == "2015-09-03"
    assert page.metric


def test_invalid_date_is_shown(stub_service: Any) -> None:
    page = open_page("next week")
    assert "not a date" in page.warning[0].value
    assert not page.metric


def test_error_of_the_service_is_shown(stub_service: Any) -> None:
    page = open_page("2030-01-01")
    assert page.error and not page.metric
    # In the page's words, not in those of a URL parameter.
    assert "The date must be from 2014-01-02 to 2016-07-30" in page.error[0].value
    assert "2030-01-01" in page.error[0].value


def test_chart_forecasts_from_the_origin_to_a_week_after(stub_service: Any) -> None:
    open_page("2015-08-10")
    body = stub_service.predict_bodies[-1]
    days = [row["Date"] for row in body["inputs"]]
    # The selected day, the same with the other promotion, and every other day.
    assert days[:2] == ["2015-08-10"] * 2
    assert (min(days), max(days), len(set(days))) == ("2015-08-01", "2015-08-17", 17)
    assert body["as_of"] == "2015-07-31"


def test_warnings_of_other_days_are_not_those_of_the_selected_one(stub_service: Any) -> None:
    stub_service.warn = lambda rows: [i for i, r in enumerate(rows) if r["Date"] == "2015-08-12"]
    assert not open_page("2015-08-10").warning
    assert "Days without a schedule." in open_page("2015-08-12").warning[0].value


def test_past_day_is_forecast_from_the_day_before(stub_service: Any) -> None:
    page = open_page("2015-06-10")
    assert "9 Jun 2015" in version_line(page)
    assert stub_service.predict_bodies[-1]["as_of"] == "2015-06-09"
    assert "Really sold" in metrics(page)


def test_days_beyond_the_horizon_are_left_out(stub_service: Any) -> None:
    page = open_page("2016-07-29")
    assert page.metric and not page.error
    assert max(row["Date"] for row in stub_service.predict_bodies[-1]["inputs"]) == "2016-07-30"


def test_first_visit_during_an_outage_stores_no_wrong_day(stub_service: Any) -> None:
    open_page()
    stub_service.stop()
    clear_cache()
    page = open_page()
    assert page.error
    stub_service.start()
    clear_cache()
    page.run()
    assert page.text_input(key="day").value == "2015-08-01"


def test_unavailable_service_is_shown_without_a_traceback(stub_service: Any) -> None:
    stub_service.stop()
    page = open_page()
    assert "does not answer" in page.error[0].value
    assert "Traceback" not in page.error[0].value


def test_drivers_are_requested_for_the_shown_forecast(stub_service: Any) -> None:
    page = open_page()
    [body] = stub_service.explain_bodies[-1:]
    assert body["inputs"] == stub_service.predict_bodies[0]["inputs"][:1]
    assert (body["model_stage"], body["as_of"]) == ("Production", "2015-07-31")
    assert any("Plain day x drivers = forecast" in item.value for item in page.caption)
    assert any("To decide on a promotion" in item.value for item in page.markdown)


def test_drivers_of_another_version_are_requested_again(stub_service: Any) -> None:
    stub_service.explain_version = 4
    page = open_page()
    assert [body["model_stage"] for body in stub_service.explain_bodies] == ["Production", 3]
    assert any("Plain day x drivers = forecast" in item.value for item in page.caption)
    assert any("To decide on a promotion" in item.value for item in page.markdown)


def test_closed_day_has_no_drivers(stub_service: Any) -> None:
    page = open_page("2015-08-02")
    assert all(body["inputs"][0]["Open"] for body in stub_service.explain_bodies)
    assert "closed" in page.caption[-1].value


@pytest.mark.parametrize("code", [404, 413, 500, 503])
def test_failed_explanation_shows_one_caption(stub_service: Any, code: int) -> None:
    stub_service.explain_status = code
    page = open_page()
    assert metrics(page)["Forecast, Sat 1 Aug"] == "1,560"
    assert "the forecast stands" in page.caption[-1].value
    assert not page.error and not page.warning


def test_objective_is_sent_with_every_request(stub_service: Any) -> None:
    page = open_page()
    assert "smallest error" in version_line(page)
    stub_service.predict_bodies.clear()
    page.selectbox(key="objective").set_value("unbiased").run()
    assert {
        item["objective"]
        for item in [*stub_service.predict_bodies, stub_service.explain_bodies[-1]]
    } == {"unbiased"}
    assert "totals without bias" in version_line(page)


def test_opened_sunday_is_no_longer_as_planned(stub_service: Any) -> None:
    page = open_page("2015-08-02")
    page.toggle[0].set_value(True).run()
    assert "You opened the store" in page.info[0].value
    captions = " ".join(item.value for item in page.caption)
    assert "Changed by you: open." in captions and "Filled in from" not in captions
    page.button[0].click().run()
    assert toggles(page)["Open"] is False
    assert any("Filled in from the store's schedule" in item.value for item in page.caption)


def test_past_day_of_training_is_no_evidence(stub_service: Any) -> None:
    stub_service.in_training = True
    page = open_page("2015-06-10")
    [sold] = [metric for metric in page.metric if metric.label == "Really sold"]
    assert "has learned from this day" in sold.help and not sold.delta
    assert "In training: no evidence." in page.warning[0].value


def test_past_day_is_compared_with_the_backtest(stub_service: Any) -> None:
    stub_service.in_training = True
    stub_service.backtest = {"as_of": "2015-05-31", "forecast": 1442.0}
    page = open_page("2015-06-10")
    assert metrics(page)["Backtest forecast"] == "1,442"
    [sold] = [metric for metric in page.metric if metric.label == "Really sold"]
    assert (sold.value, sold.delta) == ("1,030", "29 % below backtest")


def test_week_is_read_after_a_choice_of_its_day(stub_service: Any) -> None:
    page = open_page("KW 32")
    assert not page.metric and len(page.radio[0].options) == 7
    page.radio[0].set_value(date(2015, 8, 5)).run()
    assert "Forecast, Wed 5 Aug" in metrics(page)


def test_calendar_follows_the_typed_date(stub_service: Any) -> None:
    page = open_page("Mo 10.08.2015")
    assert page.date_input(key="picked").value == date(2015, 8, 10)
    page.date_input(key="picked").set_value(date(2015, 8, 12)).run()
    assert page.text_input(key="day").value == "2015-08-12"


def test_wrong_weekday_is_named(stub_service: Any) -> None:
    page = open_page("So 10.08.2015")
    assert "Monday 10 August 2015 has another weekday" in page.warning[0].value
