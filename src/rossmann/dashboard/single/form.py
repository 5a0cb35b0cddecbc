"""One store on one day: what is planned, the forecast, and a picture of the days around it."""

from datetime import date, timedelta

import streamlit as st

from rossmann.dashboard.shared import inputs as dates
from rossmann.dashboard.shared import inputs as objectives
from rossmann.dashboard.shared import service_state as state
from rossmann.dashboard.single import result as single_answer
from rossmann.dashboard.single.result import Question
from rossmann.schema import STATE_HOLIDAYS
from rossmann.serving.schemas.stores import PlannedRow, StoreSummary

HOLIDAY_NAMES = dict(
    zip(STATE_HOLIDAYS, ("None", "Public holiday", "Easter", "Christmas"), strict=True)
)
ASSORTMENT_NAMES = {"a": "basic", "b": "extra", "c": "extended"}


def show() -> None:
    """The page."""
    st.title("One store, one day")
    st.write("Pick a store and a day: the forecast follows at once, with the days around it.")
    chain = state.stores()
    ask, answer = st.columns([2, 5], gap="medium")
    question = None
    with ask, state.error_boundary():
        question = _ask(chain)
    with answer, state.error_boundary():
        if question is not None:
            single_answer.show(question)


def _ask(chain: dict[int, StoreSummary]) -> Question | None:
    number = st.selectbox(
        "Store",
        list(chain),
        format_func=lambda number: _store_label(chain[number]),
        key="store",
        persist_state="session",
        help="Type a number to find a store. Type a to d is the chain's own word for its formats.",
    )
    day = _ask_day()
    if day is None:
        return None
    planned = state.client().plan(number, day.isoformat(), 1).rows[0]
    return _ask_plan(planned)


def _store_label(store: StoreSummary) -> str:
    assortment = ASSORTMENT_NAMES.get(store.assortment, store.assortment)
    return f"Store {store.store} · type {store.store_type} · {assortment}"


def _ask_day() -> date | None:
    if "day" not in st.session_state:
        st.session_state["day"] = _first_day().isoformat()
    write, pick = st.columns([5, 2], vertical_alignment="bottom")
    text = write.text_input(
        "Date",
        key="day",
        persist_state="session",
        help="Any usual way: 2015-08-01, 08/01/2015, 01.08.2015, 1 August 2015",
    )
    with pick.popover("", icon=":material/calendar_month:", help="Pick from a calendar"):
        st.date_input("Day", value=_first_day(), key="picked", on_change=_take_picked)
    day = _read_day(text)
    if day is not None:
        st.markdown(f"**{dates.long_date(day)}** · week {day.isocalendar().week}")
    return day


def _first_day() -> date:
    """The first day that is not known yet."""
    last = state.info().data.panel.last_day
    return (last or date.today()) + timedelta(days=1)


def _take_picked() -> None:
    st.session_state["day"] = st.session_state["picked"].isoformat()


def _read_day(text: str) -> date | None:
    found = dates.parse_date_candidates(text)
    if len(found) > 1:
        return st.radio(
            "This can be two dates. Which one do you mean?",
            found,
            format_func=dates.long_date,
            index=None,
            key=f"which-{text}",
        )
    if not found:
        st.warning(
            "This is not a date. Write it like 2015-08-01, 08/01/2015, 01.08.2015 "
            "or 1 August 2015.",
            icon=":material/event_busy:",
        )
        return None
    return found[0]


def _ask_plan(planned: PlannedRow) -> Question:
    """The rest of the row, prefilled; a new store or day brings its own plan."""
    one = f"{planned.Store}-{planned.Date}"
    with st.container(border=True):
        st.markdown("**What is planned**")
        opened = st.toggle("Open", bool(planned.Open), key=f"open-{one}")
        promo = st.toggle("Promotion", bool(planned.Promo), key=f"promo-{one}")
        school = st.toggle("School holiday", bool(planned.SchoolHoliday), key=f"school-{one}")
        holiday = st.selectbox(
            "State holiday",
            STATE_HOLIDAYS,
            index=STATE_HOLIDAYS.index(planned.StateHoliday),
            format_func=HOLIDAY_NAMES.__getitem__,
            key=f"holiday-{one}",
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
        "Open": int(opened),
        "Promo": int(promo),
        "StateHoliday": holiday,
        "SchoolHoliday": int(school),
    }
    return Question(row, planned, objectives.objective_select("objective"))
