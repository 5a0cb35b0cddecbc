"""Page "Single prediction": the form for one store on one day, filled in from the plan."""

from datetime import date, timedelta

import streamlit as st

from rossmann.dashboard.shared.inputs import long_date, objective_select, parse_date_candidates
from rossmann.dashboard.shared.service_state import client, error_boundary, info, stores
from rossmann.dashboard.single.result import ForecastInput, show_result
from rossmann.schema import STATE_HOLIDAYS
from rossmann.serving.schemas.stores import PlannedRow, StoreSummary

HOLIDAY_NAMES = dict(
    zip(STATE_HOLIDAYS, ("None", "Public holiday", "Easter", "Christmas"), strict=True)
)
ASSORTMENT_NAMES = {"a": "basic", "b": "extra", "c": "extended"}


def show_single() -> None:
    """Draw the page."""
    st.title("One store, one day")
    st.write("Pick a store and a day: the forecast follows at once, with the days around it.")
    summaries = stores()
    form, result = st.columns([2, 5], gap="medium")
    inputs = None
    with form, error_boundary():
        inputs = _show_form(summaries)
    with result, error_boundary():
        if inputs is not None:
            show_result(inputs)


def _show_form(summaries: dict[int, StoreSummary]) -> ForecastInput | None:
    number = st.selectbox(
        "Store",
        list(summaries),
        format_func=lambda number: _store_label(summaries[number]),
        key="store",
        persist_state="session",
        help="Type a number to find a store. Type a to d is the chain's own word for its formats.",
    )
    day = _day_input()
    if day is None:
        return None
    planned = client().plan(number, day.isoformat(), 1).rows[0]
    return _plan_inputs(planned)


def _store_label(store: StoreSummary) -> str:
    assortment = ASSORTMENT_NAMES.get(store.assortment, store.assortment)
    return f"Store {store.store} · type {store.store_type} · {assortment}"


def _day_input() -> date | None:
    if "day" not in st.session_state:
        st.session_state["day"] = _first_unknown_day().isoformat()
    typed, calendar = st.columns([5, 2], vertical_alignment="bottom")
    text = typed.text_input(
        "Date",
        key="day",
        persist_state="session",
        help="Any usual way: 2015-08-01, 08/01/2015, 01.08.2015, 1 August 2015",
    )
    with calendar.popover("", icon=":material/calendar_month:", help="Pick from a calendar"):
        st.date_input("Day", value=_first_unknown_day(), key="picked", on_change=_copy_picked_day)
    day = _parse_day(text)
    if day is not None:
        st.markdown(f"**{long_date(day)}** · week {day.isocalendar().week}")
    return day


def _first_unknown_day() -> date:
    """The first day without known sales."""
    last = info().data.panel.last_day
    return (last or date.today()) + timedelta(days=1)


def _copy_picked_day() -> None:
    st.session_state["day"] = st.session_state["picked"].isoformat()


def _parse_day(text: str) -> date | None:
    candidates = parse_date_candidates(text)
    if len(candidates) > 1:
        return st.radio(
            "This can be two dates. Which one do you mean?",
            candidates,
            format_func=long_date,
            index=None,
            key=f"which-{text}",
        )
    if not candidates:
        st.warning(
            "This is not a date. Write it like 2015-08-01, 08/01/2015, 01.08.2015 "
            "or 1 August 2015.",
            icon=":material/event_busy:",
        )
        return None
    return candidates[0]


def _plan_inputs(planned: PlannedRow) -> ForecastInput:
    """The other fields, filled in; the widget keys give each store and day its own plan."""
    suffix = f"{planned.Store}-{planned.Date}"
    with st.container(border=True):
        st.markdown("**What is planned**")
        open_ = st.toggle("Open", bool(planned.Open), key=f"open-{suffix}")
        promo = st.toggle("Promotion", bool(planned.Promo), key=f"promo-{suffix}")
        school = st.toggle("School holiday", bool(planned.SchoolHoliday), key=f"school-{suffix}")
        holiday = st.selectbox(
            "State holiday",
            STATE_HOLIDAYS,
            index=STATE_HOLIDAYS.index(planned.StateHoliday),
            format_func=HOLIDAY_NAMES.__getitem__,
            key=f"holiday-{suffix}",
        )
        if planned.scheduled:
            st.caption(":material/event_available: Filled in from the store's schedule.")
        else:
            st.caption(
                ":material/event_note: No schedule for this day. To start from: the store's usual "
                "opening, public holidays by calendar, and no promotion unless other stores plan "
                "one; set what you know. Promotions and school holidays of the days around, where "
                "no schedule tells them, count as not known."
            )
    row = {
        "Store": planned.Store,
        "DayOfWeek": planned.Date.isoweekday(),
        "Date": planned.Date.isoformat(),
        "Open": int(open_),
        "Promo": int(promo),
        "StateHoliday": holiday,
        "SchoolHoliday": int(school),
    }
    return ForecastInput(row, planned, objective_select("objective"))
