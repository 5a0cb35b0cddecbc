"""Frame of the dashboard: its three pages, and the state of the service in the sidebar."""

from functools import partial
from pathlib import Path
from typing import Final

import streamlit as st

from rossmann.dashboard.batch.page import show_batch
from rossmann.dashboard.home import show_home
from rossmann.dashboard.shared.error_boundary import error_boundary, retry_is_due
from rossmann.dashboard.shared.markdown import escape_markdown
from rossmann.dashboard.shared.page_elements import DEMO_NOTE_KEY, PAGE_SCRIPT, PAGE_STYLE
from rossmann.dashboard.shared.service_state import (
    REFRESH_SECONDS,
    ServiceStatus,
    data_label,
    last_info,
    service_status,
)
from rossmann.dashboard.single.form import show_single
from rossmann.logging_config import configure_logging
from rossmann.schema import Dataset
from rossmann.settings import load_settings
from rossmann.web import PATH as DOCUMENTATION

TITLE: Final = "Rossmann Forecasting"
FAVICON: Final = Path(__file__).with_name("favicon.svg")


def run() -> None:
    """Draw the page that the URL names; Streamlit calls this on every interaction."""
    configure_logging()
    # Before the navigation: else the browser fetches the page's icon from outside as its favicon.
    st.set_page_config(page_icon=FAVICON, layout="wide")
    single = st.Page(
        show_single, title="Single prediction", icon=":material/storefront:", url_path="single"
    )
    batch = st.Page(show_batch, title="Batch", icon=":material/table_view:", url_path="batch")
    home = st.Page(
        partial(show_home, single, batch), title="Home", icon=":material/home:", default=True
    )
    page = st.navigation([home, single, batch])
    st.set_page_config(f"{page.title} · {TITLE}")
    st.html(PAGE_STYLE)
    st.html(PAGE_SCRIPT, unsafe_allow_javascript=True)
    _show_demo_note()
    # Before the page: a slow service must not delay the warning of demo data.
    with st.sidebar:
        status_sidebar()
        st.markdown(
            f"[:material/menu_book: Documentation]({escape_markdown(documentation_link())})"
        )
    with error_boundary():
        page.run()


def documentation_link() -> str:
    """Path of the documentation, which this server has too."""
    return f"{load_settings().dashboard_base_path}{DOCUMENTATION}/"


@st.fragment(run_every=REFRESH_SECONDS)
def status_sidebar() -> None:
    """Show the state of the service; draw a page that failed again when the service responds."""
    with error_boundary():
        status = service_status()
        was_away = st.session_state.get("away", False)
        st.session_state["away"] = status.health is None
        _show_status(status)
        if status.health is not None and (retry_is_due() or was_away):
            st.rerun()


def _show_status(status: ServiceStatus) -> None:
    if status.health is None:
        st.badge("Prediction service away", icon=":material/cloud_off:", color="red")
        st.caption("The page goes on by itself when it is back.")
    known = last_info()
    if known is not None:
        label, colour, description = data_label(known.data.panel)
        st.badge(escape_markdown(label), icon=":material/database:", color=colour)
        st.caption(escape_markdown(description))
    if status.health is not None and status.health.status != "healthy":
        st.badge("Not all is well", icon=":material/warning:", color="orange")
        st.caption("Forecasts go on. Home says what is amiss.")


def _show_demo_note() -> None:
    """The sidebar's warning of demo data, for screens on which the sidebar is folded away."""
    with st.container(key=DEMO_NOTE_KEY), error_boundary():
        known = last_info()
        if known is not None and known.data.panel.dataset == Dataset.DEMO:
            label, colour, description = data_label(known.data.panel)
            st.badge(escape_markdown(label), icon=":material/database:", color=colour)
            st.caption(escape_markdown(description))


if __name__ == "__main__":  # as Streamlit runs it
    run()
