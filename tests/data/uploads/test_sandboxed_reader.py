"""Files made to take all memory or time: they are refused, and the reading process stays small."""

import os
import resource
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest

from rossmann.data.uploads.file_formats import FileFormat, ReadCancelledError, Workspace
from rossmann.data.uploads.sandboxed_reader import ReadLimits, ReadTask, SandboxedReader
from rossmann.data.uploads.table_reader import open_table, read_table
from rossmann.errors import DataValidationError
from tests.fixtures.bombs import HEADER, WORKBOOK_BOMBS, sheet, workbook


@pytest.fixture(scope="module")
def reader() -> Iterator[SandboxedReader]:
    reader = SandboxedReader(keep=1)
    yield reader
    reader.close()


@pytest.mark.parametrize("name", WORKBOOK_BOMBS)
def test_bombs_are_refused(name: str, reader: SandboxedReader) -> None:
    content = WORKBOOK_BOMBS[name]()
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
