"""Plan and past sales of a store around a day: fetched together and kept for each data version."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any, Final

import streamlit as st

from rossmann.dashboard.shared.service_state import client, in_background, info
from rossmann.errors import RequestError
from rossmann.serving.client.client import Client
from rossmann.serving.schemas.stores import PastDay, PlannedRow
from rossmann.settings import load_settings

PAST_WEEKS: Final = 8
DAYS_AFTER: Final = 7
"""Days after the selected one that are forecast too."""


@dataclass(frozen=True)
class StoreDays:
    """A day of a store with its surroundings.

    ``origin``: the last day whose sales the forecast knows. ``planned``: the day itself;
    ``others``: the planned days from the origin, at most ``PAST_WEEKS`` before the day, to
    ``DAYS_AFTER`` after it. ``past``: the last ``PAST_WEEKS`` up to the origin. ``known``: the day
    itself with its sales, None where they are unknown.
    """

    origin: date
    planned: PlannedRow
    others: Sequence[PlannedRow]
    past: Sequence[PastDay]
    known: PastDay | None


def store_days(store: int, day: date) -> StoreDays:
    """Plan and past of a store around a day, in the time of one call.

    Raises ``RequestError`` for a day that has no plan, ``ServiceError`` without the service.
    """
    panel = info().data.panel
    last = panel.last_day or day - timedelta(days=1)
    return _fetch_store_days(load_settings().service_url, panel.version, store, day, last)


def forget_store_days() -> None:
    """Drop what is kept."""
    _fetch_store_days.clear()


@st.cache_resource(max_entries=256, show_spinner=False)
def _fetch_store_days(url: str, data_version: str, store: int, day: date, last: date) -> StoreDays:
    service = client()
    origin = min(last, day - timedelta(days=1))
    history = in_background(_fetch_history, service, store, min(last, day))
    start = max(origin + timedelta(days=1), day - timedelta(days=7 * PAST_WEEKS))
    count = (day - start).days + 1 + DAYS_AFTER
    rows = _fetch_plan(service, store, start, count)
    planned = next((row for row in rows if row.Date == day), None)
    if planned is None:
        # A day that has no plan: the service says which days have one.
        planned = service.plan(store, day.isoformat(), 1).rows[0]
    past = history.result()
    return StoreDays(
        origin,
        planned,
        [row for row in rows if day != row.Date],
        [known for known in past if known.Date <= origin][-7 * PAST_WEEKS :],
        next((known for known in past if known.Date == day and known.Sales is not None), None),
    )


def _fetch_plan(service: Client, store: int, start: date, count: int) -> list[PlannedRow]:
    """The plan from ``start``; empty where the service has none from that day on."""
    try:
        return service.plan(store, start.isoformat(), count).rows
    except RequestError:
        return []


def _fetch_history(service: Client, store: int, until: date) -> list[PastDay]:
    return service.history(store, 7 * PAST_WEEKS + 1, until.isoformat()).days


def request_row(planned: PlannedRow) -> dict[str, Any]:
    """The seven fields of a planned day as a row of a request."""
    return planned.model_dump(mode="json", exclude={"scheduled"})
