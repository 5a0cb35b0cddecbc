"""The choice of an objective, which both pages offer."""

from typing import Final

import streamlit as st

from rossmann.schema import OBJECTIVES, Objective
from rossmann.settings import load_settings

OBJECTIVE_LABELS: Final[dict[Objective, str]] = {
    "accuracy": "Smallest error of each day",
    "unbiased": "Totals without bias",
}


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
