"""Page "Batch": template, upload, row errors, forecasts, and their files."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import polars as pl
import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from rossmann.dashboard.batch.job import BatchRun
from rossmann.dashboard.batch.result import BatchResult, show_result
from rossmann.dashboard.batch.tables import errors_table
from rossmann.dashboard.shared.error_boundary import error_boundary
from rossmann.dashboard.shared.formats import number_format
from rossmann.dashboard.shared.markdown import escape_markdown, markdown_list
from rossmann.dashboard.shared.page_elements import (
    OBJECTIVE_LABELS,
    REJECTED_FILE_KEY,
    announce,
    announcement_region,
    objective_select,
    selected_objective,
)
from rossmann.dashboard.shared.service_state import client, info
from rossmann.data.prepare_predictions import Upload, read_upload, sort_by_row, template_csv
from rossmann.data.uploads.sandboxed_reader import ReadLimits, SandboxedReader
from rossmann.data.uploads.value_formats import (
    DECIMAL_MARKS,
    AmbiguousDatesError,
    AmbiguousNumbersError,
)
from rossmann.data.uploads.workbook import SeveralSheetsError
from rossmann.errors import ErrorDetail, RequestError
from rossmann.schema import Objective
from rossmann.settings import load_settings

MAX_SHOWN_ERRORS = 1_000
FILE_TYPES = ["csv", "txt", "gz", "zip", "parquet", "xlsx", "xls", "ods"]
_OBJECTIVE_KEY = "batch-objective"
_COLUMN_HELP = """
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

_CAPTIONS: Final = {
    "MM/DD/YYYY": "month first: 08/01/2015 is 1 August",
    "MM/DD/YY": "month first: 08/01/15 is 1 August",
    "DD/MM/YYYY": "day first: 08/01/2015 is 8 January",
    "DD/MM/YY": "day first: 08/01/15 is 8 January",
    ".": "a point: 1,000.5 is one thousand and a half",
    ",": "a comma: 1.000,5 is one thousand and a half",
}


@dataclass
class Batch:
    """The run of an upload (``key``: its digest and how it is read), and its result."""

    name: str
    key: str
    run: BatchRun
    running: bool = False
    result: BatchResult | None = None


def show_batch() -> None:
    """Draw the page."""
    st.title("Many stores and days")
    region = announcement_region()
    _show_template()
    batch = _upload_input()
    if batch is None:
        announce(region, "")
        st.caption("What the template looks like:")
        st.dataframe(pl.read_csv(template_csv().encode()), hide_index=True, width="stretch")
        return
    with error_boundary():
        batch.run.check(client())
    _show_errors(batch)
    _show_repeated_days(batch.run)
    if batch.run.usable.any():
        _show_forecast_step(batch)
    if batch.run.finished and batch.run.version is not None and batch.result is None:
        batch.result = BatchResult.from_run(batch.run, info().data.panel)
    if batch.result is None:
        announce(region, "")
    else:
        show_result(batch.name, batch.result, region)


def _show_template() -> None:
    st.subheader("1 · Fill in the template")
    text, button = st.columns([3, 1], vertical_alignment="center")
    text.write("One line for each store and day. Excel and LibreOffice open it.")
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
        st.markdown(_COLUMN_HELP)


def _upload_input() -> Batch | None:
    """The batch of the uploaded file, else the last one of the session."""
    st.subheader("2 · Upload it")
    file = st.file_uploader(
        "A table with the six columns",
        type=FILE_TYPES,
        key="file",
        on_change=_clear_batch,
        label_visibility="collapsed",
    )
    _show_rejected_file()
    batch: Batch | None = st.session_state.get("batch")
    if file is None:
        return batch
    content = file.getvalue()
    digest = hashlib.sha256(content).hexdigest()
    options = _reading_options(digest)
    if options is None:
        batch = None
    else:
        key = f"{digest}-{options}"
        if batch is None or batch.key != key:
            batch = _read(file.name, content, digest, options)
    st.session_state["batch"] = batch
    return batch


def _show_rejected_file() -> None:
    """Why the browser does not take a file; the page's style shows it only then."""
    limit = int(st.get_option("server.maxUploadSize"))
    with st.container(key=REJECTED_FILE_KEY, border=True):
        st.markdown(
            f":red[:material/upload_file: **The file marked in red is not taken.**] This page "
            f"reads tables of up to {limit:d} MB, as CSV, Excel, ODS or Parquet. For a larger one, "
            "divide it, or ask those who run the service: `rossmann predict` and "
            "`POST /predict/file` take more."
        )


def _clear_batch() -> None:
    st.session_state["batch"] = None


def _read(name: str, content: bytes, digest: str, options: dict[str, Any]) -> Batch | None:
    """Read an upload; None where it is unusable. Draws the page again to ask a question."""
    upload = None
    with error_boundary():
        upload = _read_or_ask(name, content, digest, options)
        if upload is None:
            st.rerun()
    if upload is None:
        return None
    return Batch(name, f"{digest}-{options}", _new_run(upload))


@dataclass(frozen=True)
class _Question:
    """A choice that reading a file needs; ``option``: the parameter of ``read_upload``."""

    option: str
    text: str
    choices: Sequence[str]


def _reading_options(digest: str) -> dict[str, Any] | None:
    """Draw the questions that came up for a file; its options, or None where one is unanswered."""
    options: dict[str, Any] = {}
    for question in _questions(digest):
        answer = st.radio(
            escape_markdown(question.text),
            question.choices,
            format_func=escape_markdown,
            index=None,
            key=f"{question.option}-{digest}",
            captions=[_CAPTIONS.get(choice, "") for choice in question.choices],
        )
        if answer is None:
            return None
        options[question.option] = answer
    return options


def _read_or_ask(name: str, content: bytes, digest: str, options: dict[str, Any]) -> Upload | None:
    """The upload; None where it needs an answer more, which the next redraw asks for.

    Raises ``DataValidationError`` for an unusable file.
    """
    try:
        return read_upload(name, content, **options, reader=_file_reader())
    except AmbiguousDatesError as error:
        text = "The dates in this file can be read in more than one way. How are they written?"
        question = _Question("date_format", text, error.formats)
    except AmbiguousNumbersError as error:
        text = f"In this file, {error}. Which one?"
        question = _Question("decimal", text, DECIMAL_MARKS)
    except SeveralSheetsError as error:
        text = "Several sheets of this workbook hold a table. Which one is it?"
        question = _Question("sheet", text, error.sheets)
    _questions(digest).append(question)
    return None


@st.cache_resource(show_spinner=False)
def _file_reader() -> SandboxedReader:
    settings = load_settings()
    limits = ReadLimits(settings.max_file_memory_mb << 20, settings.max_file_seconds)
    return SandboxedReader(limits, keep=1)


def _questions(digest: str) -> list[_Question]:
    questions: list[_Question] = st.session_state.setdefault(f"questions-{digest}", [])
    return questions


def _show_errors(batch: Batch) -> None:
    upload = batch.run.upload
    whole = number_format().whole
    errors = sort_by_row([*upload.errors, *batch.run.errors])
    valid = int(batch.run.usable.sum())
    invalid = upload.frame.height - valid
    st.write(
        f"**{escape_markdown(batch.name)}**: {whole(upload.frame.height)} rows, "
        f"{whole(valid)} can be forecast."
    )
    if upload.notes:
        st.info(markdown_list(upload.notes), icon=":material/info:")
    if not errors:
        return
    st.warning(
        f"{whole(invalid)} {'row has' if invalid == 1 else 'rows have'} faults and will stay "
        "without a forecast; the others are not affected. Correct the file and upload it again, "
        "or go on without them: the column error of the download says what is wrong.",
        icon=":material/rule:",
    )
    _show_errors_table(upload, errors)


def _show_repeated_days(run: BatchRun) -> None:
    """Rows that totals would count twice; they keep their forecasts."""
    repeated = run.upload.repeated_days(run.usable)
    if not repeated:
        return
    count = len(repeated)
    st.warning(
        f"{number_format().whole(count)} {'row repeats' if count == 1 else 'rows repeat'} the "
        "store and day of another row, so there will be no totals, by store or by day: they "
        "would count these days twice. Leave one row of each store and day in the file and upload "
        "it again, or go on with the forecasts of the rows alone.",
        icon=":material/content_copy:",
    )
    _show_errors_table(run.upload, repeated)


def _show_errors_table(upload: Upload, errors: list[ErrorDetail]) -> None:
    table = errors_table(errors, upload.source.table.position)
    st.dataframe(
        table.head(MAX_SHOWN_ERRORS),
        hide_index=True,
        width="stretch",
        column_config={
            "Where": st.column_config.TextColumn(width=80),
            "Column": st.column_config.TextColumn(width=110),
            "What is wrong": st.column_config.TextColumn(width=620),
        },
    )
    if table.height > MAX_SHOWN_ERRORS:
        shown, total = (number_format().whole(n) for n in (MAX_SHOWN_ERRORS, table.height))
        st.caption(f"The first {shown} of {total}.")


def _show_forecast_step(batch: Batch) -> None:
    st.subheader("3 · Forecast")
    left, right = st.columns([1, 1], vertical_alignment="bottom")
    with left:
        objective = objective_select(_OBJECTIVE_KEY)
    placeholder = right.empty()
    if batch.running:
        _run_batch(batch, placeholder)
    button = partial(
        placeholder.button, type="primary", icon=":material/play_arrow:", on_click=_start,
        args=(batch, objective), width="stretch",
    )  # fmt: skip
    whole = number_format().whole
    total = whole(int(batch.run.usable.sum()))
    if objective != batch.run.objective:
        button(f"Forecast {total} rows again" if batch.run.done else f"Forecast {total} rows")
    elif not batch.run.finished:
        done = whole(batch.run.done)
        button(
            f"Go on ({done} of {total} are done)" if batch.run.done else f"Forecast {total} rows"
        )
    if batch.result is not None and batch.result.objective != objective:
        st.info(
            f"The result below is made for: {OBJECTIVE_LABELS[batch.result.objective].lower()}. "
            "It stays until there is a new one.",
            icon=":material/info:",
        )


def _new_run(upload: Upload) -> BatchRun:
    return BatchRun.from_upload(upload, selected_objective(_OBJECTIVE_KEY))


def _start(batch: Batch, objective: Objective) -> None:
    """All rows of a batch have one objective: another choice forecasts all of them again."""
    if objective != batch.run.objective:
        batch.run = BatchRun.from_upload(batch.run.upload, objective)
    batch.running = True


def _run_batch(batch: Batch, placeholder: DeltaGenerator) -> None:
    """Forecast the batch under a progress bar; finished chunks are kept in an outage.

    A batch that an outage stopped goes on by itself when the page is drawn again.
    """
    total = len(batch.run.file_rows)
    whole = number_format().whole
    with error_boundary():
        try:
            bar = placeholder.progress(0.0, "Asking the service …")
            for done in batch.run.run(client()):
                bar.progress(done / total, f"{whole(done)} of {whole(total)} rows")
        except RequestError:
            batch.running = False
            raise
        batch.running, batch.result = False, None
        st.rerun()
