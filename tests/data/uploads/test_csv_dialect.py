"""Encodings that are read, and those that are named."""

import pytest

from rossmann.data.uploads.csv_dialect import MAX_COLUMNS
from rossmann.data.uploads.result_files import CsvWriter, ResultFormat, result_decimal
from rossmann.data.uploads.table_reader import read_table
from rossmann.data.uploads.value_formats import DecimalMark
from rossmann.errors import DataValidationError


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252", "latin-1"])
def test_texts_come_back_in_their_encoding(encoding: str) -> None:
    text = "caf\u00e9" + ("\x81" if encoding == "latin-1" else "")
    content = f"Store,Note\n1,{text}\n".encode(encoding)
    table = read_table("plan", content)
    assert table.frame["c1"].to_list() == [text]
    written: list[bytes] = []
    frame = table.frame.rename({"c0": "Store", "c1": "Note"}).to_arrow()
    form = ResultFormat("csv", table.dialect)
    writer = CsvWriter(frame.schema, form, written.append)
    writer.write(writer.encode(frame.to_batches()[0]))
    assert b"".join(written) == content
    assert form.media_type.startswith("text/csv; charset=")


@pytest.mark.parametrize(
    ("content", "decimal", "date_format", "expected"),
    [
        (b"Store;Date\n1;13.08.2015\n", None, "DD.MM.YYYY", ","),
        (b"Store;Date\n1;2015-08-13\n", None, "YYYY-MM-DD", "."),
        (b"Store,Date\n1,13.08.2015\n", None, "DD.MM.YYYY", "."),
        (b"Store;Date\n1;13.08.2015\n", ".", "DD.MM.YYYY", "."),
    ],
)
def test_decimal_mark_of_a_result(
    content: bytes, decimal: DecimalMark | None, date_format: str, expected: str
) -> None:
    """A German spreadsheet takes 6042.32 for text, and a point before three digits for a group."""
    dialect = read_table("plan", content).dialect
    assert result_decimal(dialect, decimal, date_format) == expected


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("Store,Date\n".encode("utf-32"), "is written in UTF-32: save it as UTF-8"),
        ("Store,Date\n".encode("utf-16-le"), "UTF-16 with a byte order mark"),
        ("Store,Date\n".encode("utf-16") + b"\x00", "is no valid UTF-16"),
        ("Store,Date\n1,".encode("utf-16") + b"\x00\xd8", "is no valid UTF-16"),
        (b"Store\rx,Date\n1,2\n", "has no readable column names"),
        (b"a," * (MAX_COLUMNS + 1) + b"\n", f"has more than {MAX_COLUMNS:,} columns"),
    ],
)
def test_other_files_are_named(content: bytes, said: str) -> None:
    with pytest.raises(DataValidationError, match=r"^plan ") as error:
        read_table("plan", content)
    assert said in str(error.value)
