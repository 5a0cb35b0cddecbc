"""Result of a batch: metrics, warnings, tables by row, store and day, and download files."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import PurePath
from typing import Final

import polars as pl
import streamlit as st
from streamlit.elements.lib.column_types import ColumnConfig

from rossmann.dashboard.batch.job import BatchRun
from rossmann.dashboard.batch.tables import by_day, by_store, result_table, to_csv, to_excel
from rossmann.dashboard.shared.charts import totals_chart
from rossmann.dashboard.shared.inputs import OBJECTIVE_LABELS, short_date
from rossmann.data.prepare_predictions import Upload

MAX_EXCEL_ROWS: Final = 200_000
"""Largest workbook that is written (in 15 s); the format allows 1,048,576 rows."""


@dataclass(frozen=True)
class BatchResult:
    """Tables of a finished batch, and its files as bytes.

    The files are kept in the session rather than written on a click: Streamlit deletes a file
    that it wrote on a click after two redraws of any session, and the pages of thirty users
    redraw their sidebars ten times a second, before a slow connection has fetched it.
    """

    table: pl.DataFrame
    stores: pl.DataFrame
    days: pl.DataFrame
    description: str
    csv: bytes
    excel: bytes | None

    @classmethod
    def from_run(cls, upload: Upload, run: BatchRun) -> "BatchResult":
        """Tables and files of a finished run."""
        table, stores = result_table(upload, run), by_store(run)
        description = describe_run(run)
        small = table.height <= MAX_EXCEL_ROWS
        excel = to_excel(table, stores, description) if small else None
        return cls(table, stores, by_day(run), description, to_csv(table), excel)


def show_result(name: str, result: BatchResult, warnings: Mapping[str, int]) -> None:
    """Draw metrics, warnings, three views, and the downloads."""
    st.subheader("4 · Take the forecasts")
    _show_metrics(result.stores, result.days)
    for text, count in warnings.items():
        st.warning(f"{count:,} rows: {text}.", icon=":material/info:")
    _show_downloads(name, result)
    day_tab, store_tab, row_tab = st.tabs(["By day", "By store", "All rows, as uploaded"])
    with day_tab:
        st.altair_chart(totals_chart(result.days), width="stretch")
    for tab, table in ((store_tab, result.stores), (row_tab, result.table)):
        with tab:
            st.dataframe(
                table, hide_index=True, width="stretch", column_config=_integer_columns(table)
            )
    st.caption(result.description)


def _show_metrics(stores: pl.DataFrame, days: pl.DataFrame) -> None:
    total_column, store_column, day_column = st.columns(3)
    total = f"{stores['Total forecast'].sum():,.0f}"
    total_column.metric("Total forecast", total, border=True, height="stretch")
    store_column.metric("Stores", f"{stores.height:,}", border=True, height="stretch")
    first, last = days["day"].min(), days["day"].max()
    assert isinstance(first, date) and isinstance(last, date)
    day_column.metric(
        "Days", f"{days.height:,}", f"{short_date(first)} to {short_date(last)}", border=True,
        delta_color="off", delta_arrow="off",
    )  # fmt: skip


def _integer_columns(table: pl.DataFrame) -> dict[str, ColumnConfig]:
    """Numbers are shown without decimals; the files hold them unrounded."""
    names = [name for name, dtype in table.schema.items() if dtype.is_float()]
    return {name: st.column_config.NumberColumn(format="localized", step=1) for name in names}


def _show_downloads(name: str, result: BatchResult) -> None:
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
        right.caption(f"An Excel file is made for up to {MAX_EXCEL_ROWS:,} rows.")
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


def describe_run(run: BatchRun) -> str:
    """Model version, origin and objective of the forecasts."""
    origin = short_date(date.fromisoformat(run.as_of)) if run.as_of else "an unknown day"
    objective = OBJECTIVE_LABELS[run.objective].lower()
    return f"Model version {run.version}, knowing sales up to {origin}. Made for: {objective}."
