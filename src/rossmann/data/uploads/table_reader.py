"""The one reader of users' tables: CSV, Parquet, .xlsx, .xls and .ods, also in gzip or zip.

The first bytes of a file decide its format; names are for messages only. Blank rows are left out.
What is skipped is said in ``notes``.
"""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeVar

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from rossmann.data.uploads.csv_chunks import CsvChunks
from rossmann.data.uploads.csv_dialect import CsvDialect
from rossmann.data.uploads.fields import (
    NUMBER_FIELDS,
    FieldColumns,
    distinct_values,
    field_columns,
    field_text,
    known_name,
    normalize_text,
)
from rossmann.data.uploads.file_formats import FileFormat, Workspace, detect_format, unpack
from rossmann.data.uploads.parquet_chunks import (
    ParquetChunks,
    Positions,
    PositionUnit,
    format_position,
    to_arrow,
    to_series,
)
from rossmann.data.uploads.sandboxed_reader import ReadTask, SandboxedReader
from rossmann.data.uploads.value_formats import (
    DecimalMark,
    detect_date_format,
    detect_decimal_mark,
    parse_dates,
)

_MAX_BYTES: Final = 1 << 30
"""Bytes that a table read whole may unpack to: a small archive can hold any amount of zeros."""


Chunks = CsvChunks | ParquetChunks
Part = TypeVar("Part", pa.RecordBatch, pl.DataFrame)


class OpenTable:
    """An opened table: its format, its columns, and its rows in chunks, any number of times.

    ``columns``: names without outer blanks, which may be empty or come twice; batches name them
    c0, c1, ... ``position_unit``: what a row's position in the file counts. ``notes`` is complete
    when the rows were read once.
    """

    def __init__(self, chunks: Chunks, check: Callable[[], None]) -> None:
        self._check = check
        self.file_format = chunks.file_format
        self.columns = chunks.columns
        self.dialect = chunks.dialect
        self.position_unit = chunks.position_unit
        self._chunks = chunks
        self._blank_rows = 0
        keys = [i for i, name in enumerate(self.columns) if known_name(name) == "Store"]
        self._key = keys[0] if keys else 0

    def position(self, number: int) -> str:
        """A position that ``numbered`` gives, for people."""
        return format_position(self.position_unit, number)

    @property
    def notes(self) -> list[str]:
        """What was skipped or decided, for people."""
        count = self._blank_rows
        rows = "1 blank row is" if count == 1 else f"{count:,} blank rows are"
        return [*self._chunks.notes, *([f"{rows} skipped"] if count else [])]

    def read(self) -> Iterator[pa.RecordBatch]:
        """The rows but blank ones in record batches of any length, in order.

        Raises ``DataValidationError`` for what is no table; a table that was read to its end once
        does not raise later.
        """
        return (batch for batch, _ in self.numbered())

    def numbered(self) -> Iterator[tuple[pa.RecordBatch, Positions]]:
        """The same, each batch with the position of its rows."""
        return self._without_blanks(self._chunks.read())

    def frames(self) -> Iterator[tuple[pl.DataFrame, Positions]]:
        """The same in polars' frames."""
        return self._without_blanks(self._chunks.frames())

    def _without_blanks(
        self, parts: Iterator[tuple[Part, Positions]]
    ) -> Iterator[tuple[Part, Positions]]:
        blank = pending = 0
        for part, positions in parts:
            self._check()
            if not len(part) or not self.columns:
                continue
            blank_rows = self._blank_in(part)
            if not len(blank_rows):
                blank, pending = blank + pending, 0
                yield part, positions
                continue
            is_kept = np.ones(len(part), np.bool_)
            is_kept[blank_rows] = False
            keep = np.flatnonzero(is_kept)
            if not len(keep):
                pending += len(blank_rows)
                continue
            inner = int((blank_rows < keep[-1]).sum())
            # Blank rows at the end of a file are nothing to speak of.
            blank, pending = blank + pending + inner, len(blank_rows) - inner
            yield _take(part, keep), positions[keep]
        self._blank_rows = blank

    def _blank_in(self, part: pa.RecordBatch | pl.DataFrame) -> npt.NDArray[np.int64]:
        """The rows without any value."""
        key = _column(part, self._key)
        empty = key.is_null()
        if key.dtype == pl.String:
            empty = empty | (key.str.strip_chars().str.len_bytes() == 0).fill_null(True)
        rows = np.asarray(empty.arg_true().to_numpy(), np.int64)
        for index in range(len(self.columns)):
            if not len(rows):
                break
            if _null_count(part, index) == len(part):
                continue
            rows = rows[normalize_text(_column(part, index, rows)).is_null().to_numpy()]
        return rows


def _column(
    part: pa.RecordBatch | pl.DataFrame, index: int, rows: npt.NDArray[np.int64] | None = None
) -> pl.Series:
    """A column of some rows, or of all."""
    if isinstance(part, pl.DataFrame):
        return part.to_series(index) if rows is None else part.to_series(index)[rows]
    column = part.column(index) if rows is None else part.column(index).take(to_arrow(rows))
    return to_series(column.dictionary_decode() if pa.types.is_dictionary(column.type) else column)


def _null_count(part: pa.RecordBatch | pl.DataFrame, index: int) -> int:
    if isinstance(part, pl.DataFrame):
        return part.to_series(index).null_count()
    return int(part.column(index).null_count)


def _take(part: Part, rows: npt.NDArray[np.int64]) -> Part:
    return part[rows] if isinstance(part, pl.DataFrame) else part.take(to_arrow(rows))


@dataclass(frozen=True)
class WholeTable:
    """A table in memory: ``frame`` has the columns c0, c1, ... in the types of the file.

    ``positions`` (n,): where each of its rows stands in the file, see ``position``.
    """

    name: str
    frame: pl.DataFrame
    columns: list[str]
    file_format: FileFormat
    dialect: CsvDialect | None
    notes: list[str]
    positions: Positions
    position_unit: PositionUnit
    _distinct_values: dict[int, pl.Series | None] = field(default_factory=dict, repr=False)

    def position(self, row: int) -> str:
        """Where the row with this index stands in the user's file, for people."""
        return format_position(self.position_unit, int(self.positions[row]))

    def decimal_mark(self, columns: FieldColumns) -> DecimalMark | None:
        """The decimal mark of the fields' numbers, None where none depends on it.

        Raises ``AmbiguousNumbersError`` where the file does not decide.
        """
        numbers = [
            normalize_text(self.frame[:, index] if (few := self._distinct(index)) is None else few)
            for name, index in columns.index.items()
            if name in NUMBER_FIELDS and self.frame.dtypes[index] == pl.String
        ]
        return detect_decimal_mark(numbers, self._hints(set(columns.index.values())))

    def field_texts(
        self, columns: FieldColumns, decimal: DecimalMark | None
    ) -> dict[str, pl.Series]:
        """The text of each field that the table has."""
        return {
            name: field_text(name, self.frame[:, at], decimal, self._distinct(at)).alias(name)
            for name, at in columns.index.items()
        }

    def _distinct(self, index: int) -> pl.Series | None:
        """The distinct values of a column of text if they are few, found once."""
        column = self.frame[:, index]
        if index not in self._distinct_values and column.dtype == pl.String:
            self._distinct_values[index] = distinct_values(column)
        return self._distinct_values.get(index)

    def _hints(self, taken: set[int]) -> Iterator[pl.Series]:
        """Other columns of text of a file in which a comma does not separate values."""
        if self.dialect is None or self.dialect.separator == ",":
            return
        for index, column in enumerate(self.frame.get_columns()):
            if index not in taken and column.dtype == pl.String:
                yield normalize_text(column)


def open_table(
    name: str,
    path: Path,
    workspace: Workspace,
    sheet: str | None = None,
    reader: SandboxedReader | None = None,
) -> OpenTable:
    """Open a table; ``sheet``: of a workbook.

    ``reader`` reads formats other than CSV; without one, a new process does. Raises
    ``DataValidationError`` for what is no table, naming what it is, and ``ReadCancelledError``.
    """
    plain = unpack(name, path, workspace)
    file_format = detect_format(name, plain)
    if file_format == "csv":
        return OpenTable(CsvChunks(name, lambda: plain.open("rb")), workspace.check)
    target = workspace.folder / "table"
    task = ReadTask(name, file_format, str(plain), str(target), workspace.max_bytes, sheet)
    result = (reader or SandboxedReader()).read(task, workspace.check)
    chunks = ParquetChunks(name, target, file_format, result.columns)
    chunks.notes, chunks.first_row = result.notes, result.first_row
    return OpenTable(chunks, workspace.check)


def read_table(
    name: str, source: bytes | Path, sheet: str | None = None, reader: SandboxedReader | None = None
) -> WholeTable:
    """The table in ``source`` as a whole, with values as the file holds them."""
    with tempfile.TemporaryDirectory(prefix="rossmann-table-") as folder:
        path = source if isinstance(source, Path) else Path(folder) / "file"
        if not isinstance(source, Path):
            path.write_bytes(source)
        table = open_table(name, path, Workspace(Path(folder), _MAX_BYTES), sheet, reader)
        parts = list(table.frames())
    names = [f"c{index}" for index in range(len(table.columns))]
    frames = [frame for frame, _ in parts] or [pl.DataFrame(schema=dict.fromkeys(names, pl.String))]
    return WholeTable(
        name,
        pl.concat(frames, how="vertical_relaxed"),
        table.columns,
        table.file_format,
        table.dialect,
        table.notes,
        np.concatenate([positions for _, positions in parts] or [np.empty(0, np.int64)]),
        table.position_unit,
    )


@dataclass(frozen=True)
class ReadOptions:
    """What decides where a file does not: the format of dates, the decimal mark, the sheet."""

    date_format: str | None = None
    decimal: DecimalMark | None = None
    sheet: str | None = None


DEFAULT_OPTIONS: Final = ReadOptions()


def read_fields(
    name: str, source: bytes | Path, options: ReadOptions = DEFAULT_OPTIONS
) -> tuple[pl.DataFrame, WholeTable, list[str]]:
    """A table as text by field (dates as YYYY-MM-DD), the table, and notes for people.

    Columns that no field takes keep their names. A text that cannot be read stays as it is.
    """
    table = read_table(name, source, options.sheet)
    columns = field_columns(name, table.columns, required=())
    mark = options.decimal or table.decimal_mark(columns)
    texts = table.field_texts(columns, mark)
    if "Date" in texts:
        dates = texts["Date"].drop_nulls().unique(maintain_order=True).to_list()
        date_format = options.date_format or detect_date_format(dates)
        iso = {text: day.isoformat() for text, day in parse_dates(dates, date_format).items()}
        if any(text != day for text, day in iso.items()):
            texts["Date"] = texts["Date"].replace(iso)
    taken = set(columns.index.values())
    others = [
        normalize_text(table.frame[:, index]).alias(column)
        for index, column in enumerate(unique_names(table.columns))
        if index not in taken
    ]
    frame = pl.DataFrame([*texts.values(), *others])
    return frame, table, [*table.notes, *columns.notes]


def unique_names(columns: Sequence[str]) -> list[str]:
    """Names for formats that need them unique: blank or repeated ones get a number."""
    taken: set[str] = set()
    names = []
    for index, column in enumerate(columns, 1):
        name = column or f"column_{index}"
        while name in taken:
            name = f"{column or 'column'}_{index}"
            index += 1  # noqa: PLW2901
        taken.add(name)
        names.append(name)
    return names
