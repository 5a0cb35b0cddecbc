"""Batch runs: chunks, common origin, rejected rows, outages; tables and files of the result."""

from datetime import date, timedelta
from typing import Any

import numpy as np
import polars as pl
import pytest

from rossmann.dashboard.batch import job
from rossmann.dashboard.batch.job import BatchRun
from rossmann.dashboard.batch.tables import by_day, by_store, result_file, run_columns, shown_table
from rossmann.data.prepare_predictions import Upload, read_upload
from rossmann.data.uploads.result_files import ResultFormat
from rossmann.errors import ServiceError
from rossmann.serving.client.client import Client

START = date(2015, 8, 1)


def upload_of(
    stores: list[int],
    days: list[date],
    invalid_rows: tuple[int, ...] = (),
    own: dict[str, list[str]] | None = None,
) -> Upload:
    """An upload whose file also holds invalid rows at ``invalid_rows``, and ``own`` columns."""
    height = len(stores) + len(invalid_rows)
    rows = iter(zip(stores, days, strict=True))
    lines = []
    for row in range(height):
        store, day = ("?", START) if row in invalid_rows else next(rows)
        lines.append([row, store, day, int(day.isoweekday() != 7), 0, 0, 0])
    names = ["Id", "Store", "Date", "Open", "Promo", "StateHoliday", "SchoolHoliday"]
    table = pl.DataFrame(lines, schema=names, orient="row", strict=False)
    table = table.with_columns(pl.Series(name, values) for name, values in (own or {}).items())
    return read_upload("plan.csv", table.write_csv().encode())


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


def test_both_faults_of_a_row_are_found_at_once(stub_service: Any) -> None:
    lines = ["99,2015-08-01,7,0,0,0", "1,2015-08-01,1,0,0,0", "99,2015-08-02,1,0,0,0",
             "1,2040-01-01,1,7,0,0", "?,2040-01-01,1,0,0,0", "2,soon,1,0,0,0"]  # fmt: skip
    header = "Store,Date,Open,Promo,StateHoliday,SchoolHoliday"
    upload = read_upload("plan.csv", "\n".join([header, *lines]).encode())
    assert [error.loc for error in upload.errors] == [
        (1, "Open"), (4, "Promo"), (5, "Store"), (6, "Date"),
    ]  # fmt: skip
    batch_run = BatchRun.from_upload(upload)
    batch_run.check(Client(stub_service.url))
    assert [(*error.loc, error.msg) for error in batch_run.errors] == [
        (1, "Store", "Store is unknown (got 99)"), (3, "Store", "Store is unknown (got 99)"),
        (4, "Date", "Date 2040-01-01 is out of range"),
        (5, "Date", "Date 2040-01-01 is out of range"),
    ]  # fmt: skip
    requests = len(stub_service.predict_bodies)
    batch_run.check(Client(stub_service.url))
    assert len(stub_service.predict_bodies) == requests


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


def test_result_has_every_uploaded_row(stub_service: Any) -> None:
    upload = upload_of([1, 99, 2], [START, START, date(2015, 8, 2)], invalid_rows=(1,))
    batch_run = BatchRun.from_upload(upload)
    run_all(batch_run, stub_service)
    table = read_csv(batch_run)
    assert table["Id"].to_list() == ["0", "1", "2", "3"]
    assert table["Store"].to_list() == ["1", "?", "99", "2"]
    assert table["forecast"].to_list() == ["1060.0", None, None, "0.0"]
    assert table["model_version"].to_list() == ["3", None, None, "3"]
    assert table["as_of"].to_list() == ["2015-07-31", None, None, "2015-07-31"]
    errors = table["error"].to_list()
    assert errors[0] is errors[3] is None
    assert "whole number" in errors[1] and errors[2] == "Store is unknown (got 99)"
    # A column that could not be read stays as it came; the others have types.
    sheet = read_sheet(batch_run)
    assert sheet["Store"].to_list() == ["1", "?", "99", "2"]
    assert sheet["Date"].to_list() == [START, START, START, date(2015, 8, 2)]
    assert sheet["Open"].to_list() == [1, 1, 1, 0]


def read_csv(batch_run: BatchRun) -> pl.DataFrame:
    return pl.read_csv(result_file(batch_run, ResultFormat("csv")), infer_schema=False)


def read_sheet(batch_run: BatchRun) -> pl.DataFrame:
    file = result_file(batch_run, ResultFormat("xlsx", sheets=(("By store", by_store(batch_run)),)))
    return pl.read_excel(file, sheet_name="Forecasts")


def test_warnings_are_kept_by_row(stub_service: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job, "CHUNK_ROWS", 2)
    batch_run = BatchRun.from_upload(upload_of([1, 3, 2, 3, 3], [START] * 5))
    run_all(batch_run, stub_service)
    warnings = read_csv(batch_run)["warnings"].to_list()
    assert warnings == [None, "no_schedule", None, "no_schedule", "no_schedule"]


def test_empty_open_and_wrong_weekday_reach_the_service(stub_service: Any) -> None:
    text = "Store,DayOfWeek,Date,Open,Promo,StateHoliday,SchoolHoliday\n"
    text += "1,6,2015-08-01,1,0,0,0\n1,6,2015-08-03,,0,0,0\n"
    sent = job.request_table(read_upload("plan.csv", text.encode()), np.array([0, 1]))
    assert sent["DayOfWeek"].to_list() == [6, 2]  # Monday would be 1
    assert sent["Open"].to_list() == [1, None]
    batch_run = BatchRun.from_upload(read_upload("plan.csv", text.encode()))
    run_all(batch_run, stub_service)
    assert batch_run.sales.tolist() == [1060.0, 1010.0]


def test_repeated_days_are_named_with_the_row_that_they_repeat(stub_service: Any) -> None:
    days = [START, START, START + timedelta(days=1), START, START]
    batch_run = BatchRun.from_upload(upload_of([1, 2, 1, 1, 99], days, invalid_rows=(0,)))
    batch_run.check(Client(stub_service.url))
    repeated = batch_run.upload.repeated_days(batch_run.usable)
    assert [error.loc for error in repeated] == [(5,)]
    assert "store 1 on 2015-08-01 is in line 3 already" in repeated[0].msg
    assert "leave one of the two out" in repeated[0].msg


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
    rows = shown_table(batch_run)
    stores, days = by_store(batch_run), by_day(batch_run)
    assert rows["forecast"].dtype == stores["Total forecast"].dtype == pl.Int64
    total = rows["forecast"].sum()
    assert stores["Total forecast"].sum() == days["Total forecast"].sum() == total
    for store, shown in stores.select("Store", "Total forecast").rows():
        assert rows.filter(pl.col("Store") == store)["forecast"].sum() == shown


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
    own = {
        "Key": ["01067", "100000000000000012"],
        "Note": ["=1+1", "http://localhost"],
        "forecast": ["mine", "too"],
        "Count": ["7", "12"],
    }
    batch_run = BatchRun.from_upload(upload_of([1, 2], [START] * 2, own=own))
    run_all(batch_run, stub_service)
    expected = pl.DataFrame(own).rename({"forecast": "input_forecast"})
    for table in (read_csv(batch_run), read_sheet(batch_run), shown_table(batch_run)):
        texts = table.select(expected.columns).cast(pl.String)
        assert texts.equals(expected)


def test_csv_and_excel_hold_the_same_unrounded_numbers(stub_service: Any) -> None:
    upload = make_upload(20)
    batch_run = BatchRun.from_upload(upload)
    run_all(batch_run, stub_service)
    batch_run.sales += 1 / 3
    expected = run_columns(batch_run)["forecast"].to_list()
    assert read_csv(batch_run)["forecast"].cast(pl.Float64).to_list() == expected
    assert read_sheet(batch_run)["forecast"].to_list() == expected
    form = ResultFormat("xlsx", sheets=(("By store", by_store(batch_run)),))
    stores = pl.read_excel(result_file(batch_run, form), sheet_name="By store")
    assert stores.equals(by_store(batch_run).with_columns(pl.all().cast(pl.Int64)))
