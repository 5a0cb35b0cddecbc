"""What a forecast is made for: the planner's choice, in words that both pages share."""

from collections.abc import Callable
from typing import Any, Final

import streamlit as st

from rossmann.schema import OBJECTIVES, Objective
from rossmann.settings import load_settings

WORDS: Final[dict[Objective, str]] = {
    "accuracy": "Smallest error of each day",
    "unbiased": "Totals without bias",
}


def chosen(key: str) -> Objective:
    """What was chosen at ``key`` in this session; before a choice, what the settings say."""
    found: Objective = st.session_state.get(key, load_settings().objective)
    return found


def ask(
    key: str, on_change: Callable[..., None] | None = None, args: tuple[Any, ...] = ()
) -> Objective:
    """Let the planner choose; each page keeps its choice at a key of its own."""
    answer: Objective = st.selectbox(
        "Made for",
        OBJECTIVES,
        index=OBJECTIVES.index(load_settings().objective),
        format_func=WORDS.__getitem__,
        key=key,
        persist_state="session",
        help="Totals without bias: for orders and money of many days, which small errors undercut.",
        on_change=on_change,
        args=args,
    )
    return answer
