"""Download of the raw tables from Kaggle."""

from pathlib import Path

import pytest

from rossmann.data.tables.raw_tables import COMPETITION, download_tables
from rossmann.errors import DataNotFoundError
from rossmann.settings import Settings, load_settings

TABLES = ("train.csv", "store.csv", "test.csv")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings(data_dir=tmp_path / "data")


def test_tables_are_copied_to_the_raw_folder(settings: Settings, tmp_path: Path) -> None:
    kaggle = tmp_path / "kaggle"
    kaggle.mkdir()
    for name in TABLES:
        (kaggle / name).write_text(f"content of {name}")
    requested = []

    def download(name: str) -> str:
        requested.append(name)
        return str(kaggle)

    lines: list[str] = []
    paths = download_tables(settings, lines.append, download)
    assert requested == [COMPETITION]
    assert paths == [settings.raw_dir / name for name in TABLES]
    assert [path.read_text() for path in paths] == [f"content of {name}" for name in TABLES]
    assert sorted(path.name for path in settings.raw_dir.iterdir()) == sorted(TABLES)


def test_a_failed_download_explains_the_manual_way(settings: Settings) -> None:
    def download(name: str) -> str:
        raise ValueError("403: you must accept the rules\nand a long story")

    with pytest.raises(DataNotFoundError) as caught:
        download_tables(settings, lambda line: None, download)
    assert "403: you must accept the rules. " in str(caught.value)
    assert str(settings.raw_dir) in str(caught.value)


def test_an_incomplete_download_is_rejected(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("")
    with pytest.raises(DataNotFoundError, match=r"store\.csv, test\.csv"):
        download_tables(settings, lambda line: None, lambda name: str(tmp_path))
    assert not settings.raw_dir.exists()
