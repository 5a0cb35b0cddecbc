"""Tables in parts are the tables that are read whole."""

import tempfile
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis
from hypothesis import strategies as st

from rossmann.data.uploads import csv_chunks as upload_csv
from rossmann.data.uploads.table_chunks import open_table
from rossmann.errors import DataValidationError

LINES = ["1,2,3", '"x\n\ny",2,', '"",,', ",,", '"q""u",5', 'äö,"é\n",z', "", "1"]


def parts_of(content: bytes) -> list[pl.DataFrame]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "body"
        path.write_bytes(content)
        found = open_table("x", path, Path(folder), 1 << 20).read()
        return [pl.DataFrame(batch) for batch in found]


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upload_csv, "_BLOCK", 37)


@hypothesis(deadline=None, max_examples=60)
@given(
    st.lists(st.sampled_from(LINES), min_size=1, max_size=30),
    st.sampled_from(["", "\n", "\n\n"]),
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "cp1252"]),
)
def test_csv_in_blocks_is_csv(lines: list[str], tail: str, encoding: str) -> None:
    text = "\n".join(['a,b,"c ""x"""', *lines]) + tail
    whole = pl.read_csv(text.encode(), infer_schema=False)
    parts = parts_of(text.encode(encoding))
    assert [row for part in parts for row in part.rows()] == whole.rows()
    assert all(part.columns == whole.columns for part in parts)


def test_what_no_block_can_hold_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upload_csv, "_LONGEST", 200)
    with pytest.raises(DataValidationError, match="quotation mark"):
        parts_of(b'a,b\n1,2\n3,"4\n' + b"5,6\n" * 100)
    with pytest.raises(DataValidationError, match="row 21 has 3 values, the first line 2"):
        parts_of(b"a,b\n" + b"1,2\n" * 20 + b"1,2,3\n")


def test_too_many_columns_are_refused_before_they_are_read() -> None:
    with pytest.raises(DataValidationError, match="more than 1,000 columns"):
        parts_of(b"a," * 1001 + b"b\n1\n")
