"""Elements of all pages: style sheet, script, live region, and the choice of an objective."""

from html import escape
from typing import Final

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from rossmann.dashboard.shared.markdown import visible_line
from rossmann.schema import OBJECTIVES, Objective
from rossmann.settings import load_settings

ANNOUNCEMENT_KEY: Final = "announcement"
LIVE_KEY: Final = "live-"
"""Prefix of the keys of containers that are drawn again by themselves."""
SIDEBAR_PIXELS: Final = 240
DEMO_NOTE_KEY: Final = "demo-note"
REJECTED_FILE_KEY: Final = "rejected-file"

PAGE_STYLE: Final = f"""<style>
.stMainBlockContainer {{padding-top: 3rem; padding-bottom: 3rem}}
/* Captions are text like any other: with Streamlit's 60 % they have too little contrast. */
[data-testid="stCaptionContainer"] {{opacity: .85}}
/* An answer that no longer belongs to the form is dimmed at once, not after a second. */
.stMain [data-stale="true"] {{opacity: .3; transition: opacity .1s linear .15s}}
/* What is drawn again every few seconds by itself stays readable meanwhile. */
.stSidebar [data-stale="true"], [class*="st-key-{LIVE_KEY}"] [data-stale="true"] {{
  opacity: 1; transition: none;
}}
/* Hidden parts must not take the gap between two elements either: hence their wrappers. */
[data-testid="stLayoutWrapper"]:has(> .st-key-{ANNOUNCEMENT_KEY}) {{
  position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%);
}}
.stElementContainer:has(> .stHtml > style), .stElementContainer:has(> .stHtml > script) {{
  display: none;
}}
/* The sidebar tells of demo data; where it is folded away, the page does. */
[data-testid="stLayoutWrapper"]:has(> .st-key-{DEMO_NOTE_KEY}) {{display: none}}
/* The browser marks a file that it does not take, and says why only in a tooltip. */
[data-testid="stLayoutWrapper"]:has(> .st-key-{REJECTED_FILE_KEY}) {{display: none}}
:has([data-testid="stFileChip"][aria-invalid="true"])
  > [data-testid="stLayoutWrapper"]:has(> .st-key-{REJECTED_FILE_KEY}) {{display: flex}}
@media (min-width: 769px) {{
  [data-testid="stSidebar"][data-collapsed="false"] {{width: {SIDEBAR_PIXELS}px !important}}
}}
@media (max-width: 768px) {{
  .stMainBlockContainer {{padding-top: 4.5rem}}
  [data-testid="stLayoutWrapper"]:has(> .st-key-{DEMO_NOTE_KEY}) {{display: flex}}
}}
</style>"""

PAGE_SCRIPT: Final = """<script>
// On a narrow screen the sidebar lies over the page: choosing a page folds it away. Streamlit does
// so on telephones only.
if (!window.foldsSidebar) {
  window.foldsSidebar = true;
  document.addEventListener("click", event => {
    if (innerWidth > 768 || !event.target.closest('[data-testid="stSidebarNav"] a')) return;
    setTimeout(() => document.querySelector(
      '.stSidebar[data-collapsed="false"] [data-testid="stSidebarCollapseButton"] button'
    )?.click(), 50);
  });
}
</script>"""
OBJECTIVE_LABELS: Final[dict[Objective, str]] = {
    "accuracy": "Smallest error of each day",
    "unbiased": "Totals without bias",
}


def announcement_region() -> DeltaGenerator:
    """Live region: screen readers read out what is written into it.

    Create it first, so that it stays the same element when the page is drawn again.
    """
    return st.container(key=ANNOUNCEMENT_KEY)


def announce(region: DeltaGenerator, text: str) -> None:
    """Replace the text of the region; what is new is read out when the user pauses."""
    # Markdown, not st.html: only its elements stay in place, as live regions must. A line end would
    # end the HTML: what follows would be Markdown.
    line = escape(visible_line(text))
    region.markdown(
        f'<div role="status" aria-live="polite" aria-atomic="true">{line}</div>',
        unsafe_allow_html=True,
    )


def selected_objective(key: str) -> Objective:
    """The choice at ``key`` in this session; before a choice, the objective of the settings."""
    selected: Objective = st.session_state.get(key, load_settings().objective)
    return selected


def objective_select(key: str) -> Objective:
    """Draw the select box; each page keeps its choice at a key of its own."""
    st.session_state.setdefault(key, load_settings().objective)
    selected: Objective = st.selectbox(
        "Made for",
        OBJECTIVES,
        format_func=OBJECTIVE_LABELS.__getitem__,
        key=key,
        persist_state="session",
        help="Totals without bias: for orders and money of many days, which small errors undercut.",
    )
    return selected
