"""Many rows at once: template, upload, what is wrong with it, forecasts, and their files."""

import hashlib
from dataclasses import dataclass

import polars as pl
import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from rossmann.dashboard.batch import result as batch_result
from rossmann.dashboard.batch import tables as batch_tables
from rossmann.dashboard.batch.job import BatchRun
from rossmann.dashboard.shared import inputs as objectives
from rossmann.dashboard.shared import service_state as state
from rossmann.data.prepare_predictions import Upload, read_upload, template_csv
from rossmann.data.uploads.fields import AmbiguousDatesError

SHOWN_FAULTS = 1_000
_OBJECTIVE = "batch-objective"
_FIELDS = """
| column | what to write |
|---|---|
| Store | the store's number |
| Date | in one way for the whole file: 2015-08-01, 08/01/15, 08/01/2015 or 01.08.2015 |
| Open | 1 open, 0 closed; empty: open, but for Sundays and state holidays |
| Promo | 1 if the store runs a promotion that day, else 0 |
| StateHoliday | 0 none, a public holiday, b Easter, c Christmas |
| SchoolHoliday | 1 if schools are closed, else 0 |

Other columns (such as Id) are kept and come back with the forecasts.
"""


@dataclass
class Batch:
    """An upload that was read (``key``: its digest and date format), and how far it is."""

    name: str
    key: str
    upload: Upload
    job: BatchRun
    running: bool = False
    result: batch_result.Result | None = None


def show() -> None:
    """The page."""
    st.title("Many stores and days")
    _template()
    batch = _take_upload()
    if batch is None:
        st.caption("What the template looks like:")
        st.dataframe(pl.read_csv(template_csv().encode()), hide_index=True, width="stretch")
        return
    _check(batch)
    if len(batch.job.lines):
        _predict(batch)
    if batch.job.finished and batch.job.version is not None:
        if batch.result is None:
            with st.spinner("Writing the files …"):
                batch.result = batch_result.Result.of(batch.upload, batch.job)
        batch_result.show(batch.name, batch.result, batch.job.warnings)


def _template() -> None:
    st.subheader("1 · Fill in the template")
    words, button = st.columns([3, 1], vertical_alignment="center")
    words.write("One line for each store and day. Excel and LibreOffice open it.")
    button.download_button(
        "Template",
        template_csv(),
        "template.csv",
        "text/csv",
        icon=":material/download:",
        on_click="ignore",
        width="stretch",
    )
    with st.expander("What goes into which column"):
        st.markdown(_FIELDS)


def _take_upload() -> Batch | None:
    """The batch in hand: of the file that was just uploaded, else the last one of the session."""
    st.subheader("2 · Upload it")
    file = st.file_uploader(
        "A table with the six columns",
        type=["csv", "gz", "parquet", "xlsx"],
        key="file",
        on_change=_forget,
        label_visibility="collapsed",
    )
    kept: Batch | None = st.session_state.get("batch")
    if file is None:
        return kept
    content = file.getvalue()
    key = hashlib.sha256(content).hexdigest()
    doubt = f"formats-{key}"
    if doubt not in st.session_state and (kept is None or kept.key != key):
        kept = _open(file.name, content, key)
    if doubt in st.session_state:
        chosen = _ask_format(key, st.session_state[doubt])
        answered = f"{key}-{chosen}"
        if chosen is None:
            kept = None
        elif kept is None or kept.key != answered:
            kept = _open(file.name, content, answered, chosen)
    st.session_state["batch"] = kept
    return kept


def _forget() -> None:
    st.session_state["batch"] = None


def _open(name: str, content: bytes, key: str, date_format: str | None = None) -> Batch | None:
    """Read an upload; None where it is unusable, or where its dates have to be asked about."""
    with state.error_boundary():
        try:
            upload = read_upload(name, content, date_format)
        except AmbiguousDatesError as error:
            st.session_state[f"formats-{key}"] = error.formats
        else:
            return Batch(
                name, key, upload, BatchRun.of(upload, objectives.selected_objective(_OBJECTIVE))
            )
    return None


def _ask_format(key: str, formats: list[str]) -> str | None:
    return st.radio(
        "The dates in this file can be read in more than one way. How are they written?",
        formats,
        index=None,
        key=f"format-{key}",
        captions=[_FORMAT_WORDS.get(one, "") for one in formats],
    )


_FORMAT_WORDS = {
    "MM/DD/YYYY": "month first: 08/01/2015 is 1 August",
    "MM/DD/YY": "month first: 08/01/15 is 1 August",
    "DD/MM/YYYY": "day first: 08/01/2015 is 8 January",
    "DD/MM/YY": "day first: 08/01/15 is 8 January",
}


def _check(batch: Batch) -> None:
    upload = batch.upload
    faults = [*upload.faults, *batch.job.faults]
    good = int(batch.job.usable.sum())
    bad = upload.frame.height - good
    st.write(f"**{batch.name}**: {upload.frame.height:,} rows, {good:,} can be forecast.")
    for note in upload.notes:
        st.info(note, icon=":material/info:")
    if not faults:
        return
    st.warning(
        f"{bad:,} {'row has' if bad == 1 else 'rows have'} faults and will stay without a "
        "forecast; the others are not affected. Correct the file and upload it again, or go on "
        "without them.",
        icon=":material/rule:",
    )
    table = batch_tables.faults_table(faults)
    st.dataframe(
        table.head(SHOWN_FAULTS),
        hide_index=True,
        width="stretch",
        column_config={
            "Row": st.column_config.NumberColumn(width=80),
            "Column": st.column_config.TextColumn(width=140),
        },
    )
    if table.height > SHOWN_FAULTS:
        st.caption(f"The first {SHOWN_FAULTS:,} of {table.height:,}; all are in the download.")


def _predict(batch: Batch) -> None:
    job = batch.job
    st.subheader("3 · Forecast")
    left, right = st.columns([1, 1], vertical_alignment="bottom")
    with left:
        objectives.objective_select(_OBJECTIVE, _begin_again, (batch,))
    if job.finished:
        return
    place = right.empty()
    if batch.running:
        _run(batch, place)
    total = len(job.lines)
    go = f"Go on ({job.done:,} of {total:,} are done)" if job.done else f"Forecast {total:,} rows"
    place.button(
        go, type="primary", icon=":material/play_arrow:", on_click=_start, args=(batch,),
        width="stretch",
    )  # fmt: skip


def _begin_again(batch: Batch) -> None:
    """All rows of a batch are made for the same: another choice asks for them anew."""
    batch.job = BatchRun.of(batch.upload, objectives.selected_objective(_OBJECTIVE))
    batch.result = None


def _start(batch: Batch) -> None:
    batch.running = True


def _run(batch: Batch, place: DeltaGenerator) -> None:
    """Work the batch off under a progress bar; what is done stays done if the service goes away."""
    batch.running = False
    total = len(batch.job.lines)
    with state.error_boundary():
        bar = place.progress(0.0, "Asking the service …")
        for done in batch.job.run(state.client()):
            bar.progress(done / total, f"{done:,} of {total:,} rows")
        st.rerun()
