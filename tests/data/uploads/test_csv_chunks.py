"""CSV read in blocks gives the same rows as CSV read whole."""

import tempfile
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis
from hypothesis import strategies as st

from rossmann.data.uploads import csv_chunks, csv_dialect
from rossmann.data.uploads.file_formats import Workspace
from rossmann.data.uploads.table_reader import open_table
from rossmann.errors import DataValidationError

LINES = ["1,2,3", '"x\n\ny",2,', '"",,', ",,", '"q""u",5', 'äö,"é\n",z', "", "1"]


def read_chunks(content: bytes) -> list[pl.DataFrame]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "body"
        path.write_bytes(content)
        table = open_table("x", path, Workspace(Path(folder), 1 << 20))
        return [pl.DataFrame(batch) for batch in table.read()]


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv_dialect, "BLOCK_BYTES", 37)


@hypothesis(deadline=None, max_examples=60)
@given(
    st.lists(st.sampled_from(LINES), min_size=1, max_size=30),
    st.sampled_from(["", "\n", "\n\n"]),
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "cp1252"]),
)
def test_blocks_hold_the_rows_of_the_whole_table(
    lines: list[str], tail: str, encoding: str
) -> None:
    text = "\n".join(['a,b,"c ""x"""', *lines]) + tail
    whole = pl.read_csv(text.encode(), infer_schema=False)
    chunks = read_chunks(text.encode(encoding))
    expected = [row for row in whole.rows() if any(value and value.strip() for value in row)]
    assert [row for chunk in chunks for row in chunk.rows()] == expected


def test_too_long_rows_and_too_many_values_are_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv_chunks, "_MAX_ROW_BYTES", 200)
    with pytest.raises(DataValidationError, match="quotation mark"):
        read_chunks(b'a,b\n1,2\n3,"4\n' + b"5,6\n" * 100)
    with pytest.raises(DataValidationError, match="line 22 has 3 values, the header has 2"):
        read_chunks(b"a,b\n" + b"1,2\n" * 20 + b"1,2,3\n")


def test_too_many_columns_are_rejected() -> None:
    with pytest.raises(DataValidationError, match="more than 1,000 columns"):
        read_chunks(b"a," * 1001 + b"b\n1\n")


def test_a_table_has_a_limit_of_values(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv_chunks, "_MAX_TABLE_CELLS", 100)
    assert sum(map(len, read_chunks(b"a,b\n" + b"1\n" * 50))) == 50
    for rows in (b"1\n" * 51, b"\n" * 51, b'x"\n' * 51):
        with pytest.raises(DataValidationError, match="more than 100 values: send it in parts"):
            read_chunks(b"a,b\n" + rows)
