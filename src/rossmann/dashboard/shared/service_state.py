"""Service client, cached service status, and the error boundary that all pages share.

``error_boundary`` is the dashboard's only error handler: it shows an error as plain words and
advice. Details go to the log, never to the page.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import streamlit as st

from rossmann.dashboard.shared.inputs import short_date
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
REFRESH_SECONDS = 3
"""Seconds between two checks of the service."""
MAX_SHOWN_ERRORS = 10
Colour = Literal["green", "orange", "red", "gray"]


@st.cache_resource(show_spinner=False)
def _client(url: str) -> Client:
    return Client(url, load_settings().api_key)


def client() -> Client:
    """The client of the service that the settings name; one per URL, shared by all pages."""
    return _client(load_settings().service_url)


@dataclass(frozen=True)
class ServiceStatus:
    """Last response of the service; ``error`` is empty where it responded."""

    url: str
    health: Health | None
    info: ModelInfo | None
    error: str


def service_status() -> ServiceStatus:
    """The state of the service, cached for two seconds and shared by all pages."""
    return _fetch_status(load_settings().service_url)


@st.cache_resource(ttl=2, show_spinner=False)
def _fetch_status(url: str) -> ServiceStatus:
    service = _client(url)
    try:
        return ServiceStatus(url, service.health(), service.model_info(), "")
    except RossmannError as error:
        return ServiceStatus(url, None, None, str(error))


def info() -> ModelInfo:
    """Versions and data in use; raises ``ServiceError`` while the service is away."""
    status = service_status()
    if status.info is None:
        raise ServiceError(status.error)
    return status.info


def stores() -> dict[int, StoreSummary]:
    """Every store of the chain by its number."""
    return _fetch_stores(load_settings().service_url)


@st.cache_resource(ttl=30, show_spinner=False)
def _fetch_stores(url: str) -> dict[int, StoreSummary]:
    return {store.store: store for store in _client(url).stores()}


def clear_status_cache() -> None:
    """Drop the cached status, so that the next call requests it."""
    _fetch_status.clear()


def clear_cache() -> None:
    """Drop all cached responses."""
    clear_status_cache()
    _fetch_stores.clear()


def data_label(data: DataInfo) -> tuple[str, Colour, str]:
    """Label, colour and description of a dataset."""
    known = f"Sales known to {short_date(data.last_day)}." if data.last_day else ""
    if data.dataset == Dataset.DEMO:
        text = "The chain is made up, so that everything can be tried. Do not plan with it."
        return "Demo data", "orange", f"{text} {known}"
    return "Real data", "green", f"The Rossmann chain. {known}"


@contextmanager
def error_boundary() -> Iterator[None]:
    """Show any error of the block as a box with what happened and what to do."""
    try:
        yield
    except RequestError as error:
        lines = [f"- {detail.msg}" for detail in error.errors[:MAX_SHOWN_ERRORS]]
        text = "\n".join(["**There is no forecast for this.**", "", *lines])
        st.error(text, icon=":material/rule:")
    except RossmannError as error:
        st.error(f"**{_title(error)}** {error}\n\n{_advice(error)}", icon=":material/error:")
    except Exception:  # noqa: BLE001 -- the outermost handler of a page: logs and shows the error
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
    return next((text for cls, text in titles.items() if isinstance(error, cls)), "It failed.")


def _advice(error: RossmannError) -> str:
    if isinstance(error, RateLimitError):
        return ""
    if isinstance(error, ServiceError):
        return HOW_TO_START
    if isinstance(error, ModelUnavailableError):
        return "`rossmann train` makes one, `rossmann promote` puts it in Production."
    return ""
