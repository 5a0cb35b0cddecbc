"""New days over the raw tables: what changes, what is refused, and that order does not matter."""

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


def plan_row(store: int, day: date, **other: Any) -> Row:
    row = {"Store": store, "DayOfWeek": day.isoweekday(), "Date": day.isoformat(), "Open": 1,
           "Promo": 0, "StateHoliday": "0", "SchoolHoliday": 0}  # fmt: skip
    return {**row, **other}


def sold_row(store: int, day: date, sales: int = 5000, **other: Any) -> Row:
    return plan_row(store, day, Sales=sales, Customers=sales // 10, **other)


def days_from(day: date, count: int) -> list[date]:
    return [day + timedelta(days=offset) for offset in range(count)]


NEXT = LAST_DAY + timedelta(days=1)
NEW = [sold_row(s, day, 4000 + 10 * s) for day in days_from(NEXT, 3) for s in range(1, STORES + 1)]


def put(settings: Settings, rows: Iterable[Row], name: str = "new.csv") -> IngestResult:
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
    kept = (path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(folder)): path.read_bytes() for path in kept}


def test_sales_days_turn_plan_into_history(settings: Settings) -> None:
    old = make_dataset(settings)
    before = tree(settings.demo_raw_dir)
    done = put(settings, NEW)
    assert (done.kind, done.added, done.corrected, done.unchanged) == ("sales", 12, 0, 0)
    assert (done.planned, done.skipped) == (12, 0)
    assert (done.last_day_before, done.last_day) == (LAST_DAY, LAST_DAY + timedelta(days=3))
    assert done.planned_to == LAST_DAY + timedelta(days=AHEAD)
    assert tree(settings.demo_raw_dir) == before
    with pytest.raises(DataNotFoundError, match="rossmann features"):
        current_dataset(settings)
    info = make_dataset(settings)
    history, schedule, _ = frames(info)
    assert info.version != old.version
    assert info.rows == history.height == old.rows + 12
    assert info.last_day == done.last_day
    assert history.equals(history.sort("Store", "Date"))
    assert schedule["Date"].min() == LAST_DAY + timedelta(days=4)
    assert schedule.height == frames(old)[1].height - 12
    assert [name for name in info.files if name.startswith("ingested/0001-sales-")]


def test_days_that_are_leapt_over_are_counted(settings: Settings) -> None:
    assert put(settings, NEW).gap == 0
    done = put(settings, [sold_row(1, NEXT + timedelta(days=offset)) for offset in (0, 5, 7)])
    assert (done.gap, done.last_day) == (3, NEXT + timedelta(days=7))
    assert put(settings, [plan_row(1, NEXT + timedelta(days=9))]).gap == 0


def test_a_store_that_reports_late_keeps_its_plan(settings: Settings) -> None:
    put(settings, [row for row in NEW if row["Store"] != 2])
    schedule = frames(make_dataset(settings))[1]
    late = schedule.filter(pl.col("Date") <= LAST_DAY + timedelta(days=3))
    assert late["Store"].to_list() == [2, 2, 2]


def test_a_correction_wins_over_raw_and_over_older_pieces(settings: Settings) -> None:
    assert put(settings, NEW[:1]).added == 1
    done = put(settings, [{**NEW[0], "Sales": 77}, sold_row(1, LAST_DAY, 88), NEW[1]])
    assert (done.added, done.corrected, done.unchanged) == (1, 2, 0)
    history = frames(make_dataset(settings))[0]
    assert history.filter(Store=1, Date=NEXT)["Sales"].to_list() == [77]
    assert history.filter(Store=1, Date=LAST_DAY)["Sales"].to_list() == [88]


def test_the_same_again_changes_nothing(settings: Settings) -> None:
    put(settings, NEW)
    info, before = make_dataset(settings), tree(settings.data_dir)
    done = put(settings, NEW)
    assert done.piece is None
    assert (done.added, done.corrected, done.unchanged) == (0, 0, 12)
    assert tree(settings.data_dir) == before
    assert current_dataset(settings) == info


def test_what_is_said_again_is_not_kept_again(settings: Settings) -> None:
    put(settings, NEW[:11])
    done = put(settings, NEW)
    assert done.piece is not None
    assert pl.read_parquet(done.piece.path).height == 1


@pytest.mark.parametrize("name", ["new.csv", "new.csv.gz", "new.parquet", "new.xlsx"])
def test_every_form_is_the_same_piece(settings: Settings, name: str) -> None:
    plain = put(settings, NEW).piece
    assert plain is not None
    plain.path.unlink()
    other = put(settings, NEW, name).piece
    assert other is not None
    assert other.path.name == plain.path.name


@pytest.mark.parametrize("name", ["new.csv", "new.parquet", "new.xlsx"])
def test_flags_may_be_truths(settings: Settings, name: str) -> None:
    plain = put(settings, NEW).piece
    assert plain is not None
    plain.path.unlink()
    truths = [{k: bool(v) if k in FLAGS else v for k, v in row.items()} for row in NEW]
    other = put(settings, truths, name).piece
    assert other is not None
    assert other.path.name == plain.path.name


def test_a_schedule_extends_and_corrects_the_plan(settings: Settings) -> None:
    old = frames(make_dataset(settings))[1]
    end = LAST_DAY + timedelta(days=AHEAD)
    said = old.filter(Store=1, Date=end).row(0, named=True)["Promo"]
    beyond = end + timedelta(days=3)
    rows = [plan_row(1, end, Promo=1 - said), plan_row(1, beyond, Open=None)]
    done = put(settings, rows)
    assert (done.kind, done.added, done.corrected, done.planned_to) == ("schedule", 1, 1, beyond)
    assert done.last_day == done.last_day_before == LAST_DAY
    info = make_dataset(settings)
    schedule = frames(info)[1]
    assert schedule.filter(Store=1, Date=end)["Promo"].to_list() == [1 - said]
    assert schedule["Open"].null_count() == 0
    assert info.schedule_end == beyond
    assert put(settings, rows).unchanged == 2


def test_planned_days_that_have_sales_are_left_out(settings: Settings) -> None:
    info = make_dataset(settings)
    done = put(settings, [plan_row(1, LAST_DAY), plan_row(1, LAST_DAY - timedelta(days=1))])
    assert (done.skipped, done.piece) == (2, None)
    assert make_dataset(settings) == info


def test_days_between_history_and_schedule_stay_unknown(settings: Settings) -> None:
    (settings.demo_raw_dir / "test.csv").unlink()
    some = [LAST_DAY + timedelta(days=offset) for offset in (1, 2, 5)]
    put(settings, [plan_row(s, day) for s in range(1, STORES + 1) for day in some])
    info = make_dataset(settings)
    assert schedule_coverage(info) == [
        ScheduleCoverage(some[0], some[1], STORES),
        ScheduleCoverage(some[1] + timedelta(days=1), some[2] - timedelta(days=1), 0),
        ScheduleCoverage(some[2], some[2], STORES),
        ScheduleCoverage(some[2] + timedelta(days=1), LAST_DAY + timedelta(days=48), 0),
    ]
    build_panel(info, threads=1)
    panel = open_panel(info)
    ahead = panel.last_day + pl.Series([1, 2, 3, 4, 5, 6]).to_numpy()
    place = panel.store_indices(panel.store_numbers[:1]).repeat(6)
    assert panel.is_scheduled(place, ahead).tolist() == [True, True, False, False, True, False]


def test_stores_without_a_plan_are_counted(settings: Settings) -> None:
    put(settings, [plan_row(2, LAST_DAY + timedelta(days=AHEAD + 1))])
    spans = schedule_coverage(make_dataset(settings))
    assert [span.stores for span in spans] == [STORES, 1, 0]


BAD: list[tuple[str, Row]] = [
    ("Store_known", sold_row(99, NEXT)),
    ("Date_format", sold_row(1, NEXT, Date="01.08.2015")),
    ("DayOfWeek_fits", sold_row(1, NEXT, DayOfWeek=7)),
    ("day_unique", NEW[5]),
    ("Promo_flag", sold_row(1, NEXT, Promo=2)),
    ("StateHoliday_known", sold_row(1, NEXT, StateHoliday="x")),
    ("Open_flag", sold_row(1, NEXT, Open=None)),
    ("Sales_whole", sold_row(1, NEXT, sales=-1)),
    ("closed_sells_nothing", sold_row(1, NEXT, Open=0)),
    ("Date_reach", sold_row(1, date(2025, 8, 1))),
    ("Date_reach", sold_row(1, date(2005, 8, 1))),
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


def test_all_broken_rules_are_told_at_once(settings: Settings) -> None:
    rows = [sold_row(1, NEXT, Promo=9), sold_row(99, NEXT), sold_row(2, NEXT, sales=-5)]
    with pytest.raises(DataValidationError) as caught:
        put(settings, rows)
    for words in ("line 2: Store=1", "line 3: Store=99", "line 4: Store=2"):
        assert words in str(caught.value)


def test_one_of_the_two_sums_is_no_schedule(settings: Settings) -> None:
    with pytest.raises(DataValidationError, match="lacks the columns Customers"):
        put(settings, [plan_row(1, NEXT, Sales=5)])


def test_without_raw_tables_there_is_nothing_to_add_to(tmp_path: Path) -> None:
    with pytest.raises(DataNotFoundError, match="rossmann data demo"):
        put(load_settings(data_dir=tmp_path, demo=True), NEW)
    assert not (tmp_path / "ingested").exists()


@hypothesis(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), parts=st.integers(1, 5))
def test_in_parts_and_in_any_order_it_is_the_same_data(
    raw: Path, tmp_path_factory: pytest.TempPathFactory, seed: int, parts: int
) -> None:
    shuffle = random.Random(seed)
    corrected = [{**row, "Sales": row["Sales"] + 1} for row in shuffle.sample(NEW, 4)]
    late = [sold_row(s, LAST_DAY, 100 + s) for s in (1, 3)]
    plans = [plan_row(s, LAST_DAY + timedelta(days=d)) for s in (1, 2) for d in (2, 9, 40)]
    whole = chain(raw, tmp_path_factory.mktemp("whole"))
    for rows in (plans, NEW + late, corrected):
        put(whole, rows)
    cut = chain(raw, tmp_path_factory.mktemp("cut"))
    said = [*NEW, *late]
    files = [*_parts(shuffle, said, parts), *_parts(shuffle, plans, parts)]
    shuffle.shuffle(files)
    for rows in [*files, *_parts(shuffle, corrected, parts)]:
        put(cut, rows)
    for one, other in zip(frames(make_dataset(whole)), frames(make_dataset(cut)), strict=True):
        assert one.equals(other)
    wins = {(row["Store"], row["Date"]): row["Sales"] for row in corrected}
    history = frames(make_dataset(cut))[0].with_columns(pl.col("Date").cast(pl.String))
    found = {(row["Store"], row["Date"]): row["Sales"] for row in history.iter_rows(named=True)}
    assert {key: found[key] for key in wins} == wins


def _parts(shuffle: random.Random, rows: list[Row], parts: int) -> list[list[Row]]:
    mixed = shuffle.sample(rows, len(rows))
    return [part for part in (mixed[place::parts] for place in range(parts)) if part]


def test_several_at_once_lose_nothing(settings: Settings) -> None:
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
    assert [piece.number for piece in find_raw_tables(settings).pieces] == [1, 2, 3, 4]
    assert make_dataset(settings).last_day == LAST_DAY + timedelta(days=3)
    assert put(settings, NEW).unchanged == 12


def _written(settings: Settings, store: int) -> Path:
    path = settings.data_dir / f"store{store}.csv"
    pl.DataFrame([row for row in NEW if row["Store"] == store]).write_csv(path)
    return path
