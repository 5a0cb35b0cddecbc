"""The answer to a batch: in the order uploaded, by store, by day, and as files."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import PurePath
from typing import Final

import polars as pl
import streamlit as st
from streamlit.elements.lib.column_types import ColumnConfig

from rossmann.dashboard.batch import tables as batch_tables
from rossmann.dashboard.batch.job import BatchRun
from rossmann.dashboard.shared import charts
from rossmann.dashboard.shared import inputs as dates
from rossmann.dashboard.shared import inputs as objectives
from rossmann.data.prepare_predictions import Upload

MOST_SHEET_ROWS: Final = 200_000
"""Rows that a workbook is written for (15 s); a file has room for 1,048,576."""


@dataclass(frozen=True)
class Result:
    """What a finished batch comes to, made once: tables, and files as bytes.

    The files wait with the session rather than being written when asked for: Streamlit lets a
    file that it wrote on a click go after two redraws of any session, and the pages of thirty
    planners redraw their sidebars ten times a second, before a slow line has fetched it.
    """

    table: pl.DataFrame
    stores: pl.DataFrame
    days: pl.DataFrame
    made: str
    csv: bytes
    excel: bytes | None

    @classmethod
    def of(cls, upload: Upload, job: BatchRun) -> "Result":
        """Tables and files of a job whose rows are all answered."""
        table, stores = batch_tables.result_table(upload, job), batch_tables.by_store(job)
        made = made_by(job)
        small = table.height <= MOST_SHEET_ROWS
        excel = batch_tables.as_excel(table, stores, made) if small else None
        csv = batch_tables.as_csv(table)
        return cls(table, stores, batch_tables.by_day(job), made, csv, excel)


def show(name: str, result: Result, warnings: Mapping[str, int]) -> None:
    """Numbers, warnings, three views, and two files to take away."""
    st.subheader("4 · Take the forecasts")
    _numbers(result.stores, result.days)
    for text, count in warnings.items():
        st.warning(f"{count:,} rows: {text}.", icon=":material/info:")
    _files(name, result)
    by_day, by_store, rows = st.tabs(["By day", "By store", "All rows, as uploaded"])
    with by_day:
        st.altair_chart(charts.totals_chart(result.days), width="stretch")
    for tab, table in ((by_store, result.stores), (rows, result.table)):
        with tab:
            st.dataframe(table, hide_index=True, width="stretch", column_config=_whole(table))
    st.caption(result.made)


def _numbers(stores: pl.DataFrame, days: pl.DataFrame) -> None:
    total, chain, length = st.columns(3)
    sum_of_all = f"{stores['Total forecast'].sum():,.0f}"
    total.metric("Total forecast", sum_of_all, border=True, height="stretch")
    chain.metric("Stores", f"{stores.height:,}", border=True, height="stretch")
    first, last = days["day"].min(), days["day"].max()
    assert isinstance(first, date) and isinstance(last, date)
    length.metric(
        "Days", f"{days.height:,}", f"{dates.short_date(first)} to {dates.short_date(last)}", border=True,
        delta_color="off", delta_arrow="off",
    )  # fmt: skip


def _whole(table: pl.DataFrame) -> dict[str, ColumnConfig]:
    """Numbers are shown whole; the files keep them as they were answered."""
    names = [name for name, kind in table.schema.items() if kind.is_float()]
    return {name: st.column_config.NumberColumn(format="localized", step=1) for name in names}


def _files(name: str, result: Result) -> None:
    stem = f"{PurePath(name).name.split('.')[0]}-forecast"
    left, right, _ = st.columns([1, 1, 2])
    left.download_button(
        "Download CSV",
        result.csv,
        f"{stem}.csv",
        "text/csv",
        icon=":material/download:",
        on_click="ignore",
        width="stretch",
        type="primary",
    )
    if result.excel is None:
        right.caption(f"An Excel file is made for up to {MOST_SHEET_ROWS:,} rows.")
        return
    right.download_button(
        "Download Excel",
        result.excel,
        f"{stem}.xlsx",
        "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
        icon=":material/table_view:",
        on_click="ignore",
        width="stretch",
    )


def made_by(job: BatchRun) -> str:
    """Which model made the forecasts, and what it knew."""
    known = dates.short_date(date.fromisoformat(job.as_of)) if job.as_of else "an unknown day"
    return f"Model version {job.version}, knowing sales up to {known}. {_made_for(job)}"


def _made_for(job: BatchRun) -> str:
    return f"Made for: {objectives.WORDS[job.objective].lower()}."
