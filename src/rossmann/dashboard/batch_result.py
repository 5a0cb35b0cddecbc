"""The answer to a batch: in the order uploaded, by store, by day, and as files."""

from datetime import date
from pathlib import PurePath

import polars as pl
import streamlit as st
from streamlit.elements.lib.column_types import ColumnConfig

from rossmann.dashboard import batch_tables, charts, dates, objectives
from rossmann.dashboard.batch_job import Job
from rossmann.data.prepare_predictions import Upload


def show(name: str, upload: Upload, job: Job) -> None:
    """Numbers, warnings, three views, and two files to take away."""
    table = batch_tables.result_table(upload, job)
    stores, days = batch_tables.by_store(job), batch_tables.by_day(job)
    st.subheader("4 · Take the forecasts")
    _numbers(stores, days)
    for text, count in job.warnings.items():
        st.warning(f"{count:,} rows: {text}.", icon=":material/info:")
    _files(name, table, stores, made_by(job))
    by_day, by_store, rows = st.tabs(["By day", "By store", "All rows, as uploaded"])
    with by_day:
        st.altair_chart(charts.totals_chart(days), width="stretch")
    with by_store:
        st.dataframe(stores, hide_index=True, width="stretch", column_config=_whole(stores))
    with rows:
        st.dataframe(table, hide_index=True, width="stretch", column_config=_whole(table))
    st.caption(made_by(job))


def _numbers(stores: pl.DataFrame, days: pl.DataFrame) -> None:
    total, chain, length = st.columns(3)
    sum_of_all = f"{stores['Total forecast'].sum():,.0f}"
    total.metric("Total forecast", sum_of_all, border=True, height="stretch")
    chain.metric("Stores", f"{stores.height:,}", border=True, height="stretch")
    first, last = days["day"].min(), days["day"].max()
    assert isinstance(first, date) and isinstance(last, date)
    length.metric(
        "Days", f"{days.height:,}", f"{dates.short(first)} to {dates.short(last)}", border=True,
        delta_color="off", delta_arrow="off",
    )  # fmt: skip


def _whole(table: pl.DataFrame) -> dict[str, ColumnConfig]:
    """Numbers are shown whole; the files keep them as they were answered."""
    names = [name for name, kind in table.schema.items() if kind.is_float()]
    return {name: st.column_config.NumberColumn(format="localized", step=1) for name in names}


def _files(name: str, table: pl.DataFrame, stores: pl.DataFrame, made: str) -> None:
    stem = f"{PurePath(name).name.split('.')[0]}-forecast"
    left, right, _ = st.columns([1, 1, 2])
    left.download_button(
        "Download CSV",
        lambda: batch_tables.as_csv(table),
        f"{stem}.csv",
        "text/csv",
        icon=":material/download:",
        on_click="ignore",
        width="stretch",
        type="primary",
    )
    right.download_button(
        "Download Excel",
        lambda: batch_tables.as_excel(table, stores, made),
        f"{stem}.xlsx",
        "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
        icon=":material/table_view:",
        on_click="ignore",
        width="stretch",
    )


def made_by(job: Job) -> str:
    """Which model made the forecasts, and what it knew."""
    known = dates.short(date.fromisoformat(job.as_of)) if job.as_of else "an unknown day"
    return f"Model version {job.version}, knowing sales up to {known}. {_made_for(job)}"


def _made_for(job: Job) -> str:
    return f"Made for: {objectives.WORDS[job.objective].lower()}."
