"""Home page: state of the services, model versions, data, accuracy, links to the other pages."""

import streamlit as st
from streamlit.delta_generator import DeltaGenerator
from streamlit.navigation.page import Page

import rossmann
from rossmann.addresses import without_credentials
from rossmann.dashboard.shared.charts import accuracy_chart
from rossmann.dashboard.shared.error_boundary import error_boundary
from rossmann.dashboard.shared.formats import number_format, short_date
from rossmann.dashboard.shared.markdown import Markdown, code_span, escape_markdown
from rossmann.dashboard.shared.page_elements import LIVE_KEY
from rossmann.dashboard.shared.service_state import (
    REFRESH_SECONDS,
    Colour,
    ServiceStatus,
    data_label,
    service_status,
)
from rossmann.installation import shell_command
from rossmann.serving.schemas.models import ModelInfo
from rossmann.settings import load_settings


def show_home(single: Page, batch: Page) -> None:
    """Draw the page, with links to the two others."""
    st.title("What will this store sell?")
    st.write(
        "Forecasts of daily sales for every store of the chain, up to 48 days ahead, "
        "each with the range in which four days in five end."
    )
    _show_services()
    _show_links(single, batch)
    _show_model()


@st.fragment(run_every=REFRESH_SECONDS)
def _show_services() -> None:
    """State of the three services, refreshed every few seconds."""
    with st.container(key=f"{LIVE_KEY}services"), error_boundary():
        status = service_status()
        _show_cards(status)
        if status.info is None:
            st.error(
                "**The prediction service does not answer.** This page looks again every few "
                "seconds and goes on by itself; how the service is started is below.",
                icon=":material/cloud_off:",
            )
            _show_operator_help(
                Markdown(
                    f"{escape_markdown(without_credentials(status.error))}\n\n"
                    f"Start all with {code_span(shell_command('up'))}, "
                    f"or the service alone with {code_span(shell_command('serve'))}."
                )
            )


@st.fragment(run_every=REFRESH_SECONDS)
def _show_model() -> None:
    """Model and data, refreshed too: a version may be promoted meanwhile."""
    with st.container(key=f"{LIVE_KEY}model"), error_boundary():
        info = service_status().info
        if info is not None:
            _show_model_and_data(info)


def _show_cards(status: ServiceStatus) -> None:
    settings = load_settings()
    columns = st.columns(3)
    registry = "Model registry (MLflow)"
    health = status.health
    service_url, registry_url = map(without_credentials, (status.url, settings.tracking_uri))
    if health is None:
        _show_card(columns[0], "Prediction service", "Away", "red", service_url)
        _show_card(columns[1], registry, "Not known", "gray", registry_url)
    else:
        away = health.registry == "away"
        _show_card(columns[0], "Prediction service", "Running", "green", service_url)
        _show_card(
            columns[1],
            registry,
            "Away" if away else "Running",
            "orange" if away else "green",
            registry_url,
        )
        if away:
            st.warning(
                "The model registry is away. Forecasts go on from the service's own copy of the "
                "model; a new version cannot be taken over until it is back.",
                icon=":material/inventory_2:",
            )
            _show_operator_help(Markdown(f"Start it with {code_span(shell_command('mlflow'))}."))
        elif health.status != "healthy":
            reason = escape_markdown(without_credentials(health.reason))
            st.warning(f"The service is not at its best: {reason}", icon=":material/info:")
    _show_card(columns[2], "Dashboard", "Running", "green", f"Version {rossmann.__version__}")


def _show_operator_help(text: Markdown) -> None:
    """What to do, for those who run the service; planners need not read it."""
    with st.expander("For those who run the service", icon=":material/terminal:"):
        st.markdown(text)


def _show_card(column: DeltaGenerator, name: str, state: str, colour: Colour, detail: str) -> None:
    icons = {"green": "check_circle", "red": "cancel", "orange": "warning", "gray": "help"}
    with column.container(border=True, height="stretch"):
        st.markdown(f"**{escape_markdown(name)}**")
        st.badge(escape_markdown(state), icon=f":material/{icons[colour]}:", color=colour)
        st.caption(escape_markdown(detail))


def _show_model_and_data(info: ModelInfo) -> None:
    """Model versions, data, and accuracy in the backtest."""
    left, right = st.columns([2, 3], gap="large")
    with left:
        st.subheader("Which model answers")
        production, staging = st.columns(2)
        for column, name, version in (
            (production, "Production version", info.production_version),
            (staging, "Staging version", info.staging_version),
        ):
            column.metric(name, escape_markdown(version or "none"), border=True)
        st.subheader("Which data it is")
        _show_data(info)
    scores = _mean_scores(info)
    if scores:
        with right:
            st.subheader("How far off is it?")
            st.altair_chart(accuracy_chart(scores), width="stretch")
            st.caption(
                "Typical error of forecasts for weeks that the model had not seen, in per cent of "
                "a day's sales (RMSPE; the mean of its backtest windows). Shorter is better."
            )


def _show_data(info: ModelInfo) -> None:
    panel = info.data.panel
    label, colour, description = data_label(panel)
    st.badge(escape_markdown(label), icon=":material/database:", color=colour)
    sentences: list[str] = [escape_markdown(description)]
    if panel.stores and panel.rows:
        stores, rows = (number_format().whole(count) for count in (panel.stores, panel.rows))
        sentences.append(f"{stores} stores, {rows} days of sales.")
    if panel.schedule_end:
        sentences.append(
            f"Promotions and holidays are planned to {short_date(panel.schedule_end)}."
        )
    if info.data.model.dataset != panel.dataset:
        sentences.append(
            f"**The model learned from other data: {escape_markdown(info.data.model.label)}.**"
        )
    st.write(" ".join(sentences))
    st.caption(f"Data version {escape_markdown(panel.version)}")


def _mean_scores(info: ModelInfo) -> dict[str, float]:
    """Mean RMSPE over the backtest windows, of the model and two baselines; empty where unknown."""
    labels = {
        "ensemble": "This model",
        "median": "Median of the past year",
        "seasonal_naive": "Same day last time",
    }
    windows = [window.get("rmspe", {}) for window in info.metrics.get("windows", [])]
    return {
        label: sum(window[name] for window in windows) / len(windows)
        for name, label in labels.items()
        if windows and all(name in window for window in windows)
    }


def _show_links(single: Page, batch: Page) -> None:
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
        st.page_link(f"{load_settings().public_api_url}/docs", label="API", icon=":material/api:")
