"""A batch in chunks gives what one request would give, and an outage costs no work."""

from datetime import date, timedelta
from typing import Any

import numpy as np
import polars as pl
import pytest

from rossmann.dashboard.batch import job as batch_job
from rossmann.dashboard.batch import tables as batch_tables
from rossmann.dashboard.batch.job import BatchRun
from rossmann.data.prepare_predictions import Upload
from rossmann.errors import ErrorDetail, ServiceError
from rossmann.schema import StoreDays
from rossmann.serving.client.client import Client

START = date(2015, 8, 1)


def upload_of(stores: list[int], days: list[date], bad_lines: tuple[int, ...] = ()) -> Upload:
    """An upload whose file also holds unusable rows at ``bad_lines``."""
    height = len(stores) + len(bad_lines)
    index = np.array([line for line in range(height) if line not in bad_lines])
    numbers = np.array([(day - date(1970, 1, 1)).days for day in days], dtype=np.int32)
    opened = np.array([day.isoweekday() != 7 for day in days], dtype=np.uint8)
    plain = np.zeros(len(stores), dtype=np.uint8)
    rows = StoreDays(np.array(stores, dtype=np.int32), numbers, opened, plain, plain, plain)
    text = ["?"] * height
    for line, store in zip(index, stores, strict=True):
        text[line] = str(store)
    frame = pl.DataFrame({"Id": [str(i) for i in range(height)], "Store": text})
    faults = [
        ErrorDetail((line + 1, "Store"), "Store is no number", "number") for line in bad_lines
    ]
    return Upload(rows=rows, index=index, frame=frame, faults=faults, notes=[])


def many(count: int) -> Upload:
    days = [START + timedelta(days=(7 * i) % 40) for i in range(count)]
    return upload_of([1 + i % 3 for i in range(count)], days)


def run(job: BatchRun, stub_service: Any) -> list[int]:
    return list(job.run(Client(stub_service.url)))


def expected(upload: Upload) -> np.ndarray:
    weekday = (upload.rows.day + 3) % 7 + 1
    return upload.rows.open * (1000.0 * upload.rows.store + 10.0 * weekday)


def test_every_row_gets_its_own_answer_in_the_order_of_the_file(
    stub_service: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_job, "CHUNK", 7)
    upload = many(45)
    job = BatchRun.of(upload)
    assert run(job, stub_service)[-1] == 45
    assert job.sales.tolist() == expected(upload).tolist()
    assert (job.low <= job.sales).all() and (job.sales <= job.high).all()


def test_all_chunks_have_the_origin_of_the_whole_file(
    stub_service: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_job, "CHUNK", 10)
    days = [date(2015, 8, 5)] * 30 + [date(2015, 7, 10)]
    job = BatchRun.of(upload_of([1] * 31, days))
    run(job, stub_service)
    # The last row's day lies in the past and sets the origin of all.
    assert job.as_of == "2015-07-09"
    chunks = stub_service.asked[1:]
    assert len(chunks) == 4
    assert {chunk["as_of"] for chunk in chunks} == {"2015-07-09"}
    assert {chunk["model_stage"] for chunk in chunks} == {3}


def test_rows_of_unknown_stores_are_faults_and_the_others_are_answered(stub_service: Any) -> None:
    upload = upload_of([1, 99, 2, 99, 77], [START] * 5)
    job = BatchRun.of(upload)
    run(job, stub_service)
    assert [fault.loc for fault in job.faults] == [(2, "Store"), (4, "Store"), (5, "Store")]
    assert np.isnan(job.sales).tolist() == [False, True, False, True, True]


def test_a_day_without_an_answer_does_not_set_the_origin(stub_service: Any) -> None:
    days = [START, date(2000, 1, 1), START, date(2000, 1, 1), date(2040, 1, 1)]
    job = BatchRun.of(upload_of([1, 1, 2, 2, 3], days))
    run(job, stub_service)
    assert job.as_of == "2015-07-31"
    assert [fault.loc for fault in job.faults] == [(2, "Date"), (4, "Date"), (5, "Date")]
    assert job.finished and len(stub_service.asked) <= 4


def test_a_file_without_one_good_row_ends_with_faults_only(stub_service: Any) -> None:
    job = BatchRun.of(upload_of([99, 98], [START] * 2))
    run(job, stub_service)
    assert job.finished and len(job.faults) == 2 and job.version is None


def test_an_outage_keeps_what_is_done_and_the_job_goes_on(
    stub_service: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_job, "CHUNK", 10)
    upload = many(35)
    job = BatchRun.of(upload)
    stub_service.answers_left = 3
    with pytest.raises(ServiceError):
        run(job, stub_service)
    assert job.done == 20
    stub_service.answers_left = None
    asked = len(stub_service.asked)
    run(job, stub_service)
    assert len(stub_service.asked) - asked == 2
    assert job.sales.tolist() == expected(upload).tolist()


def test_warnings_are_summed_over_chunks(
    stub_service: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_job, "CHUNK", 4)
    job = BatchRun.of(upload_of([3] * 6 + [1] * 3, [START] * 9))
    run(job, stub_service)
    assert dict(job.warnings) == {"days without a schedule": 6}


def test_the_table_has_every_row_as_uploaded(stub_service: Any) -> None:
    upload = upload_of([1, 99, 2], [START, START, date(2015, 8, 2)], bad_lines=(1,))
    job = BatchRun.of(upload)
    run(job, stub_service)
    table = batch_tables.result_table(upload, job)
    assert table["Id"].to_list() == [0, 1, 2, 3]
    assert table["Store"].to_list() == ["1", "?", "99", "2"]
    assert table["Forecast"].to_list() == [1060.0, None, None, 0.0]
    notes = table["Note"].to_list()
    assert notes[0] == "" and "no number" in notes[1] and "unknown" in notes[2]
    assert notes[3] == "closed"


def test_sums_by_store_and_by_day_agree(stub_service: Any) -> None:
    upload = many(60)
    job = BatchRun.of(upload)
    run(job, stub_service)
    total = expected(upload).sum()
    stores, days = batch_tables.by_store(job), batch_tables.by_day(job)
    assert stores["Total forecast"].sum() == pytest.approx(total)
    assert days["total"].sum() == pytest.approx(total)
    assert stores["Days"].sum() == 60
    assert days["day"].is_sorted() and days["day"].min() >= START


def test_csv_and_excel_hold_the_same_unrounded_numbers(stub_service: Any) -> None:
    upload = many(20)
    job = BatchRun.of(upload)
    run(job, stub_service)
    job.sales += 1 / 3
    table = batch_tables.result_table(upload, job)
    csv = pl.read_csv(batch_tables.as_csv(table))
    book = batch_tables.as_excel(table, batch_tables.by_store(job), "made by a test")
    sheet = pl.read_excel(book, sheet_name="Forecasts")
    assert csv["Forecast"].to_list() == table["Forecast"].to_list()
    assert sheet["Forecast"].to_list() == pytest.approx(table["Forecast"].to_list(), abs=1e-9)
    assert pl.read_excel(book, sheet_name="By store").height == 3
