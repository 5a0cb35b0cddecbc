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
from rossmann.data.uploads.fields import REQUIRED_FIELDS, known_name
from rossmann.data.uploads.parquet_chunks import Positions
from rossmann.errors import DataValidationError

_MAX_ROW_BYTES: Final = 64 << 20
"""A row must end within this: with one quotation mark too many, it never would."""
_MAX_CELLS: Final = 4_000_000
"""Cells that are parsed at once: short rows under many names take more memory than bytes."""
_MAX_TABLE_CELLS: Final = 250_000_000
"""Cells of a table: a row of one byte under a thousand names takes the time of a thousand."""
_STRICT_ROWS: Final = 20_000
_QUOTE, _LF, _CR = (ord(character) for character in '"\n\r')
Indices = npt.NDArray[np.intp]


class CsvChunks:
    """A CSV table; every value is text as the file holds it, null where it is empty.

    ``open_source`` opens the plain file anew for each pass. Raises ``DataValidationError`` for
    what is no table.
    """

    file_format: Literal["csv"] = "csv"
    position_unit: Literal["line"] = "line"

    def __init__(self, name: str, open_source: OpenSource) -> None:
        self._name, self._open_source = name, open_source
        self.dialect = detect_dialect(name, open_source)
        self.columns = list(self.dialect.columns)
        self.notes = [f"the row {title!r} above the header is skipped"
                      for title in self.dialect.titles]  # fmt: skip
        self._schema = {f"c{index}": pl.String for index in range(len(self.columns))}
        self._header = (self.dialect.separator.join(self._schema) + "\n").encode()
        self._ends_value = np.zeros(256, np.bool_)
        self._ends_value[[ord(self.dialect.separator), _LF, _CR, _QUOTE]] = True
        fields = {known_name(column): index for index, column in enumerate(self.columns)}
        self._required = [fields[field] for field in REQUIRED_FIELDS if field in fields]
        self._has_plain_quotes = self._check_quotes()

    def read(self) -> Iterator[tuple[pa.RecordBatch, Positions]]:
        """The rows in record batches, in order, and the line in which each begins.

        The columns are named c0, c1, ...
        """
        for frame, lines in self.frames():
            # The oldest Arrow types are those that every reader knows.
            table = frame.to_arrow(compat_level=pl.CompatLevel.oldest())
            yield from ((batch, lines) for batch in table.combine_chunks().to_batches())

    def frames(self) -> Iterator[tuple[pl.DataFrame, Positions]]:
        """The same in polars' own frames, which saves two copies."""
        cells = 0
        for frame, lines in (
            self._fast_frames() if self._has_plain_quotes else self._strict_frames()
        ):
            cells += frame.height * frame.width
            if cells > _MAX_TABLE_CELLS:
                raise DataValidationError(
                    f"{self._name} holds more than {_MAX_TABLE_CELLS:,} values: send it in parts"
                )
            yield frame, lines

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
        count, carried = 0, b"\n"
        for piece in chain(self._pieces(), (b"\n",)):
            # A mark is checked with both neighbours, so two bytes are carried over.
            data = np.frombuffer(carried + piece, np.uint8)
            marks = np.flatnonzero(data[1:-1] == _QUOTE) + 1
            if len(marks):
                opens, closes = marks[count % 2 :: 2], marks[(count + 1) % 2 :: 2]
                before, after = data[opens - 1], data[closes + 1]
                if not (self._ends_value[before].all() and self._ends_value[after].all()):
                    return False
                count += len(marks)
            carried = (carried + piece)[-2:]
        return count % 2 == 0

    def _fast_frames(self) -> Iterator[tuple[pl.DataFrame, Positions]]:
        """Blocks that end where a row ends, parsed by polars."""
        rest, lines = b"", self.dialect.header_lines
        for piece in self._pieces():
            rest = rest + piece if rest else piece
            line_ends, row_ends = _line_and_row_ends(rest)
            if len(row_ends):
                end = int(row_ends[-1]) + 1
                line_ends = line_ends[: np.searchsorted(line_ends, end)]
                yield from self._parse(rest[:end], line_ends, row_ends, lines)
                lines += len(line_ends)
                rest = rest[end:]
            elif len(rest) > _MAX_ROW_BYTES:
                msg = f"{self._name} has a row of more than {_MAX_ROW_BYTES >> 20} MB"
                raise DataValidationError(f"{msg}: is a quotation mark missing?")
        if rest:
            line_ends, _ = _line_and_row_ends(rest)
            yield from self._parse(rest, line_ends, np.array([len(rest) - 1]), lines)

    def _parse(
        self, block: bytes, line_ends: Indices, row_ends: Indices, lines: int
    ) -> Iterator[tuple[pl.DataFrame, Positions]]:
        """The rows of a block, of which ``lines`` lines come before it."""
        starts = np.concatenate(([0], row_ends[:-1] + 1))
        if len(line_ends) == len(row_ends):
            first_lines = np.arange(lines + 1, lines + 1 + len(row_ends))
        else:
            first_lines = np.searchsorted(line_ends, starts) + lines + 1
        step = max(_MAX_CELLS // max(len(self.columns), 1), 1)
        for first in range(0, len(row_ends), step):
            last = min(first + step, len(row_ends))
            part = block[int(starts[first]) : int(row_ends[last - 1]) + 1]
            before = int(first_lines[first]) - 1
            frame = self._parse_part(part, before)
            if frame.height != last - first:
                raise DataValidationError(
                    f"{self._name} cannot be read for certain: {last - first:,} rows below line"
                    f" {before} give {frame.height:,}; check its quotation marks"
                )
            # A row that is too short has no value in the last of the required columns.
            if self._required and frame.to_series(max(self._required)).null_count():
                counts = self._value_counts(part, row_ends[first:last] - starts[first])
                frame = self._with_missing(frame, counts)
            yield frame, first_lines[first:last]

    def _value_counts(self, part: bytes, row_ends: Indices) -> Indices:
        """The number of values in each row; empty where no row is too short."""
        data = np.frombuffer(part, np.uint8)
        separators = data == ord(self.dialect.separator)
        enough = len(row_ends) * (len(self.columns) - 1)
        if b'"' not in part and np.count_nonzero(separators) >= enough:
            return np.empty(0, np.intp)
        places, quotes = np.flatnonzero(separators), np.flatnonzero(data == _QUOTE)
        places = places[np.searchsorted(quotes, places) % 2 == 0]
        return np.diff(np.searchsorted(places, row_ends, "right"), prepend=0) + 1

    def _with_missing(self, frame: pl.DataFrame, counts: Indices) -> pl.DataFrame:
        """The frame with a text for each required value that a row is too short to have.

        An empty Open has a default: a row that lost a value must not get it.
        """
        short = np.flatnonzero(counts <= max(self._required, default=0))
        if not len(short):
            return frame
        has_text = pl.any_horizontal(pl.all().str.strip_chars().str.len_bytes() > 0)
        values = frame[short, : max(int(counts[short].max()), 1)]
        short = short[values.select(has_text.fill_null(False)).to_series().to_numpy()]
        for index in self._required:
            rows = short[counts[short] <= index]
            texts = [f"nothing: the row has {counts[row]} of {len(self.columns)} values"
                     for row in rows]  # fmt: skip
            frame = frame.with_columns(frame[:, index].scatter(rows, texts))
        return frame

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
            return self._to_frame([row for row, _ in rows])

    def _strict_frames(self) -> Iterator[tuple[pl.DataFrame, Positions]]:
        rows: list[list[str]] = []
        lines: list[int] = []
        for row, line in self._strict_rows(self._lines(), self.dialect.header_lines):
            rows.append(row)
            lines.append(line)
            if len(rows) * len(self.columns) >= _MAX_CELLS or len(rows) >= _STRICT_ROWS:
                yield self._to_frame(rows), np.array(lines)
                rows, lines = [], []
        if rows:
            yield self._to_frame(rows), np.array(lines)

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

    def _strict_rows(self, lines: Iterator[str], before: int) -> Iterator[tuple[list[str], int]]:
        """The rows by Python's strict reader, each with its first line.

        Raises with line and column of what the reader refuses.
        """
        current, first = "", before + 1

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
                        f"{self._name}: line {first} has {len(row)} values,"
                        f" the header has {len(self.columns)}"
                    )
                yield row, first
                first = before + reader.line_num + 1
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
        frame = pl.DataFrame(list(filled), self._schema, orient="row")
        return self._with_missing(frame, np.array([len(row) for row in rows], np.intp))


def _line_and_row_ends(data: bytes) -> tuple[Indices, Indices]:
    """The indices of line ends, and of those outside of quotes."""
    values = np.frombuffer(data, np.uint8)
    ends = np.flatnonzero(values == _LF)
    quotes = np.flatnonzero(values == _QUOTE)
    return ends, ends[np.searchsorted(quotes, ends) % 2 == 0] if len(quotes) else ends


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
