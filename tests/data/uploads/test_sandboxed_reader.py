"""Files made to take all memory or time: they are refused, and the reading process stays small."""

import io
import os
import resource
import signal
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xlsxwriter

from rossmann.data.uploads.file_formats import FileFormat, ReadCancelledError, Workspace
from rossmann.data.uploads.sandboxed_reader import ReadLimits, ReadTask, SandboxedReader
from rossmann.data.uploads.table_reader import open_table, read_table
from rossmann.errors import DataValidationError
from tests.data.uploads.test_workbook import ods, ods_row

HEADER = ["Store", "Date"]


@pytest.fixture(scope="module")
def reader() -> Iterator[SandboxedReader]:
    reader = SandboxedReader(keep=1)
    yield reader
    reader.close()


def workbook(*cells: tuple[int, int, object]) -> bytes:
    out = io.BytesIO()
    with xlsxwriter.Workbook(out) as book:
        sheet = book.add_worksheet("Plan")
        sheet.write_row(0, 0, HEADER)
        for row, column, value in cells:
            sheet.write(row, column, value)
    return out.getvalue()


def with_part(content: bytes, part: str, data: bytes) -> bytes:
    """A workbook in which one file of the archive is another one."""
    out = io.BytesIO()
    deflated = zipfile.ZIP_DEFLATED
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(out, "w", deflated) as new:
        for name in old.namelist():
            new.writestr(name, data if name == part else old.read(name))
    return out.getvalue()


def sheet(rows: bytes) -> bytes:
    """A workbook with these rows below its header, in XML."""
    start = b'<worksheet xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main">'
    head = b'<row r="1"><c r="A1" t="inlineStr"><is><t>Store</t></is></c></row>'
    xml = start + b"<sheetData>" + head + rows + b"</sheetData></worksheet>"
    return with_part(workbook(), "xl/worksheets/sheet1.xml", xml)


def many_cells() -> bytes:
    """60,000 rows that span all 16,384 columns, in 200 kB."""
    row = b'<row r="%d"><c r="XFD%d"><v>1</v></c></row>'
    return sheet(b"".join(row % (number, number) for number in range(2, 60_000)))


def parquet(**columns: pa.Array) -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.table(columns), out, compression="zstd")
    return out.getvalue()


def repeated_cells() -> bytes:
    """A million rows of 16,000 equal cells in an .ods file of 1 kB."""
    cell = '<table:table-cell table:number-columns-repeated="16000" office:value-type="float"'
    row = ods_row(
        f'{cell} office:value="1"><text:p>1</text:p></table:table-cell>',
        attributes='table:number-rows-repeated="1000000"',
    )
    return ods(row)


BOMBS = {
    "a far cell": lambda: workbook((1_048_575, 16_383, 1)),
    "wide rows": many_cells,
    "a large part": lambda: with_part(
        workbook((1, 0, "x")), "xl/sharedStrings.xml", b"<sst><si><t>" + b"x" * (500 << 20)
    ),
    "repeated cells": repeated_cells,
    "long texts": lambda: parquet(Store=pa.array(["x" * (200 << 20)])),
    "long texts, often": lambda: parquet(
        Store=pa.DictionaryArray.from_arrays([0] * 20_000, ["x" * 50_000])
    ),
}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_refused(name: str, reader: SandboxedReader) -> None:
    content = BOMBS[name]()
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    with pytest.raises(DataValidationError, match=r"^plan (needs more than|is |has |holds )"):
        read_table("plan", content, reader=reader)
    assert time.monotonic() - began < 60
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 << 10
    good = workbook((1, 0, 7), (1, 1, "2015-08-13"))
    assert read_table("plan", good, reader=reader).frame.rows() == [(7, "2015-08-13")]


def test_what_takes_too_long_is_refused() -> None:
    reader = SandboxedReader(ReadLimits(seconds=0.05))
    with pytest.raises(DataValidationError, match=r"plan takes more than 0\.05 seconds to read"):
        read_table("plan", workbook((1, 0, 7)), reader=reader)


def test_work_for_nobody_ends(reader: SandboxedReader, tmp_path: Path) -> None:
    rows = b"".join(b'<row r="%d"><c><v>1</v></c></row>' % n for n in range(2, 900_000))
    (tmp_path / "plan").write_bytes(sheet(rows))
    cancelled = threading.Event()
    threading.Timer(0.2, cancelled.set).start()
    began = time.monotonic()
    with pytest.raises(ReadCancelledError):
        open_table(
            "plan", tmp_path / "plan", Workspace(tmp_path, 1 << 30, cancelled.is_set), None, reader
        )
    assert time.monotonic() - began < 20


def test_a_process_that_was_killed_is_replaced(reader: SandboxedReader, tmp_path: Path) -> None:
    good = workbook((1, 0, 7))
    for _ in range(2):
        assert len(read_table("plan", good, reader=reader).frame) == 1
        (child,) = reader.process_ids()
        os.kill(child, signal.SIGKILL)
        os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)


@pytest.mark.parametrize("file_format", ["xlsx", "parquet"])
def test_processes_are_kept_and_ended(file_format: FileFormat, tmp_path: Path) -> None:
    path = tmp_path / "plan"
    if file_format == "xlsx":
        path.write_bytes(workbook((1, 0, 7)))
    else:
        pl.DataFrame({"Store": [7], "Date": ["x"]}).write_parquet(path)
    reader = SandboxedReader(keep=1)
    reader.warm_up()
    (first,) = reader.process_ids()
    for _ in range(2):
        task = ReadTask("plan", file_format, str(path), str(tmp_path / "out"), 1 << 20)
        assert reader.read(task).columns == HEADER
        assert reader.process_ids() == [first]
    reader.close()
    assert reader.process_ids() == []
    with pytest.raises(ProcessLookupError):
        os.kill(first, 0)
