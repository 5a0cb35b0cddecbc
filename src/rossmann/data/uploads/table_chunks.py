"""Any table that a user has, in parts that fit into memory; what it is, its first bytes tell."""

import zipfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, Literal, Protocol

import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rossmann.data.uploads.csv_chunks import MOST_COLUMNS, CsvChunks
from rossmann.data.uploads.table_reader import first_line, read_workbook
from rossmann.errors import DataValidationError

FileFormat = Literal["csv", "parquet", "xlsx"]
CHUNK_ROWS: Final = 16_384
"""Rows of a part of Parquet."""
_WIDEST: Final = 4_096
"""Bytes of text that a row may hold: a small file can unpack to any amount of it."""
_READ: Final = 1 << 20
_DAY: Final = {unit: 86_400 * 1000**power for power, unit in enumerate(("s", "ms", "us", "ns"))}
"""How long a day is."""
_FIRST, _LAST = -719_162, 2_932_896
"""0001-01-01 and 9999-12-31, as days since 1970-01-01."""
_PLAIN: Final = (
    *(pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean, pa.types.is_decimal),
    *(pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, pa.types.is_null),
    *(pa.types.is_date, pa.types.is_timestamp, pa.types.is_time),
)


class TableChunks(Protocol):
    """An opened table: its kind, its columns, and its rows in parts, as often as wanted."""

    @property
    def kind(self) -> FileFormat:
        """What the file is."""

    @property
    def columns(self) -> list[str]:
        """Their names without outer blanks."""

    @property
    def separator(self) -> str:
        """Between the values of a row, where it is text."""

    def read(self) -> Iterator[pa.RecordBatch]:
        """The rows in parts of any length, in order.

        Raises ``BrokenRule`` for what is no table; what was read to its end once will be again.
        """


def open_table(name: str, path: Path, work: Path, most: int) -> TableChunks:
    """Open CSV (also gzipped), Parquet or the first sheet of a workbook.

    ``work``: a folder for drafts. ``most``: bytes that it may hold unpacked. A workbook is read
    whole. Raises ``BrokenRule`` for what is no table.
    """
    with path.open("rb") as file:
        head = file.read(8)
    if head.startswith(b"PAR1"):
        return _distinct(name, ParquetChunks(name, path, most))
    if head.startswith((b"PK\x03\x04", b"\xd0\xcf\x11\xe0")):
        return _distinct(name, ParquetChunks(name, _sheet(name, path, work, most), most, "xlsx"))
    return _distinct(name, CsvChunks(name, path, work, most))


def _distinct(name: str, parts: TableChunks) -> TableChunks:
    seen: set[str] = set()
    for column in parts.columns:
        if column in seen:
            raise DataValidationError(f"{name} has the column {column[:40]} more than once")
        seen.add(column)
    return parts


def _sheet(name: str, path: Path, work: Path, most: int) -> Path:
    """A workbook's first sheet as Parquet, every cell as text."""
    try:
        with zipfile.ZipFile(path) as book:
            size = sum(part.file_size for part in book.infolist())
    except (zipfile.BadZipFile, ValueError, NotImplementedError):
        size = 0  # the old kind, or none: the reader will say so
    if size > most:
        raise DataValidationError(
            f"{name} holds more than {most >> 20:,} MB unpacked: send it as CSV"
        )
    sheet = work / "sheet"
    read_workbook(name, path.read_bytes()).write_parquet(sheet, row_group_size=4 * CHUNK_ROWS)
    return sheet


class ParquetChunks:
    """A Parquet file, opened."""

    separator = ","

    def __init__(self, name: str, path: Path, most: int, kind: FileFormat = "parquet") -> None:
        self.kind = kind
        self._name, self._path = name, path
        try:
            schema = pq.read_schema(path)
            meta = pq.read_metadata(path)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise self._damaged(error) from error
        self.columns = [column.strip() for column in schema.names]
        if len(self.columns) > MOST_COLUMNS:
            raise DataValidationError(f"{name} has more than {MOST_COLUMNS:,} columns")
        for field in schema:
            if not _is_plain(field.type):
                raise DataValidationError(
                    f"{name}: the column {field.name[:40]} holds {field.type}: a table's values "
                    "are numbers, texts, days, times and flags"
                )
        size = sum(meta.row_group(n).total_byte_size for n in range(meta.num_row_groups))
        if size > most:
            raise DataValidationError(
                f"{name} holds more than {most >> 20:,} MB unpacked: send it in parts"
            )
        self._types = dict(zip(self.columns, schema.types, strict=True))
        # As places in a list of texts: then a few bytes cannot unpack to gigabytes.
        self._texts = [f.name for f in schema if _is_text(f.type)]

    def _damaged(self, error: Exception) -> DataValidationError:
        return DataValidationError(f"{self._name} is no Parquet table: {first_line(error)}")

    def read(self) -> Iterator[pa.RecordBatch]:
        """The rows in parts of about ``PART``."""
        try:
            # Without a buffer of its own it holds a whole row group, which may be the file.
            with pq.ParquetFile(
                self._path, read_dictionary=self._texts, pre_buffer=False, buffer_size=_READ
            ) as file:
                named = (b.rename_columns(self.columns) for b in file.iter_batches(CHUNK_ROWS))
                yield from _merged(map(self._checked, named))
        except (pa.ArrowException, OSError, ValueError) as error:
            raise self._damaged(error) from error

    def _checked(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The batch once it is known to hold real text of a bearable size."""
        size = 0
        columns = []
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            if pa.types.is_dictionary(column.type):
                column.validate(full=True)
                size += _text_bytes(column)
            if size > _WIDEST * max(len(batch), 1):
                raise DataValidationError(
                    f"{self._name} has rows with more than {_WIDEST} bytes of text"
                )
            if not _in_reach(column):
                msg = f"{self._name}: the column {name[:40]} holds days or times that there are not"
                raise DataValidationError(msg)
            kind = self._types[name]
            columns.append(column if column.type == kind else column.cast(kind))
        return pa.RecordBatch.from_arrays(columns, batch.schema.names)


def _merged(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """The same rows in fewer parts: row groups may be tiny, and no batch spans two."""
    kept: list[pa.RecordBatch] = []
    for batch in batches:
        kept.append(batch)
        if sum(map(len, kept)) >= CHUNK_ROWS // 2:
            yield from _joined(kept)
            kept = []
    if kept:
        yield from _joined(kept)


def _joined(batches: list[pa.RecordBatch]) -> list[pa.RecordBatch]:
    if len(batches) == 1:
        return batches
    found: list[pa.RecordBatch] = pa.Table.from_batches(batches).combine_chunks().to_batches()
    return found


def _in_reach(column: pa.Array) -> bool:
    """Whether days and times are such as can be written: of the years 1 to 9999, of one day."""
    kind = column.type
    if pa.types.is_date32(kind):
        column, a_day = column.cast(pa.int32()), 1
    elif pa.types.is_date(kind) or pa.types.is_timestamp(kind):
        a_day = _DAY[getattr(kind, "unit", "ms")]
    elif pa.types.is_time(kind):
        column = column.cast(pa.int32() if pa.types.is_time32(kind) else pa.int64())
        ends = pc.min_max(column).as_py()
        return ends["min"] is None or 0 <= ends["min"] <= ends["max"] < _DAY[kind.unit]
    else:
        return True
    ends = pc.min_max(column.cast(pa.int64())).as_py()
    low, high = ends["min"], ends["max"]
    return low is None or (_FIRST * a_day <= low and high < (_LAST + 1) * a_day)


def _text_bytes(column: pa.DictionaryArray) -> int:
    if not _is_text(column.type.value_type):
        return 0
    lengths = pc.binary_length(column.dictionary.cast(pa.large_string()))
    return int(pc.sum(pc.take(lengths, column.indices)).as_py() or 0)


def _is_text(kind: Any) -> bool:
    return bool(
        pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    )


def _is_plain(kind: Any) -> bool:
    if pa.types.is_dictionary(kind):
        return _is_plain(kind.value_type)
    return any(fits(kind) for fits in _PLAIN)


def to_arrow(
    values: Sequence[str | None] | Sequence[int] | npt.NDArray[Any],
    kind: type[pl.DataType] | None = None,
) -> pa.Array:
    """Values as an Arrow column, of the kind that they have or of the one that is named.

    By polars: ``pa.array`` imports pandas, to see whether it is given some.
    """
    return pl.Series(values, dtype=kind).to_arrow()


def to_series(column: pa.Array) -> pl.Series:
    """An Arrow column for polars."""
    found = pl.from_arrow(column)
    assert isinstance(found, pl.Series)
    return found
