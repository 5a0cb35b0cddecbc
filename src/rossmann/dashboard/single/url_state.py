"""State of the page in its URL: store, date, objective, and what was changed in the plan.

The session keeps it while other pages are shown; a reload, a bookmark or the browser's Back button
takes it from the URL.
"""

from collections.abc import Mapping
from datetime import date
from typing import Any, Final

import streamlit as st
from streamlit.runtime.scriptrunner import get_script_run_ctx

from rossmann.schema import OBJECTIVES, STATE_HOLIDAYS, Objective
from rossmann.settings import load_settings

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
