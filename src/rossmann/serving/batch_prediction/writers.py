"""The answer's file, written part by part as CSV, Parquet or Excel.

MERGED: Blocks from a thread to the event loop, never more than two ahead of the client.
"""

import asyncio
import math
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Final, Protocol, Self

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from rossmann.data.uploads.table_chunks import FileFormat
from rossmann.errors import ErrorDetail, RequestError, ServiceError

Send = Callable[[bytes], None]
MEDIA_TYPES: Final[dict[FileFormat, str]] = {
    "csv": "text/csv; charset=utf-8",
    "parquet": "application/vnd.apache.parquet",
    "xlsx": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
}
_GROUP: Final = 65_536
"""Rows of a row group."""
_SHEET_ROWS: Final = 1_048_575
"""What a sheet holds besides the names."""
_BLOCK: Final = 1 << 20


class Writer(Protocol):
    """Takes parts in order, and sends bytes as soon as there are enough."""

    def encode(self, part: pa.RecordBatch) -> Any:
        """What ``add`` takes; may run in any thread."""

    def write(self, made: Any) -> None:
        """The next part."""

    def close(self) -> None:
        """No part follows."""


def open_writer(
    kind: FileFormat, schema: pa.Schema, separator: str, work: Path, send: Send
) -> Writer:
    """What writes tables of ``schema``; ``work``: a folder for drafts."""
    match kind:
        case "parquet":
            return ParquetWriter(schema, send)
        case "xlsx":
            return ExcelWriter(schema, work / "answer.xlsx", send)
        case _:
            return CsvWriter(schema, separator, send)


def check_row_limit(kind: FileFormat, rows: int) -> None:
    """Raise ``RequestError`` for more rows than a file of that kind holds."""
    if kind == "xlsx" and rows > _SHEET_ROWS:
        msg = f"a sheet holds at most {_SHEET_ROWS:,} rows, not {rows:,}: ask for csv or parquet"
        raise RequestError([ErrorDetail(("format",), msg, "too_many_rows")])


class CsvWriter:
    """CSV in UTF-8; a number is written so that reading it gives the same number."""

    def __init__(self, schema: pa.Schema, separator: str, send: Send) -> None:
        self._separator = separator
        self._send = send
        names = pl.DataFrame({name: [] for name in schema.names})
        send(names.write_csv(separator=separator).encode())

    def encode(self, part: pa.RecordBatch) -> bytes:
        """The part as text."""
        frame = pl.from_arrow(part)
        assert isinstance(frame, pl.DataFrame)
        return frame.write_csv(include_header=False, separator=self._separator).encode()

    def write(self, made: bytes) -> None:
        """The next part."""
        self._send(made)

    def close(self) -> None:
        """No part follows."""


class ParquetWriter:
    """Parquet, a row group at a time."""

    def __init__(self, schema: pa.Schema, send: Send) -> None:
        self._pipe = _Pipe(send)
        self._schema = schema
        self._writer = pq.ParquetWriter(pa.PythonFile(self._pipe, mode="w"), schema)
        self._parts: list[pa.RecordBatch] = []

    def encode(self, part: pa.RecordBatch) -> pa.RecordBatch:
        """The part as it is."""
        return part

    def write(self, made: pa.RecordBatch) -> None:
        """The next part."""
        self._parts.append(made)
        if sum(map(len, self._parts)) >= _GROUP:
            self._flush()

    def _flush(self) -> None:
        self._writer.write_table(pa.Table.from_batches(self._parts, self._schema))
        self._parts = []
        self._pipe.flush()

    def close(self) -> None:
        """No part follows."""
        if self._parts:
            self._flush()
        self._writer.close()
        self._pipe.flush()


class _Pipe:
    """A file that sends what is written to it, in blocks."""

    closed = False

    def __init__(self, send: Send) -> None:
        self._send = send
        self._kept = bytearray()
        self._sent = 0

    def writable(self) -> bool:
        return True

    def write(self, data: bytes) -> int:
        self._kept += data
        if len(self._kept) >= _BLOCK:
            self.flush()
        return len(data)

    def flush(self) -> None:
        if self._kept:
            self._sent += len(self._kept)
            self._send(bytes(self._kept))
            self._kept.clear()

    def tell(self) -> int:
        return self._sent + len(self._kept)

    def close(self) -> None:
        self.flush()


class _Exact(float):
    """A number that is written with all its digits: the library itself keeps 16 of up to 17."""

    def __format__(self, _: str) -> str:
        return repr(float(self))

    @classmethod
    def of(cls, value: float) -> Self:
        return cls(value)


class ExcelWriter:
    """A workbook of one sheet. It is a zip file, so it can be sent only when it is whole."""

    def __init__(self, schema: pa.Schema, path: Path, send: Send) -> None:
        from xlsxwriter import Workbook  # type: ignore[import-untyped]

        self._path, self._send = path, send
        self._book = Workbook(str(path), {"constant_memory": True, "tmpdir": str(path.parent)})
        self._sheet = self._book.add_worksheet("Forecasts")
        self._days = self._book.add_format({"num_format": "yyyy-mm-dd"})
        for place, name in enumerate(schema.names):
            self._sheet.write_string(0, place, name)
        self._row = 1

    def encode(self, part: pa.RecordBatch) -> list[list[Any]]:
        """The values by column."""
        return [column.to_pylist() for column in part.columns]

    def write(self, made: list[list[Any]]) -> None:
        """The next part."""
        # Row by row: a row that is left can no longer be written.
        for values in zip(*made, strict=True):
            for place, value in enumerate(values):
                self._put(self._row, place, value)
            self._row += 1

    def _put(self, row: int, place: int, value: Any) -> None:
        match value:
            case None:
                return
            case bool():
                self._sheet.write_boolean(row, place, value)
            case int() if abs(value) < 10**15:
                self._sheet.write_number(row, place, value)
            case float() if math.isfinite(value):
                self._sheet.write_number(row, place, _Exact.of(value))
            case str() | int() | float():
                self._sheet.write_string(row, place, str(value))
            case _ if getattr(value, "year", 0) >= 1900 and getattr(value, "tzinfo", None) is None:
                self._sheet.write_datetime(row, place, value, self._days)
            case _:
                self._sheet.write_string(row, place, str(value))

    def close(self) -> None:
        """No part follows: send the file."""
        self._book.close()
        with self._path.open("rb") as file:
            while block := file.read(_BLOCK):
                self._send(block)


MAX_BUFFERED_BLOCKS: Final = 2
_PATIENCE: Final = 60.0
"""Seconds that a client may take nothing: who reads no answer must not keep others from theirs."""


class ClientGoneError(ServiceError):
    """Nobody waits for the answer any more."""


class BlockStream:
    """Made on the event loop; ``send`` runs in a thread, the rest on the loop."""

    def __init__(self, patience: float = _PATIENCE) -> None:
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._room = threading.Semaphore(MAX_BUFFERED_BLOCKS)
        self._patience = patience
        self._closed = False

    def send(self, block: bytes) -> None:
        """Pass a block on; waits while there is no room. Raises ``Gone``."""
        if not self._room.acquire(timeout=self._patience):
            raise ClientGoneError(f"the client took nothing for {self._patience:.0f} seconds")
        if self._closed:
            raise ClientGoneError("the client went away")
        self._loop.call_soon_threadsafe(self._queue.put_nowait, block)

    def end(self) -> None:
        """No block follows; may be called from any thread."""
        self._loop.call_soon_threadsafe(self._queue.put_nowait, None)

    async def blocks(self) -> AsyncIterator[bytes]:
        """The blocks in their order, up to the end."""
        while (block := await self._queue.get()) is not None:
            yield block
            self._room.release()

    def close(self) -> None:
        """Nobody takes blocks any more."""
        self._closed = True
        self._room.release()
