"""The dashboard's frame: its pages, and the state of the service beside each of them."""

from functools import partial

import streamlit as st

from rossmann.dashboard import home
from rossmann.dashboard.batch import page as batch
from rossmann.dashboard.shared.service_state import (
    ServiceStatus,
    data_label,
    error_boundary,
    service_status,
)
from rossmann.dashboard.single import form as single
from rossmann.logging_config import configure_logging

REFRESH_SECONDS = 3
"""Seconds between two looks at the service."""
SIDEBAR = 240
"""Its width in pixels."""
_LESS_EMPTY_TOP = "<style>.stMainBlockContainer {padding-top: 3rem; padding-bottom: 3rem}</style>"


def run() -> None:
    """Draw the page that the address names; Streamlit calls this on every interaction."""
    configure_logging()
    st.set_page_config(
        "Rossmann Forecasting",
        page_icon=":material/storefront:",
        layout="wide",
        initial_sidebar_state=SIDEBAR,
    )
    st.html(_LESS_EMPTY_TOP)
    one = st.Page(
        single.show,
        title="Single prediction",
        icon=":material/storefront:",
        url_path="single",
    )
    many = st.Page(batch.show, title="Batch", icon=":material/table_view:", url_path="batch")
    start = st.Page(
        partial(home.show, one, many), title="Home", icon=":material/home:", default=True
    )
    page = st.navigation([start, one, many])
    with st.sidebar:
        status_sidebar()
    with error_boundary():
        page.run()


@st.fragment(run_every=REFRESH_SECONDS)
def status_sidebar() -> None:
    """Say where the forecasts come from; when the service comes back, draw the page again."""
    with error_boundary():
        seen = service_status()
        was_away = st.session_state.get("away", False)
        st.session_state["away"] = seen.health is None
        _sidebar(seen)
        if was_away and seen.health is not None:
            st.rerun()


def _sidebar(seen: ServiceStatus) -> None:
    if seen.health is None or seen.info is None:
        st.badge("Prediction service away", icon=":material/cloud_off:", color="red")
        st.caption("The page goes on by itself when it is back.")
        return
    label, colour, meaning = data_label(seen.info.data.panel)
    st.badge(label, icon=":material/database:", color=colour)
    st.caption(meaning)
    if seen.health.status != "healthy":
        st.badge("Not all is well", icon=":material/warning:", color="orange")
        st.caption("Forecasts go on. Home says what is amiss.")
