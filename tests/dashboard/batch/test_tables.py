"""Files of a batch are those of ``POST /predict/file``: bytes of CSV, sheets of Excel."""

import csv
import io
import re
import zipfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import timedelta
from typing import Any

import httpx
import polars as pl
import pytest
from fastapi import FastAPI
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis
from hypothesis import strategies as st

from rossmann.dashboard.batch import job
from rossmann.dashboard.batch.job import BatchRun
from rossmann.dashboard.batch.tables import by_store, result_file
from rossmann.data.panel.panel import Panel
from rossmann.data.prepare_predictions import read_upload
from rossmann.data.uploads.result_files import ResultFormat, about_forecasts
from rossmann.serving.client.client import Client

make_forecaster = pytest.fixture(lambda make_trained: make_trained)
FIELDS = ["Store", "Date", "Open", "Promo", "StateHoliday", "SchoolHoliday"]
PROPERTY = hypothesis(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture
def service(
    make_app: Callable[..., FastAPI], live: Callable[[FastAPI], AbstractContextManager[str]]
) -> Iterator[str]:
    with live(make_app()) as url:
        yield url


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job, "CHUNK_ROWS", 13)


@pytest.fixture
def plan(panel: Panel) -> list[list[Any]]:
    """30 rows of a plan: Sundays and holidays, an empty Open, days with and without sales."""
    first = panel.info.last_day - timedelta(days=3)
    days = [first + timedelta(days=3 * n) for n in range(10)]
    stores = panel.store_numbers[:3].tolist()
    rows = [
        [store, day, int(day.isoweekday() != 7), int(day.isocalendar().week % 2), "0", 1]
        for day in days
        for store in stores
    ]
    rows[4][2] = ""
    rows[5][4] = "a"
    return rows


def answered(url: str, content: bytes, file_format: str) -> bytes:
    """The answer of ``POST /predict/file``."""
    options = f"intervals=0.8&objective=accuracy&format={file_format}"
    response = httpx.post(f"{url}/predict/file?{options}", content=content, trust_env=False)
    assert response.status_code == 200, response.text
    return response.content


def forecast(url: str, content: bytes) -> BatchRun:
    """The run of an upload on the dashboard."""
    run = BatchRun.from_upload(read_upload("plan", content))
    with Client(url) as client:
        assert list(run.run(client))
    assert not run.upload.errors and not run.errors
    return run


def sheets(content: bytes) -> dict[str, bytes]:
    """The XML of each sheet of a workbook, by its name."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        names = re.findall(r'<sheet name="([^"]+)"', archive.read("xl/workbook.xml").decode())
        return {
            name: archive.read(f"xl/worksheets/sheet{number}.xml")
            for number, name in enumerate(names, 1)
        }


texts = st.text(st.sampled_from("ab0ä=1\"'\\,;\t.\n"), max_size=5)


@PROPERTY
@given(
    separator=st.sampled_from([",", ";", "\t", "|"]),
    line_end=st.sampled_from(["\n", "\r\n", "\r"]),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "cp1252"]),
    decimal=st.sampled_from([".", ",", ""]),
    dates=st.sampled_from(["%Y-%m-%d", "%d.%m.%Y"]),
    own=st.lists(texts, min_size=30, max_size=30),
    name=st.sampled_from(["Note", "forecast", "", "warnings", "Größe"]),
)
def test_csv_has_the_bytes_of_predict_file(
    service: str,
    plan: list[list[Any]],
    separator: str,
    line_end: str,
    encoding: str,
    decimal: str,
    dates: str,
    own: list[str],
    name: str,
) -> None:
    out = io.StringIO()
    writer = csv.writer(out, delimiter=separator, lineterminator="\n")
    writer.writerow([*FIELDS, name, "DayOfWeek"])
    for row, text in zip(plan, own, strict=True):
        own_text = text.replace("\n", "") if line_end == "\r" else text
        promo = f"{row[3]}{decimal}{decimal and 0}"  # what says how the file writes numbers
        writer.writerow([row[0], row[1].strftime(dates), row[2], promo, *row[4:], own_text, 1])
    content = out.getvalue().replace("\n", line_end).encode(encoding)
    run = forecast(service, content)
    assert result_file(run, ResultFormat("csv")) == answered(service, content, "csv")


@pytest.mark.parametrize("file_format", ["csv", "xlsx", "parquet"])
def test_excel_has_the_sheets_of_predict_file(
    service: str, plan: list[list[Any]], panel: Panel, file_format: str
) -> None:
    text = pl.DataFrame([list(map(str, row)) for row in plan], schema=FIELDS, orient="row")
    frame = text.with_columns(Note=pl.lit("=1+1"), Link=pl.lit("http://localhost"), Id=pl.lit("01"))
    buffer = io.BytesIO()
    if file_format == "csv":
        frame.write_csv(buffer)
    else:
        dated = frame.with_columns(pl.col("Date").str.to_date())
        dated.write_parquet(buffer) if file_format == "parquet" else dated.write_excel(buffer)
    content = buffer.getvalue()
    run = forecast(service, content)
    about = about_forecasts(panel.info, 1, "Production", run.as_of or "", run.objective)
    form = ResultFormat("xlsx", about=about, sheets=(("By store", by_store(run)),))
    workbook = result_file(run, form)
    ours, theirs = sheets(workbook), sheets(answered(service, content, "xlsx"))
    assert list(ours) == ["Forecasts", "By store", "About"]
    assert ours["Forecasts"] == theirs["Forecasts"] and ours["About"] == theirs["About"]
    assert b"demo data (synthetic)" in ours["About"]
    assert b"<f>" not in ours["Forecasts"] and b"hyperlink" not in ours["Forecasts"]
    assert b'<pane ySplit="1"' in ours["Forecasts"] and b'<pane ySplit="1"' in ours["By store"]
    stores = pl.read_excel(workbook, sheet_name="By store")
    assert stores["Total forecast"].to_list() == by_store(run)["Total forecast"].to_list()
    assert pl.read_excel(workbook, sheet_name="Forecasts").schema["Date"] == pl.Date


def test_faulty_rows_are_all_that_differs(service: str, plan: list[list[Any]]) -> None:
    lines = [FIELDS, *plan]
    good = "".join(",".join(map(str, line)) + "\n" for line in lines)
    content = (good + "x,2015-08-01,1,0,0,0\n4711,2015-08-01,1,0,0,0\n").encode()
    run = BatchRun.from_upload(read_upload("plan", content))
    with Client(service) as client:
        assert list(run.run(client))
    ours = result_file(run, ResultFormat("csv")).decode().splitlines()
    theirs = answered(service, good.encode(), "csv").decode().splitlines()
    assert ours[0] == f"{theirs[0]},error"
    assert ours[1:-2] == [f"{line}," for line in theirs[1:]]
    assert ours[-2].startswith("x,2015-08-01,1,0,0,0,,,,,,,Store must be a whole number")
    assert ours[-1].startswith("4711,2015-08-01,1,0,0,0,,,,,,,Store must be")


def test_form_of_a_file_has_the_dialect_of_the_upload(service: str, plan: list[list[Any]]) -> None:
    lines = [";".join(map(str, line)) for line in (FIELDS, *plan)]
    run = forecast(service, "\r\n".join(lines).encode("utf-8-sig"))
    dialect = run.upload.source.table.dialect
    assert dialect is not None
    form = replace(ResultFormat("csv"), dialect=dialect)
    assert form.media_type == "text/csv; charset=utf-8"
    assert result_file(run, form).startswith(b"\xef\xbb\xbfStore;Date")
