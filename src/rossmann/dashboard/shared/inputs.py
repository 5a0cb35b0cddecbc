"""Inputs that both pages share: typed dates in any usual format, and the choice of an objective."""

import re
from collections.abc import Callable
from datetime import date
from typing import Any, Final

import streamlit as st

from rossmann.schema import OBJECTIVES, Objective
from rossmann.settings import load_settings

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_GERMAN_MONTHS = {"mär": 3, "mae": 3, "mai": 5, "okt": 10, "dez": 12}
_NUMBERS = re.compile(r"(\d{1,4})\s*([-/. ])\s*(\d{1,2})\s*\2\s*(\d{1,4})")
_DAY_FIRST = re.compile(r"(\d{1,2})(?:st|nd|rd|th)?[.\s]*([^\W\d]{3,})[.,\s]*(\d{4}|\d{2})")
_MONTH_FIRST = re.compile(r"([^\W\d]{3,})[.\s]*(\d{1,2})(?:st|nd|rd|th)?[,\s]+(\d{4}|\d{2})")
_WEEKDAY = re.compile(r"^(mon|tue|wed|thu|fri|sat|sun)[a-z]*[,.\s]+")
_CLOCK = re.compile(r"[t\s]\d{1,2}:\d{2}(:\d{2}(\.\d+)?)?z?$")
YearMonthDay = tuple[int, int, int]


def parse_date_candidates(text: str) -> list[date]:
    """Every date that ``text`` can mean: none, one, or two (month or day first).

    Accepts 2015-08-01, 08/01/2015, 08/01/15, 01.08.2015, 20150801, 1 August 2015, Aug 1, 2015,
    with a weekday before it or a time of day after it.
    """
    stripped = _CLOCK.sub("", _WEEKDAY.sub("", text.strip().lower()))
    candidates: list[date] = []
    for year, month, day in _year_month_days(stripped):
        try:
            candidate = date(year, month, day)
        except ValueError:
            continue
        if candidate not in candidates:
            candidates.append(candidate)
    return candidates


def _year_month_days(text: str) -> list[YearMonthDay]:
    if re.fullmatch(r"\d{8}", text):
        return [(int(text[:4]), int(text[4:6]), int(text[6:]))]
    if match := _NUMBERS.fullmatch(text):
        first, separator, second, third = match.groups()
        return _parse_numeric(first, separator, second, third)
    if match := _DAY_FIRST.fullmatch(text):
        return _parse_month_name(match[3], match[2], match[1])
    if match := _MONTH_FIRST.fullmatch(text):
        return _parse_month_name(match[3], match[1], match[2])
    return []


def _parse_numeric(first: str, separator: str, second: str, third: str) -> list[YearMonthDay]:
    if len(first) == 4:
        return [(int(first), int(second), int(third))]
    if len(first) > 2 or len(third) not in (2, 4):
        return []
    month_first = (_year(third), int(first), int(second))
    day_first = (_year(third), int(second), int(first))
    # With full stops the day always comes first; with slashes and dashes usage differs.
    return [day_first] if separator == "." else [month_first, day_first]


def _parse_month_name(year: str, month: str, day: str) -> list[YearMonthDay]:
    prefix = month[:3]
    number = _GERMAN_MONTHS.get(prefix) or (_MONTHS.index(prefix) + 1 if prefix in _MONTHS else 0)
    return [(_year(year), number, int(day))] if number else []


def _year(text: str) -> int:
    return int(text) + 2000 if len(text) == 2 else int(text)


def long_date(day: date) -> str:
    """A date in full: Saturday 1 August 2015."""
    return f"{day:%A} {day.day} {day:%B %Y}"


def short_date(day: date) -> str:
    """A date with short names: Sat 1 Aug 2015."""
    return f"{day:%a} {day.day} {day:%b %Y}"


OBJECTIVE_LABELS: Final[dict[Objective, str]] = {
    "accuracy": "Smallest error of each day",
    "unbiased": "Totals without bias",
}


def selected_objective(key: str) -> Objective:
    """The choice at ``key`` in this session; before a choice, the objective of the settings."""
    selected: Objective = st.session_state.get(key, load_settings().objective)
    return selected


def objective_select(
    key: str, on_change: Callable[..., None] | None = None, args: tuple[Any, ...] = ()
) -> Objective:
    """Draw the select box; each page keeps its choice at a key of its own."""
    selected: Objective = st.selectbox(
        "Made for",
        OBJECTIVES,
        index=OBJECTIVES.index(load_settings().objective),
        format_func=OBJECTIVE_LABELS.__getitem__,
        key=key,
        persist_state="session",
        help="Totals without bias: for orders and money of many days, which small errors undercut.",
        on_change=on_change,
        args=args,
    )
    return selected
