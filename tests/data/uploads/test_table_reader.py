"""Every format and encoding gives the same table; what is skipped is said; invalid files fail."""

import gzip
import io

import polars as pl
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis
from hypothesis import strategies as st

from rossmann.data.uploads.table_reader import read_fields, read_table
from rossmann.errors import DataValidationError

TABLE = {"Store": ["1", "2"], "Date": ["2015-08-01", "2015-08-02"], "Name": ["Köln", None]}
COMMAS = "Store,Date,Name\n1,2015-08-01,Köln\n2,2015-08-02,\n"


def parquet(frame: pl.DataFrame) -> bytes:
    out = io.BytesIO()
    frame.write_parquet(out)
    return out.getvalue()


def workbook(frame: pl.DataFrame) -> bytes:
    out = io.BytesIO()
    frame.write_excel(out)
    return out.getvalue()


def typed() -> pl.DataFrame:
    return pl.DataFrame(TABLE).with_columns(
        pl.col("Store").cast(pl.Int64), pl.col("Date").str.to_date()
    )


VARIANTS = {
    "commas": COMMAS.encode(),
    "semicolons": COMMAS.replace(",", ";").encode(),
    "tabs": COMMAS.replace(",", "\t").encode(),
    "byte order mark": COMMAS.encode("utf-8-sig"),
    "utf-16": COMMAS.encode("utf-16"),
    "windows": COMMAS.replace("\n", "\r\n").encode("cp1252"),
    "quoted": b'"Store","Date","Name"\n"1","2015-08-01","K\xc3\xb6ln"\n"2","2015-08-02",""\n',
    "midnights": COMMAS.replace("-01,", "-01 00:00:00,").encode(),
    "blanks": COMMAS.replace(",", " , ").encode(),
    "empty end": (COMMAS + "\n,,\n\n").encode(),
    "gzip": gzip.compress(COMMAS.encode()),
    "parquet": parquet(typed()),
    "parquet of moments": parquet(typed().with_columns(pl.col("Date").cast(pl.Datetime))),
    "parquet of categories": parquet(typed().with_columns(pl.col("Name").cast(pl.Categorical))),
    "workbook": workbook(typed()),
    "workbook of text": workbook(pl.DataFrame(TABLE)),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_format_and_encoding_reads_the_same(variant: str) -> None:
    frame, _, _ = read_fields("upload", VARIANTS[variant])
    assert set(frame.dtypes) == {pl.String}
    assert frame.to_dict(as_series=False) == TABLE


cells = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Z"]), max_size=8)


@hypothesis(deadline=None)
@given(st.lists(st.tuples(cells, cells, st.just("x")), min_size=1, max_size=20))
def test_texts_and_their_order_are_preserved_by_each_format(
    rows: list[tuple[str, str, str]],
) -> None:
    frame = pl.DataFrame(rows, schema=["a", "b", "c"], orient="row")
    as_csv = read_table("t.csv", frame.write_csv(quote_style="always").encode())
    assert as_csv.frame.rows() == rows
    assert read_table("t.parquet", parquet(frame)).frame.rows() == rows


def test_blank_rows_between_others_are_skipped_and_said() -> None:
    table = read_table("t.csv", b"a,b\n1,2\n\n , \n3,4\n,\n\n")
    assert table.frame.rows() == [("1", "2"), ("3", "4")]
    assert table.notes == ["2 blank rows are skipped"]


def test_booleans_become_flags() -> None:
    frame = pl.DataFrame({"Open": [True, None, False]})
    columns = {"Store": [1, 2, 3], "Open": frame["Open"]}
    text, _, _ = read_fields("t", parquet(pl.DataFrame(columns)))
    assert text["Open"].to_list() == ["1", None, "0"]


def test_a_table_without_rows_has_its_columns() -> None:
    table = read_table("t.csv", b"Store,Date\n")
    assert (table.frame.height, table.columns) == (0, ["Store", "Date"])


def test_error_names_the_line_with_too_many_values() -> None:
    with pytest.raises(DataValidationError, match="line 3 has 3 values, the header has 2"):
        read_table("t.csv", b"a,b\n1,2\n3,4,5\n")


INVALID_FILES = {
    "nothing": b"",
    "blanks": b" \n\n",
    "a picture": b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR",
    "half a gzip": gzip.compress(COMMAS.encode())[:20],
    "no parquet": b"PAR1" + bytes(40),
    "half a parquet": parquet(typed())[:200],
    "no workbook": b"PK\x03\x04" + bytes(60),
    "half a workbook": workbook(typed())[:2000],
    "an old workbook that is none": b"\xd0\xcf\x11\xe0" + bytes(600),
}


@pytest.mark.parametrize("variant", INVALID_FILES)
def test_invalid_files_are_rejected_by_name(variant: str) -> None:
    with pytest.raises(DataValidationError, match=r"^upload\.x "):
        read_table("upload.x", INVALID_FILES[variant])


@hypothesis(max_examples=300, deadline=None)
@given(st.one_of(st.binary(max_size=200), st.text(max_size=200).map(str.encode)))
def test_any_bytes_are_a_table_or_rejected(content: bytes) -> None:
    try:
        read_table("upload", content)
    except DataValidationError as error:
        assert "upload" in str(error)


@hypothesis(max_examples=150, deadline=None)
@given(st.sampled_from(["parquet", "workbook", "gzip"]), st.data())
def test_damaged_files_never_raise_another_error(variant: str, data: st.DataObject) -> None:
    content = bytearray(VARIANTS[variant])
    for _ in range(data.draw(st.integers(1, 4))):
        index = data.draw(st.integers(4, len(content) - 1))
        content[index] = data.draw(st.integers(0, 255))
    try:
        read_table("upload", bytes(content))
    except DataValidationError as error:
        assert "upload" in str(error)
