"""Which tables are in use, and how they are read."""

import gzip
from pathlib import Path

import pytest

from rossmann.data.tables import raw_tables as files
from rossmann.data.tables.raw_tables import (
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


def put(folder: Path, *names: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_text("Store\n1\n")


def test_no_tables_says_where_to_put_them_and_how_to_do_without(settings: Settings) -> None:
    with pytest.raises(DataNotFoundError) as caught:
        find_raw_tables(settings)
    assert str(settings.raw_dir) in str(caught.value)
    assert "rossmann data demo" in str(caught.value)


def test_real_tables_go_before_the_demo(settings: Settings) -> None:
    put(settings.demo_raw_dir, "train.csv", "store.csv", "test.csv")
    assert find_raw_tables(settings).dataset is Dataset.DEMO
    put(settings.raw_dir, "train.csv.gz", "store.csv")
    found = find_raw_tables(settings)
    assert found.dataset is Dataset.REAL
    assert found.train == settings.raw_dir / "train.csv.gz"
    assert found.test is None
    assert list(found.by_name()) == ["train.csv", "store.csv"]


def test_the_demo_can_be_asked_for(settings: Settings) -> None:
    put(settings.demo_raw_dir, "train.csv", "store.csv", "test.csv")
    put(settings.raw_dir, "train.csv", "store.csv")
    found = find_raw_tables(load_settings(data_dir=settings.data_dir, demo=True))
    assert found.dataset is Dataset.DEMO
    assert found.test == settings.demo_raw_dir / "test.csv"


@pytest.mark.parametrize(("there", "absent"), [("train", "store"), ("store", "train")])
def test_half_a_chain_names_the_other_half(settings: Settings, there: str, absent: str) -> None:
    put(settings.demo_raw_dir, "train.csv", "store.csv")
    put(settings.raw_dir, f"{there}.csv")
    with pytest.raises(DataNotFoundError, match=rf"has {there}\.csv but no {absent}\.csv"):
        find_raw_tables(settings)


SPELLINGS = {
    "plain": b"Store,Text\n1,a\n2,\n",
    "quoted": b'"Store","Text"\n"1","a"\n"2",""\n',
    "byte order mark": b"\xef\xbb\xbfStore,Text\n1,a\n2,\n",
    "other line ends": b"Store,Text\r\n1,a\r\n2,\r\n",
    "blanks": b"Store, Text\n 1 ,a \n2, \n",
    "no last line end": b"Store,Text\n1,a\n2,",
}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_spelling_reads_the_same(tmp_path: Path, spelling: str, packed: bool) -> None:
    content = SPELLINGS[spelling]
    path = tmp_path / ("t.csv.gz" if packed else "t.csv")
    path.write_bytes(gzip.compress(content) if packed else content)
    assert read_text(path).to_dict(as_series=False) == {"Store": ["1", "2"], "Text": ["a", None]}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t.csv", b""),
        ("t.csv", b"Store,Date\n1,2015-08-01,7\n"),
        ("t.csv", b"Store,Date\n1,\xff\xfe\xff\n"),
        ("t.csv.gz", b"\x1f\x8b\x08\x00damaged"),
    ],
)
def test_what_is_no_table_is_refused_by_name(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataValidationError, match=f"{name} is no CSV table"):
        read_text(tmp_path / name)


def test_the_digest_is_of_the_content_not_of_the_packing(tmp_path: Path) -> None:
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
    put(settings.raw_dir, "train.csv", "store.csv")
    record = settings.processed_dir / "record.json"
    first = table_digests(find_raw_tables(settings), record)
    read: list[Path] = []

    def spy(path: Path) -> str:
        read.append(path)
        return content_digest(path)

    monkeypatch.setattr(files, "content_digest", spy)
    assert table_digests(find_raw_tables(settings), record) == first
    assert read == []
    changed = settings.raw_dir / "train.csv"
    changed.write_text("Store\n1\n2\n")
    assert table_digests(find_raw_tables(settings), record)["train.csv"] != first["train.csv"]
    assert read == [changed]


def test_a_damaged_record_only_costs_time(settings: Settings) -> None:
    put(settings.raw_dir, "train.csv", "store.csv")
    record = settings.processed_dir / "record.json"
    first = table_digests(find_raw_tables(settings), record)
    record.write_text("{half")
    assert table_digests(find_raw_tables(settings), record) == first
