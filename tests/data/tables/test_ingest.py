"""Ingest: counts of changes, validation, atomicity, and independence of file order."""

import gzip
import multiprocessing
import random
import shutil
from collections.abc import Iterable
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis
from hypothesis import strategies as st

from rossmann.data.demo.write_tables import LAST_DAY, write_demo
from rossmann.data.make_dataset import DatasetInfo, current_dataset, make_dataset
from rossmann.data.panel.panel import build_panel, open_panel
from rossmann.data.tables.ingest import IngestResult, ScheduleCoverage, ingest, schedule_coverage
from rossmann.data.tables.raw_tables import find_raw_tables
from rossmann.data.uploads.fields import FLAGS
from rossmann.errors import DataNotFoundError, DataValidationError
from rossmann.settings import Settings, load_settings

Row = dict[str, Any]
STORES, DAYS, AHEAD = 4, 60, 20


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("raw")
    write_demo(folder, seed=3, stores=STORES, days=DAYS, schedule_days=AHEAD)
    return folder


def chain(raw: Path, folder: Path) -> Settings:
    settings = load_settings(data_dir=folder, demo=True)
    shutil.copytree(raw, settings.demo_raw_dir)
    return settings


@pytest.fixture
def settings(raw: Path, tmp_path: Path) -> Settings:
    return chain(raw, tmp_path)


def schedule_row(store: int, day: date, **other: Any) -> Row:
    row = {"Store": store, "DayOfWeek": day.isoweekday(), "Date": day.isoformat(), "Open": 1,
           "Promo": 0, "StateHoliday": "0", "SchoolHoliday": 0}  # fmt: skip
    return {**row, **other}


def sales_row(store: int, day: date, sales: int = 5000, **other: Any) -> Row:
    return schedule_row(store, day, Sales=sales, Customers=sales // 10, **other)


def days_from(day: date, count: int) -> list[date]:
    return [day + timedelta(days=offset) for offset in range(count)]


NEXT = LAST_DAY + timedelta(days=1)
NEW = [sales_row(s, day, 4000 + 10 * s) for day in days_from(NEXT, 3) for s in range(1, STORES + 1)]


def ingest_rows(settings: Settings, rows: Iterable[Row], name: str = "new.csv") -> IngestResult:
    path = settings.data_dir / name
    frame = pl.DataFrame(list(rows), infer_schema_length=None)
    if name.endswith(".gz"):
        path.write_bytes(gzip.compress(frame.write_csv().encode()))
    else:
        writers = {".csv": frame.write_csv, ".parquet": frame.write_parquet,
                   ".xlsx": frame.write_excel}  # fmt: skip
        writers[path.suffix](path)  # type: ignore[operator]
    return ingest(settings, path)


def frames(info: DatasetInfo) -> list[pl.DataFrame]:
    names = ("history", "schedule", "stores")
    return [pl.read_parquet(info.folder / f"{name}.parquet") for name in names]


def tree(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_sales_days_move_from_schedule_to_history(settings: Settings) -> None:
    old = make_dataset(settings)
    before = tree(settings.demo_raw_dir)
    result = ingest_rows(settings, NEW)
    assert (result.kind, result.added, result.corrected, result.unchanged) == ("sales", 12, 0, 0)
    assert (result.planned, result.skipped) == (12, 0)
    assert (result.last_day_before, result.last_day) == (LAST_DAY, LAST_DAY + timedelta(days=3))
    assert result.planned_to == LAST_DAY + timedelta(days=AHEAD)
    assert tree(settings.demo_raw_dir) == before
    with pytest.raises(DataNotFoundError, match="rossmann features"):
        current_dataset(settings)
    info = make_dataset(settings)
    history, schedule, _ = frames(info)
    assert info.version != old.version
    assert info.rows == history.height == old.rows + 12
    assert info.last_day == result.last_day
    assert history.equals(history.sort("Store", "Date"))
    assert schedule["Date"].min() == LAST_DAY + timedelta(days=4)
    assert schedule.height == frames(old)[1].height - 12
    assert [name for name in info.files if name.startswith("ingested/0001-sales-")]


def test_days_without_sales_between_are_counted(settings: Settings) -> None:
    assert ingest_rows(settings, NEW).gap == 0
    result = ingest_rows(
        settings, [sales_row(1, NEXT + timedelta(days=offset)) for offset in (0, 5, 7)]
    )
    assert (result.gap, result.last_day) == (3, NEXT + timedelta(days=7))
    assert ingest_rows(settings, [schedule_row(1, NEXT + timedelta(days=9))]).gap == 0


def test_a_store_without_new_sales_keeps_its_schedule(settings: Settings) -> None:
    ingest_rows(settings, [row for row in NEW if row["Store"] != 2])
    schedule = frames(make_dataset(settings))[1]
    late = schedule.filter(pl.col("Date") <= LAST_DAY + timedelta(days=3))
    assert late["Store"].to_list() == [2, 2, 2]


def test_a_correction_overrides_raw_tables_and_older_increments(settings: Settings) -> None:
    assert ingest_rows(settings, NEW[:1]).added == 1
    result = ingest_rows(settings, [{**NEW[0], "Sales": 77}, sales_row(1, LAST_DAY, 88), NEW[1]])
    assert (result.added, result.corrected, result.unchanged) == (1, 2, 0)
    history = frames(make_dataset(settings))[0]
    assert history.filter(Store=1, Date=NEXT)["Sales"].to_list() == [77]
    assert history.filter(Store=1, Date=LAST_DAY)["Sales"].to_list() == [88]


def test_ingesting_the_same_file_again_changes_nothing(settings: Settings) -> None:
    ingest_rows(settings, NEW)
    info, before = make_dataset(settings), tree(settings.data_dir)
    result = ingest_rows(settings, NEW)
    assert result.increment is None
    assert (result.added, result.corrected, result.unchanged) == (0, 0, 12)
    assert tree(settings.data_dir) == before
    assert current_dataset(settings) == info


def test_unchanged_rows_are_not_stored_again(settings: Settings) -> None:
    ingest_rows(settings, NEW[:11])
    result = ingest_rows(settings, NEW)
    assert result.increment is not None
    assert pl.read_parquet(result.increment.path).height == 1


@pytest.mark.parametrize("name", ["new.csv", "new.csv.gz", "new.parquet", "new.xlsx"])
def test_every_file_format_gives_the_same_increment(settings: Settings, name: str) -> None:
    first = ingest_rows(settings, NEW).increment
    assert first is not None
    first.path.unlink()
    other = ingest_rows(settings, NEW, name).increment
    assert other is not None
    assert other.path.name == first.path.name


@pytest.mark.parametrize("name", ["new.csv", "new.parquet", "new.xlsx"])
def test_flags_may_be_booleans(settings: Settings, name: str) -> None:
    first = ingest_rows(settings, NEW).increment
    assert first is not None
    first.path.unlink()
    booleans = [{k: bool(v) if k in FLAGS else v for k, v in row.items()} for row in NEW]
    other = ingest_rows(settings, booleans, name).increment
    assert other is not None
    assert other.path.name == first.path.name


def test_a_schedule_file_extends_and_corrects_the_schedule(settings: Settings) -> None:
    old = frames(make_dataset(settings))[1]
    end = LAST_DAY + timedelta(days=AHEAD)
    promo = old.filter(Store=1, Date=end).row(0, named=True)["Promo"]
    beyond = end + timedelta(days=3)
    rows = [schedule_row(1, end, Promo=1 - promo), schedule_row(1, beyond, Open=None)]
    result = ingest_rows(settings, rows)
    assert (result.kind, result.added, result.corrected, result.planned_to) == (
        "schedule",
        1,
        1,
        beyond,
    )
    assert result.last_day == result.last_day_before == LAST_DAY
    info = make_dataset(settings)
    schedule = frames(info)[1]
    assert schedule.filter(Store=1, Date=end)["Promo"].to_list() == [1 - promo]
    assert schedule["Open"].null_count() == 0
    assert info.schedule_end == beyond
    assert ingest_rows(settings, rows).unchanged == 2


def test_scheduled_days_with_sales_are_left_out(settings: Settings) -> None:
    info = make_dataset(settings)
    result = ingest_rows(
        settings, [schedule_row(1, LAST_DAY), schedule_row(1, LAST_DAY - timedelta(days=1))]
    )
    assert (result.skipped, result.increment) == (2, None)
    assert make_dataset(settings) == info


def test_days_between_history_and_schedule_stay_unscheduled(settings: Settings) -> None:
    (settings.demo_raw_dir / "test.csv").unlink()
    days = [LAST_DAY + timedelta(days=offset) for offset in (1, 2, 5)]
    ingest_rows(settings, [schedule_row(s, day) for s in range(1, STORES + 1) for day in days])
    info = make_dataset(settings)
    assert schedule_coverage(info) == [
        ScheduleCoverage(days[0], days[1], STORES),
        ScheduleCoverage(days[1] + timedelta(days=1), days[2] - timedelta(days=1), 0),
        ScheduleCoverage(days[2], days[2], STORES),
        ScheduleCoverage(days[2] + timedelta(days=1), LAST_DAY + timedelta(days=48), 0),
    ]
    build_panel(info, threads=1)
    panel = open_panel(info)
    ahead = panel.last_day + pl.Series([1, 2, 3, 4, 5, 6]).to_numpy()
    store = panel.store_indices(panel.store_numbers[:1]).repeat(6)
    assert panel.is_scheduled(store, ahead).tolist() == [True, True, False, False, True, False]


def test_coverage_counts_scheduled_stores(settings: Settings) -> None:
    ingest_rows(settings, [schedule_row(2, LAST_DAY + timedelta(days=AHEAD + 1))])
    spans = schedule_coverage(make_dataset(settings))
    assert [span.stores for span in spans] == [STORES, 1, 0]


BAD: list[tuple[str, Row]] = [
    ("Store_known", sales_row(99, NEXT)),
    ("Date_format", sales_row(1, NEXT, Date="01.08.2015")),
    ("DayOfWeek_fits", sales_row(1, NEXT, DayOfWeek=7)),
    ("day_unique", NEW[5]),
    ("Promo_flag", sales_row(1, NEXT, Promo=2)),
    ("StateHoliday_known", sales_row(1, NEXT, StateHoliday="x")),
    ("Open_flag", sales_row(1, NEXT, Open=None)),
    ("Sales_whole", sales_row(1, NEXT, sales=-1)),
    ("closed_sells_nothing", sales_row(1, NEXT, Open=0)),
    ("Date_reach", sales_row(1, date(2025, 8, 1))),
    ("Date_reach", sales_row(1, date(2005, 8, 1))),
]


@pytest.mark.parametrize(("rule", "row"), BAD)
def test_a_file_that_breaks_a_rule_changes_nothing(settings: Settings, rule: str, row: Row) -> None:
    info = make_dataset(settings)
    path = settings.data_dir / "new.csv"
    pl.DataFrame([*NEW[1:], row], infer_schema_length=None).write_csv(path)
    before = tree(settings.data_dir)
    with pytest.raises(DataValidationError, match=rf"{rule} in new\.csv") as caught:
        ingest(settings, path)
    assert "line " in str(caught.value)
    assert tree(settings.data_dir) == before
    assert current_dataset(settings) == info


def test_error_lists_all_broken_rules(settings: Settings) -> None:
    rows = [sales_row(1, NEXT, Promo=9), sales_row(99, NEXT), sales_row(2, NEXT, sales=-5)]
    with pytest.raises(DataValidationError) as caught:
        ingest_rows(settings, rows)
    for words in ("line 2: Store=1", "line 3: Store=99", "line 4: Store=2"):
        assert words in str(caught.value)


def test_a_file_with_one_sales_column_is_no_schedule(settings: Settings) -> None:
    with pytest.raises(DataValidationError, match="lacks the columns Customers"):
        ingest_rows(settings, [schedule_row(1, NEXT, Sales=5)])


def test_ingest_needs_raw_tables(tmp_path: Path) -> None:
    with pytest.raises(DataNotFoundError, match="rossmann data demo"):
        ingest_rows(load_settings(data_dir=tmp_path, demo=True), NEW)
    assert not (tmp_path / "ingested").exists()


@hypothesis(max_examples=8, deadline=None)
@given(seed=st.integers(0, 10**6), parts=st.integers(1, 5))
def test_splitting_and_order_of_files_do_not_change_the_data(
    raw: Path, tmp_path_factory: pytest.TempPathFactory, seed: int, parts: int
) -> None:
    shuffle = random.Random(seed)
    corrected = [{**row, "Sales": row["Sales"] + 1} for row in shuffle.sample(NEW, 4)]
    late = [sales_row(s, LAST_DAY, 100 + s) for s in (1, 3)]
    schedule_rows = [
        schedule_row(s, LAST_DAY + timedelta(days=d)) for s in (1, 2) for d in (2, 9, 40)
    ]
    whole = chain(raw, tmp_path_factory.mktemp("whole"))
    for rows in (schedule_rows, NEW + late, corrected):
        ingest_rows(whole, rows)
    split = chain(raw, tmp_path_factory.mktemp("split"))
    sales_rows = [*NEW, *late]
    files = [*_parts(shuffle, sales_rows, parts), *_parts(shuffle, schedule_rows, parts)]
    shuffle.shuffle(files)
    for rows in [*files, *_parts(shuffle, corrected, parts)]:
        ingest_rows(split, rows)
    for one, other in zip(frames(make_dataset(whole)), frames(make_dataset(split)), strict=True):
        assert one.equals(other)
    expected = {(row["Store"], row["Date"]): row["Sales"] for row in corrected}
    history = frames(make_dataset(split))[0].with_columns(pl.col("Date").cast(pl.String))
    actual = {(row["Store"], row["Date"]): row["Sales"] for row in history.iter_rows(named=True)}
    assert {key: actual[key] for key in expected} == expected


def _parts(shuffle: random.Random, rows: list[Row], parts: int) -> list[list[Row]]:
    mixed = shuffle.sample(rows, len(rows))
    return [part for part in (mixed[start::parts] for start in range(parts)) if part]


def test_concurrent_ingests_lose_no_rows(settings: Settings) -> None:
    context = multiprocessing.get_context("spawn")
    workers = [
        context.Process(target=ingest, args=(settings, _written(settings, store)))
        for store in range(1, STORES + 1)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
    assert [worker.exitcode for worker in workers] == [0] * STORES
    assert [increment.number for increment in find_raw_tables(settings).increments] == [1, 2, 3, 4]
    assert make_dataset(settings).last_day == LAST_DAY + timedelta(days=3)
    assert ingest_rows(settings, NEW).unchanged == 12


def _written(settings: Settings, store: int) -> Path:
    path = settings.data_dir / f"store{store}.csv"
    pl.DataFrame([row for row in NEW if row["Store"] == store]).write_csv(path)
    return path
