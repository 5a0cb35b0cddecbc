"""Export of the prediction log: every format, both databases, filters, limits."""

from datetime import date, timedelta
from pathlib import Path

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rossmann.errors import DataNotFoundError, DataValidationError
from rossmann.prediction_log.database.sql_store import SqlLogStore
from rossmann.prediction_log.queries import export as export_module
from rossmann.prediction_log.queries.export import ExportFilter, LogReader
from rossmann.prediction_log.records import Batch, LoggedPrediction
from tests.fixtures.prediction_log import MakeEntry, make_batch

EPOCH = date(1970, 1, 1)


def write_log(url: str, entries: list[LoggedPrediction]) -> Batch:
    batch = make_batch(entries, 1)
    store = SqlLogStore(url)
    store.write("w", [(1, batch)])
    store.close()
    return batch


def export_rows(url: str, row_filter: ExportFilter, output: Path) -> int:
    reader = LogReader(url)
    try:
        return reader.export(row_filter, output, lambda _: None)
    finally:
        reader.close()


def joined_rows(batch: Batch) -> pl.DataFrame:
    """The rows of a batch joined to their requests, in the order of an export."""
    joined = batch.rows.join(batch.requests.drop("rows"), on="entry")
    return joined.sort("answered_at", "entry", "row").with_columns(pl.lit(1).alias("batch"))


@settings(
    max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    shapes=st.lists(st.integers(1, 6), min_size=1, max_size=6),
    callers=st.lists(st.text(), min_size=6, max_size=6),
    levels=st.lists(st.sampled_from([0.6, 0.8, 0.95]), unique=True),
)
def test_export_equals_the_logged_rows(
    tmp_path_factory: pytest.TempPathFactory,
    make_entry: MakeEntry,
    shapes: list[int],
    callers: list[str],
    levels: list[float],
) -> None:
    folder = tmp_path_factory.mktemp("export")
    url = f"sqlite:///{folder / 'log.db'}"
    entries = []
    for number, rows in enumerate(shapes):
        sales = make_entry(number, rows).sales
        bounds = tuple((level, sales * level, sales / level) for level in levels)
        entries.append(make_entry(number, rows, caller=callers[number], bounds=bounds))
    written = joined_rows(write_log(url, entries))
    assert export_rows(url, ExportFilter(), folder / "x.parquet") == written.height
    exported = pl.read_parquet(folder / "x.parquet")
    assert set(exported.columns) == set(written.columns) - {"entry"}
    for name in exported.columns:
        assert exported[name].to_list() == written[name].to_list(), name


def test_all_databases_and_formats_export_the_same(
    tmp_path: Path, url: str, make_entry: MakeEntry
) -> None:
    written = joined_rows(
        write_log(url, [make_entry(number, 3, caller="=1+1") for number in range(4)])
    )
    sales = written["forecast"].to_list()
    for ending in ("csv", "parquet", "xlsx"):
        assert export_rows(url, ExportFilter(), tmp_path / f"x.{ending}") == 12
    table = pl.read_parquet(tmp_path / "x.parquet")
    assert table["forecast"].to_list() == sales
    assert table["answered_at"].to_list() == written["answered_at"].to_list()
    text = pl.read_csv(tmp_path / "x.csv", try_parse_dates=True)
    assert text["forecast"].to_list() == sales
    assert text["date"].to_list() == written["date"].to_list()
    assert text["answered_at"].to_list() == written["answered_at"].to_list()
    sheet = pl.read_excel(tmp_path / "x.xlsx")
    assert sheet.columns == text.columns == table.columns
    assert sheet["forecast"].to_list() == pytest.approx(sales, rel=1e-14)
    assert sheet["date"].to_list() == written["date"].to_list()
    assert set(sheet["caller"]) == {"=1+1"}  # text, not a formula


def test_export_filters_rows(tmp_path: Path, url: str, make_entry: MakeEntry) -> None:
    first = make_entry(0).answered_at
    entries = [
        make_entry(n, 4, answered_at=first + timedelta(days=n), model_version=1 + n % 2)
        for n in range(6)
    ]
    write_log(url, entries)
    day = first.date()
    store = int(entries[3].rows.store[0])
    cases = [
        (ExportFilter(first=day + timedelta(2)), entries[2:]),
        (ExportFilter(last=day + timedelta(2)), entries[:3]),
        (ExportFilter(first=day + timedelta(2), last=day + timedelta(2)), entries[2:3]),
        (ExportFilter(version=2), entries[1::2]),
    ]
    for row_filter, expected in cases:
        export_rows(url, row_filter, tmp_path / "x.parquet")
        exported = pl.read_parquet(tmp_path / "x.parquet")["request_id"].unique(maintain_order=True)
        assert exported.to_list() == [entry.request_id for entry in expected]
    export_rows(url, ExportFilter(store=store), tmp_path / "x.parquet")
    of_store = sum(int((entry.rows.store == store).sum()) for entry in entries)
    assert pl.read_parquet(tmp_path / "x.parquet")["store"].to_list() == [store] * of_store


def test_export_without_rows_has_the_columns(
    tmp_path: Path, sqlite_url: str, make_entry: MakeEntry
) -> None:
    write_log(sqlite_url, [make_entry(1)])
    for ending in ("csv", "parquet", "xlsx"):
        assert export_rows(sqlite_url, ExportFilter(version=99), tmp_path / f"x.{ending}") == 0
    assert (
        pl.read_csv(tmp_path / "x.csv").columns == pl.read_parquet(tmp_path / "x.parquet").columns
    )


def test_too_many_rows_for_excel_raise_and_leave_no_file(
    tmp_path: Path, sqlite_url: str, make_entry: MakeEntry, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_log(sqlite_url, [make_entry(1, 11)])
    monkeypatch.setattr(export_module, "MAX_EXCEL_ROWS", 10)
    with pytest.raises(DataValidationError, match="--from and --to"):
        export_rows(sqlite_url, ExportFilter(), tmp_path / "x.xlsx")
    assert list(tmp_path.glob("*x*")) == []


def test_export_reads_page_by_page(
    tmp_path: Path, sqlite_url: str, make_entry: MakeEntry, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = joined_rows(write_log(sqlite_url, [make_entry(number, 7) for number in range(5)]))
    monkeypatch.setattr(export_module, "_PAGE_ROWS", 4)
    reports: list[str] = []
    reader = LogReader(sqlite_url)
    assert reader.export(ExportFilter(), tmp_path / "x.parquet", reports.append) == 35
    reader.close()
    assert (
        pl.read_parquet(tmp_path / "x.parquet")["forecast"].to_list()
        == written["forecast"].to_list()
    )


def test_export_of_a_missing_log_raises(tmp_path: Path, url: str) -> None:
    with pytest.raises(DataNotFoundError, match="nothing was logged yet"):
        export_rows(url, ExportFilter(), tmp_path / "x.csv")
    assert not (tmp_path / "log").exists()
