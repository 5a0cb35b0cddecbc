"""CSV of any size in parts: what ``upload_tables`` does to a whole table, block by block."""

import codecs
import csv
import gzip
import io
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Literal

import polars as pl
import pyarrow as pa

from rossmann.data.uploads.table_reader import SEPARATORS, first_line
from rossmann.errors import DataValidationError

_BLOCK: Final = 4 << 20
_LONGEST: Final = 64 << 20
"""Bytes in which a row must end: with one quote too many, it never would."""


MOST_COLUMNS: Final = 1_000


class CsvChunks:
    """A CSV file, opened; every value is text as it stands there, null where there is none."""

    kind: Literal["csv", "parquet", "xlsx"] = "csv"

    def __init__(self, name: str, path: Path, work: Path, most: int) -> None:
        self._name = name
        self._path, self._skip = _as_utf8(name, _unpacked(name, path, work, most), work)
        first = next(self._blocks(), b"").decode("utf-8", errors="replace")
        if not first:
            raise DataValidationError(f"{name} is empty")
        self._header = _first_row(first)
        bare = re.sub(r'"[^"]*"', "", self._header)
        self.separator = max(SEPARATORS, key=bare.count)
        if bare.count(self.separator) >= MOST_COLUMNS:
            raise DataValidationError(f"{name} has more than {MOST_COLUMNS:,} columns")
        self.columns = self._read(b"", 0).columns

    def read(self) -> Iterator[pa.RecordBatch]:
        """The rows in parts of some megabytes, in order.

        Raises ``BrokenRule`` for what is no table.
        """
        done = 0
        for number, block in enumerate(self._blocks()):
            rows = block[len(self._header.encode()) + 1 :] if number == 0 else block
            frame = self._read(rows, done)
            done += frame.height
            yield from arrow_batches(frame)

    def _read(self, rows: bytes, done: int) -> pl.DataFrame:
        # Under the header again, every block is read as it would be in its place.
        content = self._header.encode() + b"\n" + rows
        try:
            frame = pl.read_csv(content, separator=self.separator, infer_schema=False)
        except pl.exceptions.PolarsError as error:
            why = self._why(content, done) or first_line(error)
            raise DataValidationError(f"{self._name} is no CSV table: {why}") from error
        return frame.rename(lambda column: column.strip()) if frame.width else frame

    def _why(self, content: bytes, done: int) -> str:
        """Name the first row with too many values, which is the usual reason."""
        text = io.StringIO(content.decode(errors="replace"), newline="")
        lines = csv.reader(text, delimiter=self.separator)
        try:
            width = len(next(lines))
            for row, line in enumerate(lines, done + 1):
                if len(line) > width:
                    return f"row {row} has {len(line)} values, the first line {width} names"
        except (csv.Error, StopIteration):
            pass
        return ""

    def _blocks(self) -> Iterator[bytes]:
        """The file in pieces that end where a row ends."""
        rest = b""
        begun = False
        with self._path.open("rb") as file:
            file.seek(self._skip)
            while piece := file.read(_BLOCK):
                rest += piece
                if not begun:
                    rest = rest.lstrip(b"\r\n \t")
                    begun = bool(rest)
                cut = _last_end(rest)
                if cut:
                    yield rest[:cut]
                    rest = rest[cut:]
                elif len(rest) > _LONGEST:
                    msg = f"{self._name} has a row of more than {_LONGEST >> 20} MB"
                    raise DataValidationError(f"{msg}: is a quotation mark missing?")
        if rest:
            yield rest


def arrow_batches(frame: pl.DataFrame) -> Iterator[pa.RecordBatch]:
    """A frame as batches of Arrow, with kinds that every reader knows."""
    table = frame.to_arrow(compat_level=pl.CompatLevel.oldest())
    yield from table.combine_chunks().to_batches()


def _first_row(text: str) -> str:
    """The text up to the first line end that is outside of quotation marks."""
    end = text.find("\n")
    while end >= 0 and text.count('"', 0, end) % 2:
        end = text.find("\n", end + 1)
    return text if end < 0 else text[:end]


def _last_end(data: bytes) -> int:
    """Behind the last line end that is outside of quotation marks; 0 where there is none.

    ``data`` begins outside of them.
    """
    end = data.rfind(b"\n")
    inside = data.count(b'"', 0, max(end, 0)) % 2 == 1
    while end >= 0 and inside:
        quote = data.rfind(b'"', 0, end)
        end = data.rfind(b"\n", 0, quote)
        # Every quotation mark between the two ends has been left behind.
        inside = data.count(b'"', 0, max(end, 0)) % 2 == 1
    return end + 1


def _unpacked(name: str, path: Path, work: Path, most: int) -> Path:
    with path.open("rb") as file:
        if file.read(2) != b"\x1f\x8b":
            return path
    plain, size = work / "unpacked", 0
    try:
        with gzip.open(path) as packed, plain.open("wb") as out:
            while piece := packed.read(_BLOCK):
                size += len(piece)
                if size > most:
                    raise DataValidationError(
                        f"{name} holds more than {most >> 20:,} MB: send it in parts"
                    )
                out.write(piece)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataValidationError(f"{name} is a damaged gzip file: {first_line(error)}") from error
    return plain


def _as_utf8(name: str, path: Path, work: Path) -> tuple[Path, int]:
    """The same text in UTF-8, and how many bytes at its begin are no text."""
    with path.open("rb") as file:
        head = file.read(3)
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return _rewritten(path, "utf-16", work), 0
    decoder = codecs.getincrementaldecoder("utf-8")()
    good = True
    with path.open("rb") as file:
        while piece := file.read(_BLOCK):
            if b"\x00" in piece:
                raise DataValidationError(
                    f"{name} is no table: it must be CSV, Parquet or Excel (.xlsx)"
                )
            good = good and _decodes(decoder, piece, False)
    if good and _decodes(decoder, b"", True):
        return path, 3 if head == codecs.BOM_UTF8 else 0
    return _rewritten(path, "cp1252", work), 0


def _decodes(decoder: codecs.IncrementalDecoder, piece: bytes, final: bool) -> bool:
    try:
        decoder.decode(piece, final)
    except UnicodeDecodeError:
        return False
    return True


def _rewritten(path: Path, encoding: str, work: Path) -> Path:
    plain = work / "plain"
    with (
        path.open(encoding=encoding, errors="replace", newline="") as source,
        plain.open("w", encoding="utf-8", newline="") as out,
    ):
        while piece := source.read(_BLOCK):
            out.write(piece)
    return plain
