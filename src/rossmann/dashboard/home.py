"""The first page: are the services well, which model answers, which data is it, how to begin."""

import streamlit as st
from streamlit.delta_generator import DeltaGenerator
from streamlit.navigation.page import Page

import rossmann
from rossmann.dashboard.shared import charts
from rossmann.dashboard.shared import inputs as dates
from rossmann.dashboard.shared import service_state as state
from rossmann.dashboard.shared.service_state import Colour, ServiceStatus
from rossmann.serving.schemas.models import ModelInfo
from rossmann.settings import load_settings

LOOK_EVERY = 3
"""Seconds between two looks at the services."""


def show(single: Page, batch: Page) -> None:
    """The page, with links to the two others."""
    st.title("What will this store sell?")
    st.write(
        "Forecasts of daily sales for every store of the chain, up to 48 days ahead, "
        "each with the range in which four days in five end."
    )
    _services()
    _begin(single, batch)
    _what_answers()


@st.fragment(run_every=LOOK_EVERY)
def _services() -> None:
    """State of the three services, looked at again every few seconds."""
    with state.error_boundary():
        seen = state.service_status()
        _cards(seen)
        if seen.info is None:
            st.error(
                f"**The prediction service does not answer.** {state.HOW_TO_START}",
                icon=":material/cloud_off:",
            )


@st.fragment(run_every=LOOK_EVERY)
def _what_answers() -> None:
    """Model and data, looked at again as well: a version may be promoted meanwhile."""
    with state.error_boundary():
        info = state.service_status().info
        if info is not None:
            _model_and_data(info)


def _cards(seen: ServiceStatus) -> None:
    settings = load_settings()
    places = st.columns(3)
    health = seen.health
    if health is None:
        _card(places[0], "Prediction service", "Away", "red", seen.url)
        _card(places[1], "Model registry (MLflow)", "Not known", "gray", settings.tracking_uri)
    else:
        away = health.registry == "away"
        well = health.status == "healthy" or away
        _card(places[0], "Prediction service", "Running", "green", seen.url)
        _card(
            places[1],
            "Model registry (MLflow)",
            "Away" if away else "Running",
            "orange" if away else "green",
            settings.tracking_uri,
        )
        if away:
            st.warning(
                "The model registry is away. Forecasts go on from the service's own copy of the "
                "model; a new version cannot be taken over until it is back. Start it with "
                "`bash scripts/start_mlflow.sh`.",
                icon=":material/inventory_2:",
            )
        elif not well:
            st.warning(f"The service is not at its best: {health.reason}", icon=":material/info:")
    _card(places[2], "Dashboard", "Running", "green", f"Version {rossmann.__version__}")


def _card(place: DeltaGenerator, name: str, word: str, colour: Colour, more: str) -> None:
    icons = {"green": "check_circle", "red": "cancel", "orange": "warning", "gray": "help"}
    with place.container(border=True, height="stretch"):
        st.markdown(f"**{name}**")
        st.badge(word, icon=f":material/{icons[colour]}:", color=colour)
        st.caption(more)


def _model_and_data(info: ModelInfo) -> None:
    """Which versions there are, what they come from, and how far off they are."""
    left, right = st.columns([2, 3], gap="large")
    with left:
        st.subheader("Which model answers")
        production, staging = st.columns(2)
        production.metric("Production version", info.production_version or "none", border=True)
        staging.metric("Staging version", info.staging_version or "none", border=True)
        st.subheader("Which data it is")
        _data(info)
    scores = _scores(info)
    if scores:
        with right:
            st.subheader("How far off is it?")
            st.altair_chart(charts.accuracy_chart(scores), width="stretch")
            st.caption(
                "Typical error of forecasts for weeks that the model had not seen, in per cent of "
                "a day's sales (RMSPE; the mean of its backtest windows). Shorter is better."
            )


def _data(info: ModelInfo) -> None:
    panel = info.data.panel
    label, colour, meaning = state.data_label(panel)
    st.badge(label, icon=":material/database:", color=colour)
    lines = [meaning]
    if panel.stores and panel.rows:
        lines.append(f"{panel.stores:,} stores, {panel.rows:,} days of sales.")
    if panel.schedule_end:
        lines.append(
            f"Promotions and holidays are planned to {dates.short_date(panel.schedule_end)}."
        )
    if info.data.model.dataset != panel.dataset:
        lines.append(f"**The model learned from other data: {info.data.model.label}.**")
    st.write(" ".join(lines))
    st.caption(f"Data version {panel.version}")


def _scores(info: ModelInfo) -> dict[str, float]:
    """Mean RMSPE of the model and of of two plain rules over the backtest windows, or nothing."""
    names = {
        "ensemble": "This model",
        "median": "Median of the past year",
        "seasonal_naive": "Same day last time",
    }
    windows = [window.get("rmspe", {}) for window in info.metrics.get("windows", [])]
    return {
        label: sum(window[name] for window in windows) / len(windows)
        for name, label in names.items()
        if windows and all(name in window for window in windows)
    }


def _begin(single: Page, batch: Page) -> None:
    st.subheader("How to begin")
    one, two, three = st.columns(3)
    with one.container(border=True, height="stretch"):
        st.markdown("**1 · One store, one day**")
        st.write("Pick a store and a date. What is planned is filled in; change it and watch.")
        st.page_link(single, label="Single prediction")
    with two.container(border=True, height="stretch"):
        st.markdown("**2 · Many at once**")
        st.write("Take the template, fill in stores and days, and get it back with forecasts.")
        st.page_link(batch, label="Batch")
    with three.container(border=True, height="stretch"):
        st.markdown("**3 · From your own programs**")
        st.write("All of it is an HTTP service too, with examples that work.")
        st.page_link(f"{load_settings().service_url}/docs", label="API", icon=":material/api:")
