"""Live region of a page: screen readers read out what is written into it."""

from html import escape

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

KEY = "announcement"
"""The style of the pages hides the container of this key from view."""


def announcement_region() -> DeltaGenerator:
    """The region of the page; create it first, so that it stays the same element when redrawn."""
    return st.container(key=KEY)


def announce(region: DeltaGenerator, text: str) -> None:
    """Replace the text of the region; what is new is read out when the user pauses."""
    # Markdown, not st.html: only its elements stay in place, as live regions must.
    region.markdown(
        f'<div role="status" aria-live="polite" aria-atomic="true">{escape(text)}</div>',
        unsafe_allow_html=True,
    )
