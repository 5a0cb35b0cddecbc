"""Selection, reading and digests of the raw tables."""

import gzip
import io
import zipfile
from pathlib import Path

import polars as pl
import pytest
from xlsxwriter import Workbook

from rossmann.data.tables import raw_tables
from rossmann.data.tables.raw_tables import (
    IncompleteTablesError,
    content_digest,
    find_raw_tables,
    read_text,
    table_digests,
)
from rossmann.errors import DataNotFoundError, DataValidationError
from rossmann.schema import Dataset
from rossmann.settings import Settings, load_settings


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings(data_dir=tmp_path, demo=False)


def write_tables(folder: Path, *names: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_text("Store\n1\n")


def test_error_without_tables_names_the_folder_and_the_demo(settings: Settings) -> None:
    with pytest.raises(DataNotFoundError) as caught:
        find_raw_tables(settings)
    assert str(settings.raw_dir) in str(caught.value)
    assert "rossmann data demo" in str(caught.value)


def test_real_tables_take_precedence_over_the_demo(settings: Settings) -> None:
    write_tables(settings.demo_raw_dir, "train.csv", "store.csv", "test.csv")
    assert find_raw_tables(settings).dataset is Dataset.DEMO
    write_tables(settings.raw_dir, "train.csv.gz", "store.csv")
    tables = find_raw_tables(settings)
    assert tables.dataset is Dataset.REAL
    assert tables.train == settings.raw_dir / "train.csv.gz"
    assert tables.test is None
    assert list(tables.by_name()) == ["train.csv", "store.csv"]


def test_the_demo_setting_selects_the_demo(settings: Settings) -> None:
    write_tables(settings.demo_raw_dir, "train.csv", "store.csv", "test.csv")
    write_tables(settings.raw_dir, "train.csv", "store.csv")
    tables = find_raw_tables(load_settings(data_dir=settings.data_dir, demo=True))
    assert tables.dataset is Dataset.DEMO
    assert tables.test == settings.demo_raw_dir / "test.csv"


@pytest.mark.parametrize(("present", "missing"), [("train", "store"), ("store", "train")])
def test_error_names_the_missing_table(settings: Settings, present: str, missing: str) -> None:
    write_tables(settings.demo_raw_dir, "train.csv", "store.csv")
    write_tables(settings.raw_dir, f"{present}.csv")
    with pytest.raises(DataNotFoundError, match=rf"has {present}\.csv but no {missing}\.csv"):
        find_raw_tables(settings)


def zipped(**files: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, content in files.items():
            archive.writestr(name.replace("_", "."), content)
    return out.getvalue()


def test_tables_in_an_archive_are_named_and_no_demo_stands_in(settings: Settings) -> None:
    write_tables(settings.demo_raw_dir, "train.csv", "store.csv")
    settings.raw_dir.mkdir(parents=True)
    (settings.raw_dir / "notes.zip").write_bytes(zipped(a_txt=b"x"))
    (settings.raw_dir / "broken.zip").write_bytes(b"x")
    assert find_raw_tables(settings).dataset is Dataset.DEMO
    kaggle = settings.raw_dir / "rossmann-store-sales.zip"
    kaggle.write_bytes(zipped(train_csv=b"Store\n", store_csv=b"Store\n", test_csv=b"Store\n"))
    with pytest.raises(IncompleteTablesError, match=f"{kaggle} holds the sales tables: unpack it"):
        find_raw_tables(settings)


def test_tables_of_any_format_and_case(settings: Settings) -> None:
    settings.raw_dir.mkdir(parents=True)
    (settings.raw_dir / "Train.csv.zip").write_bytes(zipped(train_csv=b"Store\n1\n"))
    pl.DataFrame({"Store": [1]}).write_parquet(settings.raw_dir / "store.parquet")
    (settings.raw_dir / "TEST.CSV").write_text("Store\n1\n")
    tables = find_raw_tables(settings)
    assert tables.dataset is Dataset.REAL
    assert list(tables.by_name()) == ["train.csv", "store.csv", "test.csv"]
    for path in tables.by_name().values():
        assert read_text(path)[0].to_dict(as_series=False) == {"Store": ["1"]}


VARIANTS = {
    "plain": b"Store,Text\n1,a\n2,\n",
    "quoted": b'"Store","Text"\n"1","a"\n"2",""\n',
    "byte order mark": b"\xef\xbb\xbfStore,Text\n1,a\n2,\n",
    "other line ends": b"Store,Text\r\n1,a\r\n2,\r\n",
    "blanks": b"Store, Text\n 1 ,a \n2, \n",
    "no last line end": b"Store,Text\n1,a\n2,",
}


@pytest.mark.parametrize("gzipped", [False, True])
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_csv_variant_reads_the_same(tmp_path: Path, variant: str, gzipped: bool) -> None:
    content = VARIANTS[variant]
    path = tmp_path / ("t.csv.gz" if gzipped else "t.csv")
    path.write_bytes(gzip.compress(content) if gzipped else content)
    assert read_text(path)[0].to_dict(as_series=False) == {"Store": ["1", "2"], "Text": ["a", None]}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t.csv", b""),
        ("t.csv", b"Store,Date\n1,2015-08-01,7\n"),
        ("t.csv", b"Store,Date\n1,\x00\n"),
        ("t.csv.gz", b"\x1f\x8b\x08\x00damaged"),
    ],
)
def test_invalid_files_are_rejected_by_name(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataValidationError, match=f"^{name}"):
        read_text(tmp_path / name)


@pytest.mark.parametrize(
    ("content", "remedy"),
    [
        (b"Store,Date\n1,01/08/2015\n1,02/08/2015\n", "by writing each as YYYY-MM-DD"),
        (b"Store,CompetitionDistance\n1,1.270\n2,\n", "by writing each with a decimal point"),
    ],
)
def test_ambiguous_values_are_rejected_with_a_remedy_that_a_raw_table_has(
    tmp_path: Path, content: bytes, remedy: str
) -> None:
    (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(DataValidationError, match=rf"^t\.csv: .* can be read as .*{remedy}"):
        read_text(tmp_path / "t.csv")


def test_a_workbook_of_several_tables_is_rejected_with_a_remedy(tmp_path: Path) -> None:
    with Workbook(tmp_path / "t.xlsx") as book:
        for name in ("one", "two"):
            sheet = book.add_worksheet(name)
            sheet.write_row(0, 0, ["Store", "Date"])
            sheet.write_row(1, 0, [1, "2015-08-01"])
    with pytest.raises(DataValidationError, match=r"one, two; .* by hiding or removing the others"):
        read_text(tmp_path / "t.xlsx")


def test_digest_does_not_depend_on_compression(tmp_path: Path) -> None:
    content = b"Store\n1\n" * 400_000
    (tmp_path / "a.csv").write_bytes(content)
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(content))
    digest = content_digest(tmp_path / "a.csv")
    assert content_digest(tmp_path / "a.csv.gz") == digest
    (tmp_path / "a.csv").write_bytes(content + b"2\n")
    assert content_digest(tmp_path / "a.csv") != digest


def test_unchanged_tables_are_not_read_again(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tables(settings.raw_dir, "train.csv", "store.csv")
    cache = settings.processed_dir / "cache.json"
    first = table_digests(find_raw_tables(settings), cache)
    read: list[Path] = []

    def spy(path: Path) -> str:
        read.append(path)
        return content_digest(path)

    monkeypatch.setattr(raw_tables, "content_digest", spy)
    assert table_digests(find_raw_tables(settings), cache) == first
    assert read == []
    changed = settings.raw_dir / "train.csv"
    changed.write_text("Store\n1\n2\n")
    assert table_digests(find_raw_tables(settings), cache)["train.csv"] != first["train.csv"]
    assert read == [changed]


def test_a_corrupt_digest_cache_is_ignored(settings: Settings) -> None:
    write_tables(settings.raw_dir, "train.csv", "store.csv")
    cache = settings.processed_dir / "cache.json"
    first = table_digests(find_raw_tables(settings), cache)
    cache.write_text("{half")
    assert table_digests(find_raw_tables(settings), cache) == first
