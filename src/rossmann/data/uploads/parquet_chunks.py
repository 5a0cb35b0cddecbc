"""Parquet tables of any size, read in chunks that fit in memory, with their types checked."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rossmann.data.uploads.csv_dialect import MAX_COLUMNS
from rossmann.data.uploads.file_formats import FileFormat
from rossmann.errors import DataValidationError, first_line

PositionUnit = Literal["line", "row"]
Positions = npt.NDArray[np.int64]
"""The line or row of the file in which each row of a table begins, (n,), from 1."""
CHUNK_ROWS: Final = 16_384
"""Rows in a chunk of Parquet."""
_MAX_ROW_TEXT: Final = 4_096
"""Mean bytes of text in a row of Parquet: a small file can unpack to any amount of it."""
_READ_BUFFER: Final = 1 << 20
_TICKS_PER_DAY: Final = {unit: 86_400 * 1000**n for n, unit in enumerate(("s", "ms", "us", "ns"))}
_FIRST_DAY, _LAST_DAY = -719_162, 2_932_896
"""0001-01-01 and 9999-12-31 as epoch days."""
_SUPPORTED_TYPES: Final = (
    *(pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean, pa.types.is_decimal),
    *(pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, pa.types.is_null),
    *(pa.types.is_date, pa.types.is_timestamp, pa.types.is_time),
)


class ParquetChunks:
    """A Parquet table. Raises ``DataValidationError`` for damage, odd types or too much data.

    ``file_format`` and ``columns``: those of the user's file, where this one was made from it.
    ``first_row``: the row of the user's file in which the first row stands.
    """

    dialect = None
    position_unit: Literal["row"] = "row"

    def __init__(
        self,
        name: str,
        path: Path,
        file_format: FileFormat = "parquet",
        columns: Sequence[str] = (),
    ) -> None:
        self.file_format = file_format
        self.first_row = 1
        self.notes: list[str] = []
        self._name, self._path = name, path
        try:
            schema = pq.read_schema(path)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise self._unreadable(error) from error
        self.columns = [column.strip() for column in columns or schema.names]
        if len(self.columns) > MAX_COLUMNS:
            raise DataValidationError(f"{name} has more than {MAX_COLUMNS:,} columns")
        for field in schema:
            if not _is_supported(field.type):
                raise DataValidationError(
                    f"{name}: the column {field.name[:40]} holds {field.type}: a table's values "
                    "are numbers, texts, days, times and flags"
                )
        self._types = schema.types
        # Text is read dictionary-encoded: then a few bytes cannot unpack to gigabytes.
        self._text_columns = [f.name for f in schema if _is_text(f.type)]

    @property
    def schema(self) -> pa.Schema:
        """The schema of the record batches."""
        return pa.schema([(f"c{index}", dtype) for index, dtype in enumerate(self._types)])

    def _unreadable(self, error: Exception) -> DataValidationError:
        return DataValidationError(f"{self._name} is no Parquet table: {first_line(error)}")

    def read(self) -> Iterator[tuple[pa.RecordBatch, Positions]]:
        """The rows in record batches of about ``CHUNK_ROWS``, and the row of each in the file.

        The columns are named c0, c1, ...
        """
        row = self.first_row
        for batch in self._batches():
            yield batch, np.arange(row, row + len(batch))
            row += len(batch)

    def frames(self) -> Iterator[tuple[pl.DataFrame, Positions]]:
        """The same in polars' frames."""
        for batch, rows in self.read():
            frame = pl.from_arrow(batch)
            assert isinstance(frame, pl.DataFrame)
            yield frame, rows

    def _batches(self) -> Iterator[pa.RecordBatch]:
        try:
            # Without a buffer of its own it holds a whole row group, which may be the file.
            with pq.ParquetFile(
                self._path,
                read_dictionary=self._text_columns,
                pre_buffer=False,
                buffer_size=_READ_BUFFER,
            ) as file:
                yield from _merge_small(map(self._validated, file.iter_batches(CHUNK_ROWS)))
        except (pa.ArrowException, OSError, ValueError) as error:
            raise self._unreadable(error) from error

    def _validated(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The batch in the schema's types, once its text is known to be valid and not too long."""
        size = 0
        columns = []
        for name, dtype, column in zip(self.columns, self._types, batch.columns, strict=True):
            if pa.types.is_dictionary(column.type):
                column.validate(full=True)
                size += _text_bytes(column)
            if size > _MAX_ROW_TEXT * max(len(batch), 1):
                raise DataValidationError(
                    f"{self._name} has rows with more than {_MAX_ROW_TEXT} bytes of text"
                )
            if not _is_in_calendar(column):
                msg = f"{self._name}: the column {name[:40]} holds days or times that there are not"
                raise DataValidationError(msg)
            columns.append(column if column.type == dtype else column.cast(dtype))
        return pa.RecordBatch.from_arrays(columns, [f"c{n}" for n in range(len(columns))])


def _merge_small(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """The same rows in fewer batches: row groups may be tiny, and no batch spans two."""
    pending: list[pa.RecordBatch] = []
    for batch in batches:
        pending.append(batch)
        if sum(map(len, pending)) >= CHUNK_ROWS // 2:
            yield from _concat(pending)
            pending = []
    if pending:
        yield from _concat(pending)


def _concat(batches: list[pa.RecordBatch]) -> list[pa.RecordBatch]:
    if len(batches) == 1:
        return batches
    merged: list[pa.RecordBatch] = pa.Table.from_batches(batches).combine_chunks().to_batches()
    return merged


def _is_in_calendar(column: pa.Array) -> bool:
    """Whether dates are of the years 1 to 9999, and times of one day; True for other types."""
    dtype = column.type
    if pa.types.is_date32(dtype):
        column, ticks = column.cast(pa.int32()), 1
    elif pa.types.is_date(dtype) or pa.types.is_timestamp(dtype):
        ticks = _TICKS_PER_DAY[getattr(dtype, "unit", "ms")]
    elif pa.types.is_time(dtype):
        column = column.cast(pa.int32() if pa.types.is_time32(dtype) else pa.int64())
        ends = pc.min_max(column).as_py()
        return ends["min"] is None or 0 <= ends["min"] <= ends["max"] < _TICKS_PER_DAY[dtype.unit]
    else:
        return True
    ends = pc.min_max(column.cast(pa.int64())).as_py()
    low, high = ends["min"], ends["max"]
    return low is None or (_FIRST_DAY * ticks <= low and high < (_LAST_DAY + 1) * ticks)


def _text_bytes(column: pa.DictionaryArray) -> int:
    if not _is_text(column.type.value_type):
        return 0
    lengths = pc.binary_length(column.dictionary.cast(pa.large_string()))
    return int(pc.sum(pc.take(lengths, column.indices)).as_py() or 0)


def _is_text(dtype: Any) -> bool:
    checks = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    return any(is_type(dtype) for is_type in checks)


def _is_supported(dtype: Any) -> bool:
    if pa.types.is_dictionary(dtype):
        return _is_supported(dtype.value_type)
    return any(is_type(dtype) for is_type in _SUPPORTED_TYPES)


def format_position(unit: PositionUnit, number: int) -> str:
    """Where a row stands in a user's file, for people: its line in CSV, its row in other formats.

    Lines and rows are counted from 1 as editors and spreadsheets do, with titles and blank ones;
    Parquet has only rows of data.
    """
    return f"{unit} {number:,}"


def to_arrow(
    values: Sequence[str | None] | Sequence[int] | npt.NDArray[Any],
    dtype: type[pl.DataType] | None = None,
) -> pa.Array:
    """Values as an Arrow array, of ``dtype`` or of the type that they have.

    By way of polars: ``pa.array`` imports pandas, to check for its types.
    """
    return pl.Series(values, dtype=dtype).to_arrow()


def to_series(column: pa.Array) -> pl.Series:
    """An Arrow array as a polars series."""
    series = pl.from_arrow(column)
    assert isinstance(series, pl.Series)
    return series
