"""Increments are numbered, written atomically, and rejected where their rows have changed."""

from datetime import date
from pathlib import Path

import polars as pl
import pytest

from rossmann.data.demo.write_tables import write_demo
from rossmann.data.make_dataset import make_dataset
from rossmann.data.tables.increments import (
    list_increments,
    read_increment,
    read_source_name,
    upsert,
    write_increment,
)
from rossmann.errors import DataValidationError
from rossmann.settings import load_settings

DAY = date(2015, 8, 1)


def schedule(*stores: int, promo: int = 0) -> pl.DataFrame:
    count = len(stores)
    return pl.DataFrame(
        {
            "Store": stores,
            "Date": [DAY] * count,
            "Open": [1] * count,
            "Promo": [promo] * count,
            "StateHoliday": [0] * count,
            "SchoolHoliday": [0] * count,
        },
        schema_overrides={"Store": pl.Int32}
        | dict.fromkeys(("Open", "Promo", "StateHoliday", "SchoolHoliday"), pl.UInt8),
    )


def test_increments_are_numbered_and_read_back(tmp_path: Path) -> None:
    first = write_increment(tmp_path, "schedule", schedule(2, 1), "august.csv")
    second = write_increment(tmp_path, "schedule", schedule(1, promo=1), "again.csv")
    assert list_increments(tmp_path) == (first, second)
    assert [increment.number for increment in (first, second)] == [1, 2]
    assert read_increment(first).equals(schedule(1, 2))
    assert [read_source_name(increment) for increment in (first, second)] == [
        "august.csv",
        "again.csv",
    ]


def test_digest_depends_on_the_rows_alone(tmp_path: Path) -> None:
    one = write_increment(tmp_path, "schedule", schedule(1, 2), "one.csv")
    same = write_increment(tmp_path, "schedule", schedule(2, 1), "other.csv")
    other = write_increment(tmp_path, "schedule", schedule(1, 2, promo=1), "one.csv")
    assert one.digest == same.digest != other.digest


def test_numbers_are_not_reused_after_a_deletion(tmp_path: Path) -> None:
    increments = [write_increment(tmp_path, "schedule", schedule(store), "") for store in (1, 2)]
    increments[0].path.unlink()
    assert write_increment(tmp_path, "schedule", schedule(3), "").number == 3


def test_staging_and_other_files_are_ignored(tmp_path: Path) -> None:
    for name in (".draft-7", "notes.parquet", "0001-sales-xyz.parquet"):
        (tmp_path / name).write_bytes(b"half")
    assert list_increments(tmp_path) == ()
    assert list_increments(tmp_path / "none") == ()


def test_a_failed_write_leaves_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: pl.DataFrame, file: Path, metadata: object) -> None:
        file.write_bytes(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(pl.DataFrame, "write_parquet", full)
    with pytest.raises(OSError, match="no space"):
        write_increment(tmp_path, "schedule", schedule(1), "")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"PAR1 nonsense PAR1", None])
def test_a_damaged_increment_is_rejected_by_name(tmp_path: Path, content: bytes | None) -> None:
    increment = write_increment(tmp_path, "schedule", schedule(1), "")
    increment.path.chmod(0o644)
    if content is None:
        schedule(1, promo=1).write_parquet(increment.path)
    else:
        increment.path.write_bytes(content)
    with pytest.raises(DataValidationError, match=rf"{increment.path.name} is damaged"):
        read_increment(increment)


def test_later_rows_replace_earlier_ones() -> None:
    merged = upsert(schedule(3, 1), schedule(2, 3, promo=1))
    assert merged["Store"].to_list() == [1, 2, 3]
    assert merged["Promo"].to_list() == [0, 1, 1]


def test_an_increment_of_an_unknown_store_is_rejected(tmp_path: Path) -> None:
    settings = load_settings(data_dir=tmp_path, demo=True)
    write_demo(settings.demo_raw_dir, seed=1, stores=3, days=40, schedule_days=5)
    folder = settings.ingested_dir / "demo"
    folder.mkdir(parents=True)
    write_increment(folder, "schedule", schedule(4), "")
    with pytest.raises(
        DataValidationError, match=r"Store_known: Store is in the store table .*Store=4"
    ):
        make_dataset(settings)
