"""The whole reader on tables of made-up formats, dialects, values and damage.

Rows in are equal rows out at their true positions, or the file is refused with its reason. Some
300 tables in a test run, 20,000 by night (``HYPOTHESIS_PROFILE=nightly``).
"""

import codecs
import csv
import os
import tempfile
from collections.abc import Callable
from datetime import date
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis
from hypothesis import strategies as st

from rossmann.data.prepare_predictions import read_upload
from rossmann.data.uploads import csv_dialect, fields
from rossmann.data.uploads.file_formats import Workspace
from rossmann.data.uploads.table_reader import ReadOptions, open_table, read_fields, read_table
from rossmann.data.uploads.value_formats import AmbiguousDatesError, AmbiguousNumbersError
from rossmann.data.uploads.workbook import SeveralSheetsError
from rossmann.errors import DataValidationError
from tests.fixtures.tables import (
    DATE_WRITERS,
    FIELDS,
    GERMAN,
    NUMBER_WRITERS,
    PACKERS,
    WRITERS,
    Row,
    Style,
    read_values,
    write_csv,
)

NIGHTLY = os.environ.get("HYPOTHESIS_PROFILE") == "nightly"
pytestmark = pytest.mark.timeout(3_600 if NIGHTLY else 300)
quick = hypothesis(
    max_examples=8_000 if NIGHTLY else 120, deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)  # fmt: skip
few = hypothesis(
    max_examples=4_000 if NIGHTLY else 60, deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)  # fmt: skip
AMBIGUOUS = (AmbiguousDatesError, AmbiguousNumbersError)

flags = st.sampled_from([0, 1])
sales = st.one_of(st.integers(0, 60_000), st.integers(0, 120_000).map(lambda half: half / 2))
days = st.dates(date(2013, 1, 1), date(2016, 12, 31))
codes = st.text("0123456789", min_size=1, max_size=6)
FORMATS = st.sampled_from(["csv"] * 8 + ["xlsx", "xls", "ods", "parquet"])


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small tables are read in several blocks, and by their distinct values where these repeat."""
    monkeypatch.setattr(csv_dialect, "BLOCK_BYTES", 97)
    monkeypatch.setattr(fields, "_SAMPLE_ROWS", 3)


def tables(notes: st.SearchStrategy[str]) -> st.SearchStrategy[list[Row]]:
    holidays = st.sampled_from("0abc")
    stores = st.integers(1, 2_000)
    row = st.tuples(stores, days, flags, flags, holidays, flags, sales, notes, codes)
    return st.lists(row, min_size=1, max_size=7)


odd_notes = st.text(st.sampled_from("ab1ä\"'\\,;|=\t \n"), max_size=6)
plain_notes = st.text(st.sampled_from("ab1ä\"',;|=<&"), max_size=6)
styles = st.builds(
    Style,
    names=st.sampled_from(
        [FIELDS, GERMAN, tuple(f.upper() for f in FIELDS), tuple(f" {f} " for f in FIELDS)]
    ),
    dates=st.sampled_from(sorted(DATE_WRITERS)),
    midnights=st.sampled_from(["", "", " 00:00:00", " 0:00", "T00:00:00Z"]),
    numbers=st.sampled_from(sorted(NUMBER_WRITERS)),
    titles=st.lists(st.sampled_from(["Plan 2015", "", "Filiale Nord"]), max_size=2).map(tuple),
    blanks=st.lists(st.integers(0, 7), max_size=2).map(lambda rows: tuple(sorted(rows))),
    separator=st.sampled_from([",", ";", "\t", "|"]),
    line_end=st.sampled_from(["\n", "\r\n", "\r"]),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "cp1252"]),
    sep_line=st.booleans(),
)


def read_streamed(content: bytes) -> tuple[int, list[str]]:
    """The number of rows, and their positions, of a table that is read in chunks."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "body"
        path.write_bytes(content)
        table = open_table("upload", path, Workspace(Path(folder), 1 << 24))
        count, positions = 0, list[str]()
        for batch, numbers in table.numbered():
            count += len(batch)
            positions += map(table.position, numbers.tolist())
    return count, positions


def options_of(style: Style) -> ReadOptions:
    return ReadOptions(style.dates, "," if style.decimal == "," else ".")


def check_fields(
    content: bytes, options: ReadOptions, rows: list[Row], positions: list[str]
) -> None:
    frame, table, _ = read_fields("upload", content, options)
    assert [*frame.columns[:-2], *(name.title() for name in frame.columns[-2:])] == list(FIELDS)
    assert [list(row) for row in frame.rows()] == [read_values(row) for row in rows]
    assert [table.position(row) for row in range(frame.height)] == positions


@quick
@given(st.data(), FORMATS, styles, st.sampled_from(["plain"] * 4 + ["gzip", "zip"]))
def test_tables_are_read_back_at_their_positions(
    data: st.DataObject, file_format: str, style: Style, packed: str
) -> None:
    rows = data.draw(tables(odd_notes if file_format == "csv" else plain_notes))
    content, positions = WRITERS[file_format](rows, style)
    content = PACKERS[packed](content)
    check_fields(content, options_of(style), rows, positions)
    assert read_streamed(content) == (len(rows), positions)
    try:
        read_fields("upload", content)
    except AMBIGUOUS:
        return
    check_fields(content, ReadOptions(), rows, positions)


def test_values_without_a_mark_are_never_ambiguous() -> None:
    rows = [(1, date(2015, 8, 1), 1, 0, "0", 1, 999, "", "1")]
    content, positions = write_csv(rows, Style(separator=";"))
    check_fields(content, ReadOptions(), rows, positions)


LINES: dict[str, Callable[[list[str], Style], list[str]]] = {
    "a second header": lambda texts, style: list(style.names),
    "totals": lambda texts, style: ["Total", "", "", "", "", "", "7"],
    "a value too few": lambda texts, style: texts[:-1],
    "blanks after the last value": lambda texts, style: [*texts, "", " "],
    "a value too many": lambda texts, style: [*texts, "x"],
}


@few
@given(tables(odd_notes), styles, st.sampled_from(sorted(LINES)), st.data())
def test_a_line_that_does_not_fit_is_one_row_or_refuses_the_file(
    rows: list[Row], style: Style, kind: str, data: st.DataObject
) -> None:
    """No other row is lost, invented or moved to another column."""
    at = data.draw(st.integers(0, len(rows) - 1))
    line = LINES[kind](style.texts(rows[at]), style)
    content, positions = write_csv(rows, style, {at: line})
    try:
        frame, table, _ = read_fields("upload", content, options_of(style))
    except DataValidationError as error:
        assert kind == "a value too many"
        assert f"upload: {positions[at]} has {len(FIELDS) + 1} values" in str(error)
        return
    assert kind != "a value too many"
    read = [list(row) for row in frame.rows()]
    assert [table.position(row) for row in range(frame.height)] == positions
    del read[at]
    assert read == [read_values(row) for index, row in enumerate(rows) if index != at]


BYTES = [
    b"\x00",
    b'"',
    b"'",
    b"\n",
    b"\r",
    b",",
    b";",
    b"\xff",
    b"\x80",
    b"PK\x03\x04",
    b"\x1f\x8b",
]
MARKS = [codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_LE]


@st.composite
def damaged(draw: st.DrawFn, content: bytes) -> bytes:
    """A file after one or two accidents."""
    for _ in range(draw(st.integers(1, 2))):
        at = draw(st.integers(0, len(content)))
        match draw(st.sampled_from(["cut", "lost", "flipped", "added", "mark", "encoding"])):
            case "cut":
                content = content[:at]
            case "lost":
                content = content[:at] + content[at + draw(st.integers(1, 40)) :]
            case "flipped":
                value = draw(st.integers(0, 255))
                content = content[:at] + bytes([value]) + content[at + 1 :]
            case "added":
                content = content[:at] + draw(st.sampled_from(BYTES)) + content[at:]
            case "mark":
                content = draw(st.sampled_from(MARKS)) + content
            case _:
                wrong = draw(st.sampled_from(["utf-16-le", "utf-16-be", "utf-32", "cp437"]))
                content = content.decode("latin-1").encode(wrong, "replace")
    return content


@quick
@given(
    st.data(), tables(plain_notes), FORMATS, styles,
    st.sampled_from(["plain"] * 3 + ["gzip", "zip"]), st.sampled_from(["plain"] * 3 + ["zip"]),
)  # fmt: skip
def test_damage_is_read_alike_by_all_or_refused_with_a_reason(
    data: st.DataObject, rows: list[Row], file_format: str, style: Style, inner: str, outer: str
) -> None:
    content, _ = WRITERS[file_format](rows, style)
    content = data.draw(damaged(PACKERS[inner](content)))
    content = PACKERS[outer](content)
    try:
        count, _ = read_streamed(content)
    except DataValidationError as error:
        assert "upload" in str(error)
        with pytest.raises(DataValidationError):
            read_table("upload", content)
        return
    table = read_table("upload", content)
    assert table.frame.height == count == len(table.positions)
    try:
        frame, _, _ = read_fields("upload", content)
        assert frame.height == count
    except AMBIGUOUS:
        pass
    except DataValidationError as error:
        assert "upload" in str(error)
    try:
        upload = read_upload("upload", content)
    except (*AMBIGUOUS, SeveralSheetsError):
        return
    except DataValidationError as error:
        assert "upload" in str(error)
        return
    faulty = {int(error.loc[0]) - 1 for error in upload.errors}
    assert sorted([*faulty, *upload.index.tolist()]) == list(range(count))
