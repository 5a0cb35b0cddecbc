"""Frame of the dashboard: its three pages, and the state of the service in the sidebar."""

from functools import partial

import streamlit as st

from rossmann.dashboard.batch.page import show_batch
from rossmann.dashboard.home import show_home
from rossmann.dashboard.shared.service_state import (
    REFRESH_SECONDS,
    ServiceStatus,
    data_label,
    error_boundary,
    service_status,
)
from rossmann.dashboard.single.form import show_single
from rossmann.logging_config import configure_logging

SIDEBAR_PIXELS = 240
_PAGE_PADDING = "<style>.stMainBlockContainer {padding-top: 3rem; padding-bottom: 3rem}</style>"


def run() -> None:
    """Draw the page that the URL names; Streamlit calls this on every interaction."""
    configure_logging()
    st.set_page_config(
        "Rossmann Forecasting",
        page_icon=":material/storefront:",
        layout="wide",
        initial_sidebar_state=SIDEBAR_PIXELS,
    )
    st.html(_PAGE_PADDING)
    single = st.Page(
        show_single, title="Single prediction", icon=":material/storefront:", url_path="single"
    )
    batch = st.Page(show_batch, title="Batch", icon=":material/table_view:", url_path="batch")
    home = st.Page(
        partial(show_home, single, batch), title="Home", icon=":material/home:", default=True
    )
    page = st.navigation([home, single, batch])
    with st.sidebar:
        status_sidebar()
    with error_boundary():
        page.run()


@st.fragment(run_every=REFRESH_SECONDS)
def status_sidebar() -> None:
    """Show the state of the service; when it is available again, draw the page again."""
    with error_boundary():
        status = service_status()
        was_away = st.session_state.get("away", False)
        st.session_state["away"] = status.health is None
        _show_status(status)
        if was_away and status.health is not None:
            st.rerun()


def _show_status(status: ServiceStatus) -> None:
    if status.health is None or status.info is None:
        st.badge("Prediction service away", icon=":material/cloud_off:", color="red")
        st.caption("The page goes on by itself when it is back.")
        return
    label, colour, description = data_label(status.info.data.panel)
    st.badge(label, icon=":material/database:", color=colour)
    st.caption(description)
    if status.health.status != "healthy":
        st.badge("Not all is well", icon=":material/warning:", color="orange")
        st.caption("Forecasts go on. Home says what is amiss.")


if __name__ == "__main__":  # as Streamlit runs it
    run()
