"""Datasets depend on the tables' content, not on their format, and are complete or absent."""

import csv
import gzip
import io
import random
import shutil
from datetime import date, timedelta
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis
from hypothesis import strategies as st

from rossmann.data.make_dataset import DatasetInfo, current_dataset, make_dataset
from rossmann.data.tables.cleaning import read_clean_tables
from rossmann.data.tables.raw_tables import find_raw_tables
from rossmann.errors import DataNotFoundError, DataValidationError, SettingsError
from rossmann.schema import Dataset
from rossmann.settings import Settings, load_settings

Record = dict[str, str]
STORES: list[Record] = [
    {
        "Store": "2", "StoreType": "d", "Assortment": "b", "CompetitionDistance": "1270",
        "CompetitionOpenSinceMonth": "9", "CompetitionOpenSinceYear": "2008", "Promo2": "1",
        "Promo2SinceWeek": "53", "Promo2SinceYear": "2009", "PromoInterval": "Mar,Jun,Sept,Dec",
    },
    {
        "Store": "1", "StoreType": "a", "Assortment": "c", "CompetitionDistance": "",
        "CompetitionOpenSinceMonth": "", "CompetitionOpenSinceYear": "", "Promo2": "0",
        "Promo2SinceWeek": "", "Promo2SinceYear": "", "PromoInterval": "",
    },
]  # fmt: skip


def schedule_row(store: int, day: date, is_open: str) -> Record:
    return {
        "Store": str(store), "DayOfWeek": str(day.isoweekday()), "Date": day.isoformat(),
        "Open": is_open, "Promo": str(day.day % 2), "StateHoliday": "0abc"[day.day % 4],
        "SchoolHoliday": str(store % 2),
    }  # fmt: skip


def history_rows() -> list[Record]:
    rows = []
    for offset in range(28):
        day = date(2015, 7, 4) + timedelta(days=offset)
        for store in (1, 2):
            # Store 2 trades on Sundays only.
            is_open = (day.isoweekday() == 7) == (store == 2)
            row = schedule_row(store, day, str(int(is_open)))
            rows.append({**row, "Sales": str(is_open * (90 + offset)), "Customers": "0"})
    return rows


def schedule_rows() -> list[Record]:
    sunday, monday = date(2015, 8, 2), date(2015, 8, 3)
    return [schedule_row(s, day, "") for s in (1, 2) for day in (sunday, monday)]


def as_csv(rows: list[Record], quoted: bool = False) -> bytes:
    out = io.StringIO()
    quoting = csv.QUOTE_ALL if quoted else csv.QUOTE_MINIMAL
    table = csv.DictWriter(out, list(rows[0]), quoting=quoting, lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    return out.getvalue().encode()


def write_tables(folder: Path, train: bytes, store: bytes, test: bytes | None = None) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "train.csv").write_bytes(train)
    (folder / "store.csv").write_bytes(store)
    if test is not None:
        (folder / "test.csv").write_bytes(test)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    chain = load_settings(data_dir=tmp_path, demo=False)
    write_tables(chain.raw_dir, as_csv(history_rows()), as_csv(STORES), as_csv(schedule_rows()))
    return chain


def frames(info: DatasetInfo) -> list[pl.DataFrame]:
    names = ("history", "schedule", "stores")
    return [pl.read_parquet(info.folder / f"{name}.parquet") for name in names]


def test_clean_tables_have_the_documented_columns_types_and_codes(settings: Settings) -> None:
    info = make_dataset(settings)
    history, schedule, stores = frames(info)
    columns = {
        "Store": pl.Int32, "Date": pl.Date, "Open": pl.UInt8, "Promo": pl.UInt8,
        "StateHoliday": pl.UInt8, "SchoolHoliday": pl.UInt8,
    }  # fmt: skip
    assert dict(schedule.schema) == columns
    assert dict(history.schema) == {**columns, "Sales": pl.Int32, "Customers": pl.Int32}
    assert history.equals(history.sort("Store", "Date"))
    row = history.row(2, named=True)
    assert row["Date"] == date(2015, 7, 6)
    assert (row["Store"], row["Sales"], row["Open"], row["StateHoliday"]) == (1, 92, 1, 2)
    one, two = stores.rows(named=True)
    assert one["Store"] == 1
    assert one["CompetitionDistance"] != one["CompetitionDistance"]  # NaN
    assert (one["CompetitionSince"], one["Promo2Since"], one["PromoMonths"]) == (None, None, 0)
    assert (two["StoreType"], two["Assortment"], two["CompetitionDistance"]) == (3, 1, 1270)
    assert two["CompetitionSince"] == date(2008, 9, 1)
    assert two["Promo2Since"] == date(2009, 12, 28)
    assert two["PromoMonths"] == 1 << 2 | 1 << 5 | 1 << 8 | 1 << 11


def test_info_describes_the_dataset(settings: Settings) -> None:
    info = make_dataset(settings)
    assert info.dataset is Dataset.REAL
    assert (info.rows, info.stores) == (56, 2)
    assert (info.first_day, info.last_day) == (date(2015, 7, 4), date(2015, 7, 31))
    assert info.schedule_end == date(2015, 8, 3)
    assert set(info.files) == {"train.csv", "store.csv", "test.csv"}
    assert current_dataset(settings) == info


def test_empty_open_is_filled_with_the_stores_majority_on_that_weekday(settings: Settings) -> None:
    lines: list[str] = []
    schedule = frames(make_dataset(settings, lines.append))[1]
    assert schedule["Open"].to_list() == [0, 1, 1, 0]
    assert any("4 planned rows do not say Open" in line for line in lines)


def test_without_a_schedule_the_frame_is_empty_but_typed(settings: Settings) -> None:
    (settings.raw_dir / "test.csv").unlink()
    info = make_dataset(settings)
    history, schedule, _ = frames(info)
    assert info.schedule_end is None
    assert schedule.is_empty()
    assert schedule.schema == history.drop("Sales", "Customers").schema


def test_scheduled_days_with_sales_are_left_out(settings: Settings) -> None:
    late = [*schedule_rows(), schedule_row(1, date(2015, 7, 31), "1")]
    (settings.raw_dir / "test.csv").write_bytes(as_csv(late))
    lines: list[str] = []
    schedule = frames(make_dataset(settings, lines.append))[1]
    assert schedule.height == 4
    assert any("left out 1 planned row" in line for line in lines)


@hypothesis(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), quoted=st.booleans(), gzipped=st.booleans())
def test_order_quoting_and_compression_do_not_change_the_dataset(
    tmp_path_factory: pytest.TempPathFactory, seed: int, quoted: bool, gzipped: bool
) -> None:
    folder = tmp_path_factory.mktemp("form")
    plain = load_settings(data_dir=folder / "plain", demo=False)
    write_tables(plain.raw_dir, as_csv(history_rows()), as_csv(STORES), as_csv(schedule_rows()))
    mixed = load_settings(data_dir=folder / "mixed", demo=False)
    mixed.raw_dir.mkdir(parents=True)
    shuffle = random.Random(seed)
    tables = {"train": history_rows(), "store": STORES, "test": schedule_rows()}
    for name, tidy in tables.items():
        names = shuffle.sample(list(tidy[0]), len(tidy[0]))
        rows = [{key: row[key] for key in names} for row in shuffle.sample(tidy, len(tidy))]
        content = as_csv(rows, quoted)
        ending = ".csv.gz" if gzipped else ".csv"
        path = mixed.raw_dir / f"{name}{ending}"
        path.write_bytes(gzip.compress(content) if gzipped else content)
    expected, actual = frames(make_dataset(plain)), frames(make_dataset(mixed))
    for one, other in zip(expected, actual, strict=True):
        assert one.equals(other)


def test_error_lists_every_broken_rule_of_every_table(settings: Settings) -> None:
    days, schedule = history_rows(), schedule_rows()
    days[3]["Promo"] = "7"
    schedule[1]["StateHoliday"] = "x"
    store = [{**STORES[0], "StoreType": "z"}, STORES[1]]
    write_tables(settings.raw_dir, as_csv(days), as_csv(store), as_csv(schedule))
    with pytest.raises(DataValidationError) as caught:
        make_dataset(settings)
    for part in ("StoreType_known in store.csv (1)", "Promo_flag in train.csv (1)",
                 "StateHoliday_known in test.csv (1)"):  # fmt: skip
        assert part in str(caught.value)
    assert not list(settings.processed_dir.glob("*/"))


def test_what_is_skipped_in_a_table_is_reported(settings: Settings) -> None:
    (settings.raw_dir / "store.csv").write_bytes(b"Stores of the chain\n" + as_csv(STORES))
    lines: list[str] = []
    assert make_dataset(settings, lines.append).stores == 2
    assert any(line.startswith("store.csv: ") and "Stores of the chain" in line for line in lines)


def test_an_unknown_country_is_an_error_of_the_check_too(settings: Settings) -> None:
    raw = find_raw_tables(settings.model_copy(update={"country": "XX"}))
    with pytest.raises(SettingsError, match="'XX' is not known"):
        read_clean_tables(raw)


def test_an_existing_version_is_not_built_again(settings: Settings) -> None:
    info = make_dataset(settings)
    modified = {p: p.stat().st_mtime_ns for p in info.folder.iterdir()}
    lines: list[str] = []
    assert make_dataset(settings, lines.append) == info
    assert lines == [f"data version {info.version} (rossmann) is there already"]
    assert {p: p.stat().st_mtime_ns for p in info.folder.iterdir()} == modified


def test_changed_content_is_a_new_version_and_keeps_the_old(settings: Settings) -> None:
    old = make_dataset(settings)
    write_tables(settings.raw_dir, as_csv(history_rows()[:-1]), as_csv(STORES))
    with pytest.raises(DataNotFoundError, match="rossmann features"):
        current_dataset(settings)
    new = make_dataset(settings)
    assert new.version != old.version
    assert current_dataset(settings) == new
    assert old.folder.is_dir()


@pytest.mark.parametrize("name", ["history.parquet", "dataset.json"])
def test_an_incomplete_folder_is_built_again(settings: Settings, name: str) -> None:
    info = make_dataset(settings)
    (info.folder / name).unlink()
    with pytest.raises(DataNotFoundError):
        current_dataset(settings)
    assert make_dataset(settings) == info
    assert (info.folder / name).is_file()


def test_a_failed_write_leaves_no_files(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: pl.DataFrame, file: Path) -> None:
        Path(file).write_bytes(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(pl.DataFrame, "write_parquet", full)
    with pytest.raises(OSError, match="no space"):
        make_dataset(settings)
    assert [p.name for p in settings.processed_dir.iterdir()] == ["digests.json"]


def test_concurrent_builds_give_one_version(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    winner = make_dataset(settings)
    backup = winner.folder.with_name("backup")
    winner.folder.rename(backup)
    rename = Path.rename

    def rename_after_other(self: Path, target: Path) -> Path:
        # The other process finishes first.
        shutil.copytree(backup, target)
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", rename_after_other)
    assert make_dataset(settings) == winner
    assert not list(settings.processed_dir.glob(".draft-*"))


def test_without_raw_tables_the_newest_version_is_current(settings: Settings) -> None:
    info = make_dataset(settings)
    shutil.rmtree(settings.raw_dir)
    assert current_dataset(settings) == info
    with pytest.raises(DataNotFoundError, match="rossmann data demo"):
        current_dataset(load_settings(data_dir=settings.data_dir, demo=True))
