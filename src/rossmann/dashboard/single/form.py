"""Page "Single prediction": the form for one store on one day, filled in from the plan.

Its state is in the URL: store, date, objective, and what was changed in the plan. The session keeps
it while other pages are shown; a reload, a bookmark or the browser's Back button takes it from the
URL.
"""

import re
from collections.abc import Collection, Mapping
from datetime import date, timedelta
from typing import Any, Final

import streamlit as st
from streamlit.delta_generator import DeltaGenerator
from streamlit.runtime.scriptrunner import get_script_run_ctx

from rossmann.dashboard.shared.error_boundary import error_boundary
from rossmann.dashboard.shared.formats import (
    contradicted_date,
    is_week,
    long_date,
    number_format,
    parse_date_candidates,
)
from rossmann.dashboard.shared.markdown import escape_markdown
from rossmann.dashboard.shared.page_elements import (
    announce,
    announcement_region,
    objective_select,
    selected_objective,
)
from rossmann.dashboard.shared.service_state import info, stores
from rossmann.dashboard.single.result import ForecastInput, show_result
from rossmann.dashboard.single.store_days import request_row, store_days
from rossmann.errors import RequestError, ServiceError
from rossmann.schema import OBJECTIVES, STATE_HOLIDAYS, Objective
from rossmann.serving.schemas.stores import PlannedRow, StoreSummary
from rossmann.settings import load_settings

HOLIDAY_NAMES = dict(
    zip(STATE_HOLIDAYS, ("None", "Public holiday", "Easter", "Christmas"), strict=True)
)
ASSORTMENT_NAMES = {"a": "basic", "b": "extra", "c": "extended"}
FIELD_NAMES = {
    "Open": "Open",
    "Promo": "Promotion",
    "SchoolHoliday": "School holiday",
    "StateHoliday": "State holiday",
}
STORE_KEY: Final = "store"
DAY_KEY: Final = "day"
OBJECTIVE_KEY: Final = "objective"
_CHANGES_KEY: Final = "plan-changes"
_STARTED_KEY: Final = "single-started"
_PARAMETERS: Final = {
    "Open": "open",
    "Promo": "promo",
    "SchoolHoliday": "school_holiday",
    "StateHoliday": "state_holiday",
}
Changes = dict[str, Any]
"""Values of a row that differ from the plan, by field."""


def show_single() -> None:
    """Draw the page."""
    st.title("One store, one day")
    st.write("Pick a store and a day: the forecast follows at once, with the days around it.")
    region = announcement_region()
    adopt_url()
    summaries = stores()
    form, result = st.columns([2, 5], gap="medium")
    inputs = None
    with form, error_boundary():
        inputs = _show_form(summaries)
    with result, error_boundary():
        if inputs is None:
            announce(region, "")
        else:
            show_result(inputs, region)


def _show_form(summaries: dict[int, StoreSummary]) -> ForecastInput | None:
    store = _store_input(summaries)
    day = _day_input()
    if store is None or day is None:
        typed = day.isoformat() if day else st.session_state[DAY_KEY]
        write_url(store or st.session_state[STORE_KEY], typed, selected_objective(OBJECTIVE_KEY))
        return None
    try:
        days = store_days(store, day)
    except (RequestError, ServiceError):
        objective = selected_objective(OBJECTIVE_KEY)
        write_url(store, day.isoformat(), objective, plan_changes(store, day))
        raise
    row = request_row(days.planned) | _plan_inputs(days.planned)
    objective = objective_select(OBJECTIVE_KEY)
    write_url(store, day.isoformat(), objective, plan_changes(store, day))
    return ForecastInput(row, days, objective)


def _store_input(summaries: dict[int, StoreSummary]) -> int | None:
    """The store; None where the chain has no such one, which the page then says."""
    state = st.session_state
    if STORE_KEY in state:
        state[STORE_KEY] = _as_option(state[STORE_KEY], summaries)
    typed = st.selectbox(
        "Store",
        list(summaries),
        format_func=lambda value: _store_label(value, summaries),
        key=STORE_KEY,
        persist_state="session",
        accept_new_options=True,
        filter_mode="contains",
        help="Type a number to find a store. Type a to d is the chain's own word for its formats.",
    )
    option = _as_option(typed, summaries)
    if isinstance(option, int):
        return option
    count = number_format().whole(len(summaries))
    st.error(
        f"**There is no store {escape_markdown(option)}.** The chain has {count} stores, with "
        f"numbers from {min(summaries):d} to {max(summaries):d}.",
        icon=":material/storefront:",
    )
    return None


def _as_option(typed: int | str | None, summaries: Collection[int]) -> int | str:
    """The number of a store of the chain, else the text as typed."""
    text = str(typed or "").strip()
    match = re.fullmatch(r"(?:store\s*)?0*(\d{1,9})", text, re.IGNORECASE)
    return int(match[1]) if match and int(match[1]) in summaries else text


def _store_label(value: int | str, summaries: dict[int, StoreSummary]) -> str:
    store = summaries.get(value) if isinstance(value, int) else None
    if store is None:
        return str(value)
    assortment = ASSORTMENT_NAMES.get(store.assortment, store.assortment)
    return f"Store {store.store} · type {store.store_type} · {assortment}"


def _day_input() -> date | None:
    first = _first_unknown_day()
    if not st.session_state.get(DAY_KEY):
        st.session_state[DAY_KEY] = first.isoformat()
    typed, calendar = st.columns([5, 2], vertical_alignment="bottom")
    text = typed.text_input(
        "Date",
        key=DAY_KEY,
        persist_state="session",
        help="Any usual way: 2015-08-01, 08/01/2015, Sa 01.08.2015, 1 August, KW 32",
    )
    day = _parse_day(text, first)
    _show_calendar(calendar, day or first)
    if day is not None:
        st.markdown(f"**{long_date(day)}** · week {day.isocalendar().week:d}")
    return day


def _show_calendar(column: DeltaGenerator, day: date) -> None:
    """The calendar, open at the typed day."""
    st.session_state["picked"] = day
    with column.popover("", icon=":material/calendar_month:", help="Pick from a calendar"):
        st.date_input("Day", key="picked", on_change=_copy_picked_day)


def _first_unknown_day() -> date:
    """The first day without known sales."""
    last = info().data.panel.last_day
    return (last or date.today()) + timedelta(days=1)


def _copy_picked_day() -> None:
    st.session_state[DAY_KEY] = st.session_state["picked"].isoformat()


def _parse_day(text: str, first: date) -> date | None:
    candidates = parse_date_candidates(text, first)
    if len(candidates) > 1:
        question = (
            "Which day of this week?"
            if is_week(text)
            else "This can be two dates. Which one do you mean?"
        )
        return st.radio(
            question, candidates, format_func=long_date, index=None, key=f"which-{text}"
        )
    if candidates:
        return candidates[0]
    other = contradicted_date(text, first)
    if other is not None:
        st.warning(f"{long_date(other)} has another weekday.", icon=":material/event_busy:")
        return None
    st.warning(
        "This is not a date. Write it like 2015-08-01, 08/01/2015, 01.08.2015, 1 August 2015 "
        "or KW 32.",
        icon=":material/event_busy:",
    )
    return None


def _plan_inputs(planned: PlannedRow) -> Changes:
    """The other fields, filled in from the plan; returns those that were changed."""
    store, day = planned.Store, planned.Date
    before = plan_changes(store, day)
    with st.container(border=True):
        st.markdown("**What is planned**")
        values = {
            field: int(_toggle(field, planned, before))
            for field in ("Open", "Promo", "SchoolHoliday")
        }
        changes: Changes = {
            field: value for field, value in values.items() if value != getattr(planned, field)
        }
        holiday = _holiday_input(planned, before)
        if holiday != planned.StateHoliday:
            changes["StateHoliday"] = holiday
        _show_source(planned, changes)
    keep_changes(store, day, changes)
    return changes


def _toggle(field: str, planned: PlannedRow, changes: Changes) -> bool:
    key = widget_key(field, planned.Store, planned.Date.isoformat())
    if key not in st.session_state:
        st.session_state[key] = bool(changes.get(field, getattr(planned, field)))
    return st.toggle(FIELD_NAMES[field], key=key)


def _holiday_input(planned: PlannedRow, changes: Changes) -> str:
    key = widget_key("StateHoliday", planned.Store, planned.Date.isoformat())
    if key not in st.session_state:
        st.session_state[key] = changes.get("StateHoliday", planned.StateHoliday)
    selected: str = st.selectbox(
        FIELD_NAMES["StateHoliday"], STATE_HOLIDAYS, format_func=HOLIDAY_NAMES.__getitem__, key=key
    )
    return selected


def _show_source(planned: PlannedRow, changes: Changes) -> None:
    """Where the fields come from: the schedule, a rule, or the user."""
    source = "the store's schedule" if planned.scheduled else "a rule, for want of a schedule"
    if changes:
        names = ", ".join(FIELD_NAMES[field].lower() for field in changes)
        st.caption(f":material/edit: Changed by you: {names}. The rest is from {source}.")
        st.button(
            "Back to the plan",
            icon=":material/undo:",
            on_click=discard_changes,
            args=(planned.Store, planned.Date),
        )
    elif planned.scheduled:
        st.caption(":material/event_available: Filled in from the store's schedule.")
    else:
        st.caption(
            ":material/event_note: No schedule for this day. To start from: the store's usual "
            "opening, public holidays by calendar, and no promotion unless other stores plan "
            "one; set what you know. Promotions and school holidays of the days around, where "
            "no schedule tells them, count as not known."
        )


def adopt_url() -> None:
    """Take over the URL's state, at the start of a session and after Back or Forward.

    Call it before the widgets are drawn. At other times the URL that a run starts with may be
    older than what was just typed.
    """
    context = get_script_run_ctx()
    went_back = context is not None and context.is_history_navigation
    if st.session_state.get(_STARTED_KEY) and not went_back:
        return
    st.session_state[_STARTED_KEY] = True
    query = st.query_params.to_dict()
    if query:
        _adopt(query)


def _adopt(query: Mapping[str, str]) -> None:
    state = st.session_state
    store, day, objective = (query.get(name) for name in ("store", "date", "objective"))
    if store:
        state[STORE_KEY] = store
    if day:
        state[DAY_KEY] = day
    state[OBJECTIVE_KEY] = objective if objective in OBJECTIVES else load_settings().objective
    if store and day:
        _all_changes()[store, day] = _parse_changes(query)
        _forget_widgets(store, day)


def _parse_changes(query: Mapping[str, str]) -> Changes:
    changes: Changes = {}
    for field, parameter in _PARAMETERS.items():
        value = query.get(parameter)
        if field == "StateHoliday":
            if value in STATE_HOLIDAYS:
                changes[field] = value
        elif value in ("0", "1"):
            changes[field] = int(value)
    return changes


def _all_changes() -> dict[tuple[str, str], Changes]:
    changes: dict[tuple[str, str], Changes] = st.session_state.setdefault(_CHANGES_KEY, {})
    return changes


def plan_changes(store: int, day: date) -> Changes:
    """What was changed in the plan of a store and day in this session."""
    return _all_changes().get((str(store), day.isoformat()), {})


def keep_changes(store: int, day: date, changes: Changes) -> None:
    """Keep what was changed in the plan of a store and day."""
    _all_changes()[str(store), day.isoformat()] = changes


def discard_changes(store: int, day: date) -> None:
    """Go back to the plan of a store and day."""
    keep_changes(store, day, {})
    _forget_widgets(str(store), day.isoformat())


def widget_key(field: str, store: int | str, day: str) -> str:
    """Key of the widget of a field: each store and day has widgets of its own."""
    return f"{_PARAMETERS[field]}-{store}-{day}"


def _forget_widgets(store: str, day: str) -> None:
    for field in _PARAMETERS:
        st.session_state.pop(widget_key(field, store, day), None)


def write_url(
    store: int | str, day: str, objective: Objective, changes: Changes | None = None
) -> None:
    """Write the state into the URL, as a new entry of the browser's history if it changed."""
    query = {"store": str(store), "date": day}
    query |= {_PARAMETERS[field]: str(value) for field, value in (changes or {}).items()}
    if objective != load_settings().objective:
        query["objective"] = objective
    if st.query_params.to_dict() != query:
        st.query_params.from_dict(query)
