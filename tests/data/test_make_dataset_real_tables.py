"""The real tables go through every step; skipped where they are not at hand."""

import os
from datetime import date
from pathlib import Path

import polars as pl
import pytest

from rossmann.data.make_dataset import DatasetInfo, make_dataset
from rossmann.data.prepare_predictions import read_upload
from rossmann.data.tables.raw_tables import find_raw_tables
from rossmann.settings import Settings, load_settings

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Settings whose raw tables are the real ones, and whose output goes elsewhere."""
    raw = Path(os.environ.get("ROSSMANN_DATA_DIR", "nowhere")) / "raw"
    if not any((raw / name).is_file() for name in ("train.csv", "train.csv.gz")):
        pytest.skip("needs ROSSMANN_DATA_DIR with the real tables in raw/")
    settings = load_settings(data_dir=tmp_path_factory.mktemp("real"), demo=False)
    settings.raw_dir.symlink_to(raw.resolve())
    return settings


@pytest.fixture(scope="module")
def info(real: Settings) -> DatasetInfo:
    return make_dataset(real)


def test_every_row_passes_the_rules(info: DatasetInfo) -> None:
    assert info.rows > 900_000
    assert info.stores == 1_115
    assert info.first_day == date(2013, 1, 1)
    history = pl.read_parquet(info.folder / "history.parquet")
    assert history.height == info.rows
    assert history.null_count().sum_horizontal().item() == 0
    assert history.select("Store", "Date").is_duplicated().sum() == 0


def test_what_is_known_of_them_is_found(info: DatasetInfo) -> None:
    history = pl.read_parquet(info.folder / "history.parquet")
    assert history.filter(Open=1, Sales=0).height == 54
    away = history.filter(pl.col("Date").is_between(date(2014, 7, 1), date(2014, 12, 31)))
    assert away["Store"].n_unique() == 1_115 - 180


def test_the_schedule_is_filled_where_it_says_nothing(real: Settings, info: DatasetInfo) -> None:
    raw = find_raw_tables(real)
    if raw.test is None:
        pytest.skip("needs test.csv beside the real tables")
    schedule = pl.read_parquet(info.folder / "schedule.parquet")
    assert schedule.height == 41_088
    filled = schedule.filter(Store=622)
    sundays = filled.filter(pl.col("Date").dt.weekday() == 7)
    assert filled["Open"].sum() == filled.height - sundays.height


def test_the_test_table_can_be_uploaded(real: Settings) -> None:
    raw = find_raw_tables(real)
    if raw.test is None:
        pytest.skip("needs test.csv beside the real tables")
    found = read_upload(raw.test.name, raw.test.read_bytes())
    assert len(found.rows) == 41_088
    assert found.faults == []
    assert len(found.notes) == 1
    assert "11 rows" in found.notes[0]
