"""The real tables through every step; skipped where they are not available."""

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
    """Settings with the real raw tables and another output folder."""
    raw = Path(os.environ.get("ROSSMANN_DATA_DIR", "none")) / "raw"
    if not any((raw / name).is_file() for name in ("train.csv", "train.csv.gz")):
        pytest.skip("needs ROSSMANN_DATA_DIR with the real tables in raw/")
    settings = load_settings(data_dir=tmp_path_factory.mktemp("real"), demo=False)
    settings.raw_dir.symlink_to(raw.resolve())
    return settings


@pytest.fixture(scope="module")
def info(real: Settings) -> DatasetInfo:
    return make_dataset(real)


def test_every_row_passes_validation(info: DatasetInfo) -> None:
    assert info.rows > 900_000
    assert info.stores == 1_115
    assert info.first_day == date(2013, 1, 1)
    history = pl.read_parquet(info.folder / "history.parquet")
    assert history.height == info.rows
    assert history.null_count().sum_horizontal().item() == 0
    assert history.select("Store", "Date").is_duplicated().sum() == 0


def test_known_irregularities_are_present(info: DatasetInfo) -> None:
    history = pl.read_parquet(info.folder / "history.parquet")
    assert history.filter(Open=1, Sales=0).height == 54
    gap = history.filter(pl.col("Date").is_between(date(2014, 7, 1), date(2014, 12, 31)))
    assert gap["Store"].n_unique() == 1_115 - 180


def test_empty_open_of_the_schedule_is_filled(real: Settings, info: DatasetInfo) -> None:
    raw = find_raw_tables(real)
    if raw.test is None:
        pytest.skip("needs test.csv in raw/")
    schedule = pl.read_parquet(info.folder / "schedule.parquet")
    assert schedule.height == 41_088
    filled = schedule.filter(Store=622)
    sundays = filled.filter(pl.col("Date").dt.weekday() == 7)
    assert filled["Open"].sum() == filled.height - sundays.height


def test_the_test_table_is_a_valid_upload(real: Settings) -> None:
    raw = find_raw_tables(real)
    if raw.test is None:
        pytest.skip("needs test.csv in raw/")
    upload = read_upload(raw.test.name, raw.test.read_bytes())
    assert len(upload.rows) == 41_088
    assert upload.errors == []
    assert len(upload.notes) == 1
    assert "11 rows" in upload.notes[0]
