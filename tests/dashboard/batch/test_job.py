"""Batch runs: chunks, common origin, rejected rows, outages; tables and files of the result."""

from datetime import date, timedelta
from typing import Any

import numpy as np
import polars as pl
import pytest

from rossmann.dashboard.batch import job
from rossmann.dashboard.batch.job import BatchRun
from rossmann.dashboard.batch.tables import (
    by_day,
    by_store,
    result_table,
    shown_table,
    to_csv,
    to_excel,
)
from rossmann.data.prepare_predictions import Upload
from rossmann.errors import ErrorDetail, ServiceError
from rossmann.schema import StoreDays
from rossmann.serving.client.client import Client

START = date(2015, 8, 1)


def upload_of(stores: list[int], days: list[date], invalid_rows: tuple[int, ...] = ()) -> Upload:
    """An upload whose file also holds invalid rows at ``invalid_rows``."""
    height = len(stores) + len(invalid_rows)
    index = np.array([row for row in range(height) if row not in invalid_rows])
    numbers = np.array([(day - date(1970, 1, 1)).days for day in days], dtype=np.int32)
    open_ = np.array([day.isoweekday() != 7 for day in days], dtype=np.uint8)
    zeros = np.zeros(len(stores), dtype=np.uint8)
    rows = StoreDays(np.array(stores, dtype=np.int32), numbers, open_, zeros, zeros, zeros)
    text = ["?"] * height
    for row, store in zip(index, stores, strict=True):
        text[row] = str(store)
    frame = pl.DataFrame({"Id": [str(i) for i in range(height)], "Store": text})
    errors = [
        ErrorDetail((row + 1, "Store"), "Store is no number", "number") for row in invalid_rows
    ]
    no_rows = np.zeros(len(stores), np.bool_)
    return Upload(rows, index, frame, errors, [], weekday_mismatch=no_rows, open_missing=no_rows)


def make_upload(count: int) -> Upload:
    days = [START + timedelta(days=(7 * i) % 40) for i in range(count)]
    return upload_of([1 + i % 3 for i in range(count)], days)


def run_all(batch_run: BatchRun, stub_service: Any) -> list[int]:
    return list(batch_run.run(Client(stub_service.url)))


def expected(upload: Upload) -> np.ndarray:
    weekday = (upload.rows.day + 3) % 7 + 1
    return upload.rows.open * (1000.0 * upload.rows.store + 10.0 * weekday)


def test_forecasts_keep_the_order_of_the_file(
    stub_service: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job, "CHUNK_ROWS", 7)
    upload = make_upload(45)
    batch_run = BatchRun.from_upload(upload)
    assert run_all(batch_run, stub_service)[-1] == 45
    assert batch_run.sales.tolist() == expected(upload).tolist()
    assert (batch_run.low <= batch_run.sales).all() and (batch_run.sales <= batch_run.high).all()


def test_all_chunks_use_the_origin_of_the_file(
    stub_service: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job, "CHUNK_ROWS", 10)
    days = [date(2015, 8, 5)] * 30 + [date(2015, 7, 10)]
    batch_run = BatchRun.from_upload(upload_of([1] * 31, days))
    run_all(batch_run, stub_service)
    # The last row's day lies in the past and sets the origin of all.
    assert batch_run.as_of == "2015-07-09"
    chunks = stub_service.predict_bodies[1:]
    assert len(chunks) == 4
    assert {chunk["as_of"] for chunk in chunks} == {"2015-07-09"}
    assert {chunk["model_stage"] for chunk in chunks} == {3}


def test_unknown_stores_are_errors_and_the_others_are_forecast(stub_service: Any) -> None:
    upload = upload_of([1, 99, 2, 99, 77], [START] * 5)
    batch_run = BatchRun.from_upload(upload)
    run_all(batch_run, stub_service)
    assert [error.loc for error in batch_run.errors] == [(2, "Store"), (4, "Store"), (5, "Store")]
    assert np.isnan(batch_run.sales).tolist() == [False, True, False, True, True]


def test_rejected_day_does_not_set_the_origin(stub_service: Any) -> None:
    days = [START, date(2000, 1, 1), START, date(2000, 1, 1), date(2040, 1, 1)]
    batch_run = BatchRun.from_upload(upload_of([1, 1, 2, 2, 3], days))
    run_all(batch_run, stub_service)
    assert batch_run.as_of == "2015-07-31"
    assert [error.loc for error in batch_run.errors] == [(2, "Date"), (4, "Date"), (5, "Date")]
    assert batch_run.finished and len(stub_service.predict_bodies) <= 4


def test_file_without_valid_rows_has_only_errors(stub_service: Any) -> None:
    batch_run = BatchRun.from_upload(upload_of([99, 98], [START] * 2))
    run_all(batch_run, stub_service)
    assert batch_run.finished and len(batch_run.errors) == 2 and batch_run.version is None


def test_run_goes_on_after_an_outage(stub_service: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job, "CHUNK_ROWS", 10)
    upload = make_upload(35)
    batch_run = BatchRun.from_upload(upload)
    stub_service.responses_left = 3
    with pytest.raises(ServiceError):
        run_all(batch_run, stub_service)
    assert batch_run.done == 20
    stub_service.responses_left = None
    requests_before = len(stub_service.predict_bodies)
    run_all(batch_run, stub_service)
    assert len(stub_service.predict_bodies) - requests_before == 2
    assert batch_run.sales.tolist() == expected(upload).tolist()


def test_warnings_are_summed_over_chunks(
    stub_service: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job, "CHUNK_ROWS", 4)
    batch_run = BatchRun.from_upload(upload_of([3] * 6 + [1] * 3, [START] * 9))
    run_all(batch_run, stub_service)
    assert dict(batch_run.warnings) == {"days without a schedule": 6}


def test_result_table_has_every_uploaded_row(stub_service: Any) -> None:
    upload = upload_of([1, 99, 2], [START, START, date(2015, 8, 2)], invalid_rows=(1,))
    batch_run = BatchRun.from_upload(upload)
    run_all(batch_run, stub_service)
    table = result_table(upload, batch_run)
    assert table["Id"].to_list() == ["0", "1", "2", "3"]
    assert table["Store"].to_list() == ["1", "?", "99", "2"]
    assert table["Forecast"].to_list() == [1060.0, None, None, 0.0]
    notes = table["Note"].to_list()
    assert notes[0] == "" and "no number" in notes[1] and "unknown" in notes[2]
    assert notes[3] == "closed"


def test_totals_by_store_and_by_day_agree(stub_service: Any) -> None:
    upload = make_upload(60)
    batch_run = BatchRun.from_upload(upload)
    run_all(batch_run, stub_service)
    total = expected(upload).sum()
    stores, days = by_store(batch_run), by_day(batch_run)
    assert stores["Total forecast"].sum() == pytest.approx(total)
    assert days["Total forecast"].sum() == pytest.approx(total)
    assert stores["Days"].sum() == 60
    assert days["Day"].is_sorted() and days["Day"].min() >= START


def test_shown_rows_stores_and_days_add_up(stub_service: Any) -> None:
    upload = make_upload(60)
    batch_run = BatchRun.from_upload(upload)
    run_all(batch_run, stub_service)
    batch_run.sales += np.linspace(0.0, 0.997, 60)
    rows = shown_table(result_table(upload, batch_run))
    stores, days = by_store(batch_run), by_day(batch_run)
    assert rows["Forecast"].dtype == stores["Total forecast"].dtype == pl.Int64
    total = rows["Forecast"].sum()
    assert stores["Total forecast"].sum() == days["Total forecast"].sum() == total
    for store, shown in stores.select("Store", "Total forecast").rows():
        assert rows.filter(pl.col("Store") == store)["Forecast"].sum() == shown


def test_all_faults_are_found_before_the_forecast(stub_service: Any) -> None:
    days = [START] * 4 + [date(2040, 1, 1)]
    batch_run = BatchRun.from_upload(upload_of([1, 99, 2, 98, 3], days))
    batch_run.check(Client(stub_service.url))
    assert [error.loc for error in batch_run.errors] == [(2, "Store"), (4, "Store"), (5, "Date")]
    assert batch_run.done == 0
    requests = len(stub_service.predict_bodies)
    batch_run.check(Client(stub_service.url))
    assert len(stub_service.predict_bodies) == requests


def test_columns_of_the_user_come_back_as_they_came(stub_service: Any) -> None:
    upload = upload_of([1, 2], [START] * 2)
    own = pl.DataFrame(
        {
            "Id": ["01067", "100000000000000012"],
            "Note": ["=1+1", "http://localhost"],
            "Forecast": ["mine", "too"],
            "Count": ["7", "12"],
        }
    )
    upload.frame = upload.frame.drop("Id").with_columns(own)
    batch_run = BatchRun.from_upload(upload)
    run_all(batch_run, stub_service)
    table = result_table(upload, batch_run)
    expected = own.rename({"Note": "Note (uploaded)", "Forecast": "Forecast (uploaded)"})
    assert table.select(expected.columns).equals(expected)
    assert pl.read_csv(to_csv(table), infer_schema=False).select(expected.columns).equals(expected)
    sheet = pl.read_excel(to_excel(table, by_store(batch_run), "x"), sheet_name="Forecasts")
    assert sheet["Count"].to_list() == [7, 12]
    unchanged = expected.drop("Count")
    assert sheet.select(unchanged.columns).equals(unchanged)


def test_csv_and_excel_hold_the_same_unrounded_numbers(stub_service: Any) -> None:
    upload = make_upload(20)
    batch_run = BatchRun.from_upload(upload)
    run_all(batch_run, stub_service)
    batch_run.sales += 1 / 3
    table = result_table(upload, batch_run)
    csv = pl.read_csv(to_csv(table))
    book = to_excel(table, by_store(batch_run), "made by a test")
    sheet = pl.read_excel(book, sheet_name="Forecasts")
    assert csv["Forecast"].to_list() == table["Forecast"].to_list()
    assert sheet["Forecast"].to_list() == pytest.approx(table["Forecast"].to_list(), abs=1e-9)
    assert pl.read_excel(book, sheet_name="By store").height == 3
