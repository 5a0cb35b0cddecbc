"""Service client, state of the service and what it knows, cached and shared by all pages."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, Literal, ParamSpec, TypeVar

import streamlit as st

from rossmann.dashboard.shared.formats import short_date
from rossmann.errors import RossmannError, ServiceError
from rossmann.schema import Dataset
from rossmann.serving.client.client import Client
from rossmann.serving.schemas.models import DataInfo, Health, ModelInfo
from rossmann.serving.schemas.stores import StoreSummary
from rossmann.settings import load_settings

REFRESH_SECONDS: Final = 3
"""Seconds between two checks of the service."""
MAX_AGE_SECONDS: Final = 2
BACKGROUND_THREADS: Final = 16
Colour = Literal["green", "orange", "red", "gray"]
_Params = ParamSpec("_Params")
_Result = TypeVar("_Result")


@st.cache_resource(show_spinner=False)
def _client(url: str) -> Client:
    return Client(url, load_settings().api_key)


def client() -> Client:
    """The client of the service that the settings name; one per URL, shared by all pages."""
    return _client(load_settings().service_url)


@st.cache_resource(show_spinner=False)
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(BACKGROUND_THREADS, "dashboard")


def in_background(
    function: Callable[_Params, _Result], *args: _Params.args, **kwargs: _Params.kwargs
) -> Future[_Result]:
    """Call a function in another thread; it must not draw anything."""
    return _threads().submit(function, *args, **kwargs)


@dataclass(frozen=True)
class ServiceStatus:
    """Last response of the service; ``error`` is empty where it responded."""

    url: str
    health: Health | None
    info: ModelInfo | None
    error: str


class _StatusMonitor:
    """Asks one service for its state, never more than once at a time."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._lock = threading.Lock()
        self._status: ServiceStatus | None = None
        self._requested_at = 0.0
        self._request: Future[None] | None = None
        self.last_info: ModelInfo | None = None

    def status(self) -> ServiceStatus:
        """The last response; one that is older than ``MAX_AGE_SECONDS`` is asked for anew."""
        with self._lock:
            is_old = time.monotonic() - self._requested_at > MAX_AGE_SECONDS
            if is_old and (self._request is None or self._request.done()):
                self._requested_at = time.monotonic()
                self._request = in_background(self._request_status)
            request = self._request
        if self._status is None and request is not None:
            request.result()
        assert self._status is not None
        return self._status

    def _request_status(self) -> None:
        service = _client(self._url)
        known = in_background(service.model_info)
        try:
            status = ServiceStatus(self._url, service.health(), known.result(), "")
            self.last_info = status.info
        except RossmannError as error:
            status = ServiceStatus(self._url, None, None, str(error))
        self._status = status


@st.cache_resource(show_spinner=False)
def _monitor(url: str) -> _StatusMonitor:
    return _StatusMonitor(url)


def service_status() -> ServiceStatus:
    """The last known state of the service, shared by all pages.

    Only the first call waits for the service; later ones ask in the background, so that no page
    waits for more than its own calls.
    """
    return _monitor(load_settings().service_url).status()


def info() -> ModelInfo:
    """Versions and data in use, as last known; raises ``ServiceError`` where they never were."""
    known = last_info()
    if known is None:
        raise ServiceError(service_status().error)
    return known


def last_info() -> ModelInfo | None:
    """The same, or None; forecasts may still be shown while the service is away."""
    monitor = _monitor(load_settings().service_url)
    return monitor.last_info or monitor.status().info


def stores() -> dict[int, StoreSummary]:
    """Every store of the chain by its number; asked for once for each data version."""
    return _fetch_stores(load_settings().service_url, info().data.panel.version)


@st.cache_resource(max_entries=4, show_spinner=False)
def _fetch_stores(url: str, data_version: str) -> dict[int, StoreSummary]:
    return {store.store: store for store in _client(url).stores()}


def clear_cache() -> None:
    """Drop all cached responses."""
    _monitor.clear()
    _fetch_stores.clear()


def data_label(data: DataInfo) -> tuple[str, Colour, str]:
    """Label, colour and description of a dataset."""
    known = f"Sales known to {short_date(data.last_day)}." if data.last_day else ""
    if data.dataset == Dataset.DEMO:
        text = "The chain is made up, so that everything can be tried. Do not plan with it."
        return "Demo data", "orange", f"{text} {known}"
    return "Real data", "green", f"The Rossmann chain. {known}"
