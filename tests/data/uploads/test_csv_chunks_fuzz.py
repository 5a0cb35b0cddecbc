"""CSV against Python's own reader: rows in equal rows out, or the file is refused.

Some hundred tables in a test run, some ten thousand by night (``HYPOTHESIS_PROFILE=nightly``).
"""

import codecs
import csv
import io
import os
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis
from hypothesis import strategies as st

from rossmann.data.uploads import csv_chunks, csv_dialect
from rossmann.data.uploads.table_reader import read_table
from rossmann.errors import DataValidationError

EXAMPLES = 10_000 if os.environ.get("HYPOTHESIS_PROFILE") == "nightly" else 250
ENCODINGS = {"utf-8": b"", "utf-8-sig": b"", "utf-16-le": codecs.BOM_UTF16_LE, "cp1252": b""}
HEADER = ["Store", "Date", "Note"]
values = st.text(st.sampled_from("ab1ä\"'\\,;|\t \n"), max_size=6)
tables = st.lists(st.tuples(values, values, values), min_size=1, max_size=12)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv_dialect, "BLOCK_BYTES", 61)
    monkeypatch.setattr(csv_chunks, "_MAX_CELLS", 15)


def is_blank(row: Any) -> bool:
    return not any(value and value.strip() for value in row)


@hypothesis(max_examples=EXAMPLES, deadline=None)
@given(
    tables,
    st.sampled_from([",", ";", "\t", "|"]),
    st.sampled_from(["\n", "\r\n"]),
    st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC]),
    st.sampled_from(sorted(ENCODINGS)),
    st.lists(st.sampled_from(["Plan 2015", "", " "]), max_size=2),
)
def test_written_tables_are_read_back(
    rows: list[tuple[str, str, str]],
    separator: str,
    line_end: str,
    quoting: Any,
    encoding: str,
    titles: list[str],
) -> None:
    out = io.StringIO()
    for title in titles:
        out.write(title + line_end)
    writer = csv.writer(out, delimiter=separator, lineterminator=line_end, quoting=quoting)
    writer.writerows([HEADER, *rows])
    content = ENCODINGS[encoding] + out.getvalue().encode(encoding)
    table = read_table("t", content)
    assert table.columns == HEADER
    read = [tuple(value or "" for value in row) for row in table.frame.rows()]
    assert read == [row for row in rows if not is_blank(row)]


bodies = st.lists(st.sampled_from(['"', '""', ",", "\n", "\r\n", "a", "1", " ", 'x"y', "ä"]))


@hypothesis(max_examples=EXAMPLES, deadline=None)
@given(bodies)
def test_any_body_gives_the_rows_of_a_strict_reader_or_is_refused(parts: list[str]) -> None:
    body = "".join(parts)
    text = f"{','.join(HEADER)}\n{body}"
    try:
        lines = io.StringIO(text, newline="\n").readlines()
        expected = [row for row in csv.reader(lines, strict=True) if not is_blank(row)][1:]
    except csv.Error:
        expected = None
    width = len(HEADER)
    if expected is None or any("".join(row[width:]).strip() for row in expected):
        with pytest.raises(DataValidationError):
            read_table("t", text.encode())
        return
    missing = "nothing: the row has 1 of 3 values"
    padded = [
        (row[0], missing, "") if len(row) == 1 else (*row, "", "")[:width] for row in expected
    ]
    frame = read_table("t", text.encode()).frame
    assert [tuple(value or "" for value in row) for row in frame.rows()] == padded
