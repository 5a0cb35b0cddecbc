"""CSV tables of any size, read in blocks: gzip, encoding, separator and header.

Commas, semicolons or tabs; UTF-8 (with or without a byte order mark), UTF-16 or Windows-1252.
"""

import codecs
import csv
import gzip
import io
import re
import zlib
from collections.abc import Callable, Iterator
from typing import IO, Final, Literal

import polars as pl
import pyarrow as pa

from rossmann.errors import DataValidationError, first_line

GZIP_MAGIC: Final = b"\x1f\x8b"
MAX_COLUMNS: Final = 1_000
_SEPARATORS: Final = (",", ";", "\t")
_BLOCK_BYTES: Final = 4 << 20
_MAX_ROW_BYTES: Final = 64 << 20
"""A row must end within this: with one quotation mark too many, it never would."""


class CsvChunks:
    """A CSV table; every value is text as the file holds it, null where it is empty.

    ``open_source`` opens the plain file anew for each pass. ``unit``: whether error messages
    count data rows or the file's lines. Raises ``DataValidationError`` for what is no table.
    """

    file_format: Literal["csv", "parquet", "xlsx"] = "csv"

    def __init__(
        self, name: str, open_source: Callable[[], IO[bytes]], unit: Literal["row", "line"] = "row"
    ) -> None:
        self._name, self._open_source, self._unit = name, open_source, unit
        self._encoding = _detect_encoding(name, open_source)
        first_block = next(self._blocks(), b"")
        if not first_block:
            raise DataValidationError(f"{name} is empty")
        self._header = _first_row(first_block)
        unquoted = re.sub(r'"[^"]*"', "", self._header.decode(errors="replace"))
        self.separator = max(_SEPARATORS, key=unquoted.count)
        if unquoted.count(self.separator) >= MAX_COLUMNS:
            raise DataValidationError(f"{name} has more than {MAX_COLUMNS:,} columns")
        self.columns = [column.strip() for column in self._parse(b"", 0, 0).columns]

    def read(self) -> Iterator[pa.RecordBatch]:
        """The rows in record batches of some megabytes, in order."""
        for frame in self.frames():
            # the oldest Arrow types are those that every reader knows
            table = frame.to_arrow(compat_level=pl.CompatLevel.oldest())
            yield from table.rename_columns(self.columns).combine_chunks().to_batches()

    def frames(self) -> Iterator[pl.DataFrame]:
        """The rows in frames, in order, under the column names as the file holds them."""
        n_rows, n_lines = 0, self._header.count(b"\n") + 1
        for number, block in enumerate(self._blocks()):
            rows = block[len(self._header) + 1 :] if number == 0 else block
            frame = self._parse(rows, n_rows, n_lines)
            n_rows += frame.height
            n_lines += rows.count(b"\n")
            yield frame

    def _parse(self, rows: bytes, rows_before: int, lines_before: int) -> pl.DataFrame:
        # With the header again, every block is parsed as it would be in the whole file.
        content = self._header + b"\n" + rows
        try:
            return pl.read_csv(content, separator=self.separator, infer_schema=False)
        except pl.exceptions.PolarsError as error:
            reason = self._too_many_values(content, rows_before, lines_before) or first_line(error)
            raise DataValidationError(f"{self._name} is no CSV table: {reason}") from error

    def _too_many_values(self, content: bytes, rows_before: int, lines_before: int) -> str:
        """Name the first row that has more values than the header; empty where none has."""
        text = io.StringIO(content.decode(errors="replace"), newline="")
        reader = csv.reader(text, delimiter=self.separator)
        try:
            width = len(next(reader))
            header_lines = reader.line_num
            for row, values in enumerate(reader, rows_before + 1):
                if len(values) > width:
                    line = lines_before + reader.line_num - header_lines
                    number = row if self._unit == "row" else line
                    return (
                        f"{self._unit} {number} has {len(values)} values, "
                        f"the first line {width} names"
                    )
        except (csv.Error, StopIteration):
            pass
        return ""

    def _blocks(self) -> Iterator[bytes]:
        """The table as UTF-8, without leading blank lines, in blocks that end where a row ends."""
        rest, started = b"", False
        with self._open_source() as source:
            for piece in _decoded(source, self._encoding):
                rest += piece
                if not started:
                    rest = rest.lstrip(b"\r\n \t")
                    started = bool(rest)
                end = _last_row_end(rest)
                if end:
                    yield rest[:end]
                    rest = rest[end:]
                elif len(rest) > _MAX_ROW_BYTES:
                    msg = f"{self._name} has a row of more than {_MAX_ROW_BYTES >> 20} MB"
                    raise DataValidationError(f"{msg}: is a quotation mark missing?")
        if rest:
            yield rest


def gunzip(name: str, source: IO[bytes], target: IO[bytes], max_bytes: int) -> None:
    """Unpack ``source`` into ``target``; raises ``DataValidationError`` above ``max_bytes``."""
    size = 0
    try:
        with gzip.open(source) as packed:
            while piece := packed.read(_BLOCK_BYTES):
                size += len(piece)
                if size > max_bytes:
                    raise DataValidationError(
                        f"{name} holds more than {max_bytes >> 20:,} MB: send it in parts"
                    )
                target.write(piece)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataValidationError(f"{name} is a damaged gzip file: {first_line(error)}") from error


def _detect_encoding(name: str, open_source: Callable[[], IO[bytes]]) -> str:
    """The codec of the whole file; raises ``DataValidationError`` for a binary file."""
    decoder, is_utf8 = codecs.getincrementaldecoder("utf-8")(), True
    with open_source() as source:
        head = source.read(3)
        if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            return "utf-16"
        piece = head + source.read(_BLOCK_BYTES)
        while piece:
            if b"\x00" in piece:
                raise DataValidationError(
                    f"{name} is no table: it must be CSV, Parquet or Excel (.xlsx)"
                )
            is_utf8 = is_utf8 and _can_decode(decoder, piece, final=False)
            piece = source.read(_BLOCK_BYTES)
    if is_utf8 and _can_decode(decoder, b"", final=True):
        return "utf-8-sig" if head == codecs.BOM_UTF8 else "utf-8"
    return "cp1252"


def _can_decode(decoder: codecs.IncrementalDecoder, piece: bytes, final: bool) -> bool:
    try:
        decoder.decode(piece, final)
    except UnicodeDecodeError:
        return False
    return True


def _decoded(source: IO[bytes], encoding: str) -> Iterator[bytes]:
    """The bytes of ``source`` in pieces, as UTF-8."""
    if encoding == "utf-8-sig":
        source.seek(len(codecs.BOM_UTF8))
    if encoding.startswith("utf-8"):
        while piece := source.read(_BLOCK_BYTES):
            yield piece
        return
    decoder = codecs.getincrementaldecoder(encoding)(errors="replace")
    while piece := source.read(_BLOCK_BYTES):
        yield decoder.decode(piece).encode()
    yield decoder.decode(b"", final=True).encode()


def _first_row(data: bytes) -> bytes:
    """The bytes up to the first line end that is outside of quotation marks."""
    end = data.find(b"\n")
    while end >= 0 and data.count(b'"', 0, end) % 2:
        end = data.find(b"\n", end + 1)
    return data if end < 0 else data[:end]


def _last_row_end(data: bytes) -> int:
    """The index after the last line end that is outside of quotation marks; 0 without one.

    ``data`` begins outside of quotation marks.
    """
    end = data.rfind(b"\n")
    quoted = data.count(b'"', 0, max(end, 0)) % 2 == 1
    while end >= 0 and quoted:
        quote = data.rfind(b'"', 0, end)
        end = data.rfind(b"\n", 0, quote)
        # Several quotation marks may lie between the two line ends.
        quoted = data.count(b'"', 0, max(end, 0)) % 2 == 1
    return end + 1
