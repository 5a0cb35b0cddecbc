"""What the pages share: the client of the service, its answers for a moment, and one error handler.

``guarded`` is the dashboard's only error handler: it turns an error into plain words and what to
do about it. Details go to the log, never to the page.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import streamlit as st

from rossmann.dashboard.shared import inputs as dates
from rossmann.errors import (
    AuthError,
    DataError,
    ModelUnavailableError,
    RateLimitError,
    RequestError,
    RossmannError,
    ServiceError,
    SettingsError,
)
from rossmann.logging_config import get_logger
from rossmann.schema import Dataset
from rossmann.serving.client.client import Client
from rossmann.serving.schemas.models import DataInfo, Health, ModelInfo
from rossmann.serving.schemas.stores import StoreSummary
from rossmann.settings import load_settings

HOW_TO_START = (
    "Start it with `bash scripts/launch_dashboard.sh` (or `rossmann serve`). "
    "This page looks again every few seconds and goes on by itself."
)


SHOWN_FAULTS = 10
_RULE = ":material/rule:"
Colour = Literal["green", "orange", "red", "gray"]


@st.cache_resource(show_spinner=False)
def _client(url: str) -> Client:
    return Client(url, load_settings().api_key)


def client() -> Client:
    """The client of the service that the settings name; one per address, shared by all pages."""
    return _client(load_settings().service_url)


@dataclass(frozen=True)
class ServiceStatus:
    """What the service said when it was last asked; ``problem`` is empty where it answered."""

    url: str
    health: Health | None
    info: ModelInfo | None
    problem: str


def service_status() -> ServiceStatus:
    """Ask the service how it is; an answer is kept for two seconds and shared by all pages."""
    return _look(load_settings().service_url)


@st.cache_resource(ttl=2, show_spinner=False)
def _look(url: str) -> ServiceStatus:
    service = _client(url)
    try:
        return ServiceStatus(url, service.health(), service.model_info(), "")
    except RossmannError as error:
        return ServiceStatus(url, None, None, str(error))


def info() -> ModelInfo:
    """Versions and data in use; raises ``ServiceError`` while the service is away."""
    seen = service_status()
    if seen.info is None:
        raise ServiceError(seen.problem)
    return seen.info


def stores() -> dict[int, StoreSummary]:
    """Every store of the chain by its number."""
    return _stores(load_settings().service_url)


@st.cache_resource(ttl=30, show_spinner=False)
def _stores(url: str) -> dict[int, StoreSummary]:
    return {store.store: store for store in _client(url).stores()}


def clear_status_cache() -> None:
    """Drop what the service said of itself, so that the next look asks it."""
    _look.clear()


def clear_cache() -> None:
    """Drop all answers that are kept."""
    clear_status_cache()
    _stores.clear()


def data_label(data: DataInfo) -> tuple[str, Colour, str]:
    """What to call the data: a few words, a colour, and a sentence."""
    known = f"Sales known to {dates.short_date(data.last_day)}." if data.last_day else ""
    if data.dataset == Dataset.DEMO:
        text = "The chain is made up, so that everything can be tried. Do not plan with it."
        return "Demo data", "orange", f"{text} {known}"
    return "Real data", "green", f"The Rossmann chain. {known}"


@contextmanager
def error_boundary() -> Iterator[None]:
    """Turn whatever goes wrong inside into a box that says what it is and what to do."""
    try:
        yield
    except RequestError as error:
        lines = [f"- {fault.msg}" for fault in error.faults[:SHOWN_FAULTS]]
        st.error("\n".join(["**There is no forecast for this.**", "", *lines]), icon=_RULE)
    except RossmannError as error:
        st.error(f"**{_title(error)}** {error}\n\n{_advice(error)}", icon=":material/error:")
    except Exception:  # noqa: BLE001 -- the door's one handler: it is logged, and told in words
        get_logger("dashboard").exception("page failed")
        st.error(
            "**This page cannot be shown.** Something went wrong that should not. Reload the "
            "page; if it stays, the dashboard's log says why.",
            icon=":material/error:",
        )


def _title(error: RossmannError) -> str:
    titles = {
        RateLimitError: "The service was called too often.",
        ServiceError: "The prediction service does not answer.",
        ModelUnavailableError: "No model is in Production yet.",
        AuthError: "The service does not let the dashboard in.",
        DataError: "This file cannot be used.",
        SettingsError: "A setting is wrong.",
    }
    return next((text for kind, text in titles.items() if isinstance(error, kind)), "It failed.")


def _advice(error: RossmannError) -> str:
    if isinstance(error, RateLimitError):
        return ""
    if isinstance(error, ServiceError):
        return HOW_TO_START
    if isinstance(error, ModelUnavailableError):
        return "`rossmann train` makes one, `rossmann promote` puts it in Production."
    return ""
