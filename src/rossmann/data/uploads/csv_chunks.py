"""CSV tables of any size, read in blocks; every row is read, or the file is refused.

Quotation marks follow RFC 4180. Where each of them opens, closes or doubles, blocks are parsed by
polars, and the number of rows is compared with the line ends outside of quotes. A file with other
quotation marks, such as inch marks, is parsed by Python's strict reader, which takes them as they
are and refuses what has two readings, with its line and column.
"""

import csv
from collections.abc import Iterator
from itertools import chain
from typing import Final, Literal

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from rossmann.data.uploads.csv_dialect import OpenSource, decoded, detect_dialect
from rossmann.errors import DataValidationError

_MAX_ROW_BYTES: Final = 64 << 20
"""A row must end within this: with one quotation mark too many, it never would."""
_MAX_CELLS: Final = 4_000_000
"""Cells that are parsed at once: short rows under many names take more memory than bytes."""
_STRICT_ROWS: Final = 20_000
_QUOTE, _LF, _CR = (ord(character) for character in '"\n\r')


class CsvChunks:
    """A CSV table; every value is text as the file holds it, null where it is empty.

    ``open_source`` opens the plain file anew for each pass. Raises ``DataValidationError`` for
    what is no table.
    """

    file_format: Literal["csv"] = "csv"

    def __init__(self, name: str, open_source: OpenSource) -> None:
        self._name, self._open_source = name, open_source
        self.dialect = detect_dialect(name, open_source)
        self.columns = list(self.dialect.columns)
        self.notes = [f"the row {title!r} above the header is skipped"
                      for title in self.dialect.titles]  # fmt: skip
        self._schema = {f"c{index}": pl.String for index in range(len(self.columns))}
        self._header = (self.dialect.separator.join(self._schema) + "\n").encode()
        self._separator = ord(self.dialect.separator)
        self._has_plain_quotes = self._check_quotes()

    def read(self) -> Iterator[pa.RecordBatch]:
        """The rows in record batches, in order; the columns are named c0, c1, ..."""
        for frame in self._fast_frames() if self._has_plain_quotes else self._strict_frames():
            # The oldest Arrow types are those that every reader knows.
            table = frame.to_arrow(compat_level=pl.CompatLevel.oldest())
            yield from table.combine_chunks().to_batches()

    def _pieces(self) -> Iterator[bytes]:
        """The rows below the header as UTF-8 in pieces."""
        skip = self.dialect.body_start
        with self._open_source() as source:
            for piece in decoded(source, self.dialect.encoding):
                is_cr = self.dialect.line_end == "\r"
                yield (piece.replace(b"\r", b"\n") if is_cr else piece)[skip:]
                skip = max(skip - len(piece), 0)

    def _check_quotes(self) -> bool:
        """Whether each quotation mark opens a value, closes it, or doubles inside of one."""
        ends = (self._separator, _LF, _CR, _QUOTE)
        count, carried = 0, b"\n"
        for piece in chain(self._pieces(), (b"\n",)):
            # A mark is checked with both neighbours, so two bytes are carried over.
            data = np.frombuffer(carried + piece, np.uint8)
            marks = np.flatnonzero(data[1:-1] == _QUOTE) + 1
            opens, closes = marks[count % 2 :: 2], marks[(count + 1) % 2 :: 2]
            if not (np.isin(data[opens - 1], ends).all() and np.isin(data[closes + 1], ends).all()):
                return False
            count += len(marks)
            carried = (carried + piece)[-2:]
        return count % 2 == 0

    def _fast_frames(self) -> Iterator[pl.DataFrame]:
        """Blocks that end where a row ends, parsed by polars."""
        rest, lines = b"", self.dialect.header_lines
        for piece in self._pieces():
            rest += piece
            end = _last_row_end(rest)
            if end:
                yield from self._parse(rest[:end], lines)
                lines += rest.count(b"\n", 0, end)
                rest = rest[end:]
            elif len(rest) > _MAX_ROW_BYTES:
                msg = f"{self._name} has a row of more than {_MAX_ROW_BYTES >> 20} MB"
                raise DataValidationError(f"{msg}: is a quotation mark missing?")
        if rest:
            yield from self._parse(rest, lines)

    def _parse(self, block: bytes, lines: int) -> Iterator[pl.DataFrame]:
        ends = _row_ends(block)
        step = max(_MAX_CELLS // max(len(self.columns), 1), 1)
        for first in range(0, len(ends), step):
            begin = 0 if first == 0 else int(ends[first - 1]) + 1
            last = min(first + step, len(ends))
            part = block[begin : int(ends[last - 1]) + 1]
            frame = self._parse_part(part, lines)
            if frame.height != last - first:
                raise DataValidationError(
                    f"{self._name} cannot be read for certain: {last - first:,} rows below line"
                    f" {lines} give {frame.height:,}; check its quotation marks"
                )
            lines += part.count(b"\n")
            yield frame

    def _parse_part(self, part: bytes, lines: int) -> pl.DataFrame:
        try:
            # Without a header, the first row of a part would decide how many values rows have.
            return pl.read_csv(
                self._header + part, separator=self.dialect.separator, infer_schema=False
            )
        except pl.exceptions.PolarsError:
            # Names the line, or reads a row with more values than names where these are empty.
            text = part.decode(errors="replace").split("\n")
            text = text[:-1] if not text[-1] else text
            rows = self._strict_rows((f"{line}\n" for line in text), lines)
            return self._to_frame(list(rows))

    def _strict_frames(self) -> Iterator[pl.DataFrame]:
        rows: list[list[str]] = []
        for row in self._strict_rows(self._lines(), self.dialect.header_lines):
            rows.append(row)
            if len(rows) * len(self.columns) >= _MAX_CELLS or len(rows) >= _STRICT_ROWS:
                yield self._to_frame(rows)
                rows = []
        if rows:
            yield self._to_frame(rows)

    def _lines(self) -> Iterator[str]:
        rest = b""
        for piece in self._pieces():
            *lines, rest = (rest + piece).split(b"\n")
            yield from (line.decode(errors="replace") + "\n" for line in lines)
            if len(rest) > _MAX_ROW_BYTES:
                raise DataValidationError(
                    f"{self._name} has a line of more than {_MAX_ROW_BYTES >> 20} MB"
                )
        if rest:
            yield rest.decode(errors="replace")

    def _strict_rows(self, lines: Iterator[str], before: int) -> Iterator[list[str]]:
        """The rows by Python's strict reader; raises with line and column of what it refuses."""
        current = ""

        def watched() -> Iterator[str]:
            nonlocal current
            for line in lines:
                current = line
                yield line

        reader = csv.reader(watched(), delimiter=self.dialect.separator, strict=True)
        try:
            for row in reader:
                if any(value.strip() for value in row[len(self.columns) :]):
                    raise DataValidationError(
                        f"{self._name}: line {before + reader.line_num} has {len(row)} values,"
                        f" the header has {len(self.columns)}"
                    )
                yield row
        except csv.Error as error:
            column = _bad_quote_column(current, self.dialect.separator)
            raise DataValidationError(
                f"{self._name}: line {before + reader.line_num}, character {column}: a quotation"
                ' mark inside of a quoted value must be doubled ("")'
            ) from error

    def _to_frame(self, rows: list[list[str]]) -> pl.DataFrame:
        width = len(self.columns)
        cut = (row[:width] for row in rows)
        filled = ([value or None for value in row] + [None] * (width - len(row)) for row in cut)
        return pl.DataFrame(list(filled), self._schema, orient="row")


def _last_row_end(data: bytes) -> int:
    """The index after the last line end that is outside of quotes; 0 without one."""
    ends = _row_ends(data, with_tail=False)
    return int(ends[-1]) + 1 if len(ends) else 0


def _row_ends(data: bytes, with_tail: bool = True) -> npt.NDArray[np.intp]:
    """The indices of line ends outside of quotes, and with ``with_tail`` that of the last byte."""
    values = np.frombuffer(data, np.uint8)
    ends = np.flatnonzero(values == _LF)
    if b'"' in data:
        ends = ends[np.searchsorted(np.flatnonzero(values == _QUOTE), ends) % 2 == 0]
    if with_tail and len(values) and (not len(ends) or ends[-1] != len(values) - 1):
        ends = np.append(ends, len(values) - 1)
    return ends


def _bad_quote_column(line: str, separator: str) -> int:
    """The position, from 1, of the first quotation mark that ends a value before its end."""
    quoted, at = False, 0
    while at < len(line):
        if line[at] == '"':
            if not quoted:
                quoted = at == 0 or line[at - 1] == separator
            elif line[at + 1 : at + 2] == '"':
                at += 1
            elif line[at + 1 : at + 2] not in {separator, "\n", "\r", ""}:
                return at + 1
            else:
                quoted = False
        at += 1
    return len(line.rstrip("\r\n"))
