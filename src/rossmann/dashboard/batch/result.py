"""Result of a batch: metrics, warnings, tables by row, store and day, and download files."""

from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import date
from pathlib import PurePath
from typing import Final

import polars as pl
import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from rossmann.dashboard.batch.job import FORECAST, HIGH, LOW, WARNINGS, BatchRun
from rossmann.dashboard.batch.tables import FAULT, TOTAL, by_day, by_store, result_file, shown_table
from rossmann.dashboard.shared.charts import totals_chart
from rossmann.dashboard.shared.formats import number_format, short_date, show_table
from rossmann.dashboard.shared.markdown import escape_markdown
from rossmann.dashboard.shared.page_elements import LIVE_KEY, OBJECTIVE_LABELS, announce
from rossmann.dashboard.shared.service_state import in_background
from rossmann.data.uploads.result_files import MEDIA_TYPES, ResultFormat, about_forecasts
from rossmann.schema import Objective, Stage
from rossmann.serving.schemas.models import DataInfo

MAX_EXCEL_ROWS: Final = 200_000
"""Largest workbook that is written (in some 40 s); the format allows 1,048,576 rows."""
_LOOK_SECONDS: Final = 0.5
"""Interval of looking whether the files are written."""


@dataclass(frozen=True)
class BatchResult:
    """Tables of a finished batch, and its files, which are written in the background.

    ``stores``, ``days``: totals, None where rows repeat a store's day.

    The files are kept in the session rather than written on a click: Streamlit deletes a file
    that it wrote on a click after two redraws of any session, and the pages of thirty users
    redraw their sidebars ten times a second, before a slow connection has fetched it.
    """

    table: pl.DataFrame
    stores: pl.DataFrame | None
    days: pl.DataFrame | None
    objective: Objective
    description: str
    warnings: Mapping[str, int]
    csv: Future[bytes]
    csv_type: str
    excel: Future[bytes] | None

    @classmethod
    def from_run(cls, run: BatchRun, data: DataInfo) -> "BatchResult":
        """Tables of a finished run over ``data``; starts to write its files."""
        adds_up = not run.upload.repeated_days(run.usable)
        stores, days = (by_store(run), by_day(run)) if adds_up else (None, None)
        about = about_forecasts(
            data, run.version or 0, Stage.PRODUCTION, run.as_of or "", run.objective
        )
        sheets = () if stores is None else (("By store", stores),)
        csv = ResultFormat("csv", run.upload.source.table.dialect)
        excel = ResultFormat("xlsx", about=about, sheets=sheets)
        small = run.upload.frame.height <= MAX_EXCEL_ROWS
        return cls(
            shown_table(run), stores, days, run.objective, describe_run(run), dict(run.warnings),
            in_background(result_file, run, csv), csv.media_type,
            in_background(result_file, run, excel) if small else None,
        )  # fmt: skip

    @property
    def files_written(self) -> bool:
        """Whether every file can be downloaded."""
        return self.csv.done() and (self.excel is None or self.excel.done())


def show_result(name: str, result: BatchResult, region: DeltaGenerator) -> None:
    """Draw metrics, warnings, three views, and the downloads; ``region`` announces them."""
    st.subheader("4 · Take the forecasts")
    formats = number_format()
    if result.stores is not None and result.days is not None:
        _show_metrics(result.stores, result.days)
    for text, count in result.warnings.items():
        rows = formats.whole(count)
        st.warning(
            f"{rows} {'row' if count == 1 else 'rows'}: {escape_markdown(text)}.",
            icon=":material/info:",
        )
    # A fragment has a fixed interval: one that looks for the files, and one that does not.
    show = _show_downloads if result.files_written else _wait_for_downloads
    show(name, result)
    if result.stores is None or result.days is None:
        _show_rows(result.table)
        announce(region, f"{name}: {formats.whole(result.table.height)} rows, without totals.")
    else:
        day_tab, store_tab, row_tab = st.tabs(["By day", "By store", "All rows, as uploaded"])
        with day_tab:
            st.altair_chart(totals_chart(result.days), width="stretch")
        with store_tab:
            columns = (TOTAL, "Per open day")
            show_table(result.stores, columns, {column: formats.unit(column) for column in columns})
        with row_tab:
            _show_rows(result.table)
        total = formats.money(int(result.stores[TOTAL].sum()))
        announce(region, f"{name}: total forecast {total}.")
    st.caption(
        "Shown in whole numbers, rounded row by row; totals are sums of the rounded rows. The "
        "files hold the forecasts unrounded."
    )
    st.caption(escape_markdown(result.description))


def _show_rows(table: pl.DataFrame) -> None:
    unit = number_format().unit
    labels = {FORECAST: unit("Forecast"), LOW: unit("80 % from"), HIGH: unit("80 % to")}
    labels |= {WARNINGS: "Warnings", FAULT: "What is wrong"}
    show_table(table, (FORECAST, LOW, HIGH), labels)


def _show_metrics(stores: pl.DataFrame, days: pl.DataFrame) -> None:
    formats = number_format()
    total_column, store_column, day_column = st.columns(3)
    total = formats.money(int(stores[TOTAL].sum()))
    total_column.metric("Total forecast", escape_markdown(total), border=True, height="stretch")
    store_column.metric("Stores", formats.whole(stores.height), border=True, height="stretch")
    first, last = days["Day"].min(), days["Day"].max()
    assert isinstance(first, date) and isinstance(last, date)
    day_column.metric(
        "Days", formats.whole(days.height), f"{short_date(first)} to {short_date(last)}",
        border=True, delta_color="off", delta_arrow="off",
    )  # fmt: skip


@st.fragment(run_every=_LOOK_SECONDS)
def _wait_for_downloads(name: str, result: BatchResult) -> None:
    """The downloads while the files are being written; draws the page again when they are."""
    _show_downloads(name, result)
    if result.files_written:
        st.rerun()


def _show_downloads(name: str, result: BatchResult) -> None:
    stem = f"{PurePath(name).name.split('.')[0]}-forecast"
    with st.container(key=f"{LIVE_KEY}downloads"):
        left, right, _ = st.columns([1, 1, 2])
    _show_download(left, "CSV", result.csv, f"{stem}.csv", result.csv_type)
    if result.excel is None:
        rows = number_format().whole(MAX_EXCEL_ROWS)
        right.caption(f"An Excel file is made for up to {rows} rows.")
        return
    _show_download(right, "Excel", result.excel, f"{stem}.xlsx", MEDIA_TYPES["xlsx"])


def _show_download(
    column: DeltaGenerator, kind: str, file: Future[bytes], name: str, mime: str
) -> None:
    """The button of a file, or a disabled one while the file is being written."""
    if not file.done():
        column.button(
            f"Writing {escape_markdown(kind)} …",
            icon=":material/hourglass_top:",
            disabled=True,
            width="stretch",
        )
        return
    column.download_button(
        f"Download {escape_markdown(kind)}",
        file.result(),
        name,
        mime,
        icon=":material/download:" if kind == "CSV" else ":material/table_view:",
        on_click="ignore",
        width="stretch",
        type="primary" if kind == "CSV" else "secondary",
    )


def describe_run(run: BatchRun) -> str:
    """Model version, origin and objective of the forecasts."""
    origin = short_date(date.fromisoformat(run.as_of)) if run.as_of else "an unknown day"
    objective = OBJECTIVE_LABELS[run.objective].lower()
    return f"Model version {run.version}, knowing sales up to {origin}. Made for: {objective}."
