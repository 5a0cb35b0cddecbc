"""Tables that users send (CSV, Parquet, Excel), read whole as text or in chunks that fit in memory.

The first bytes of a file decide its format. Names are for messages only.
"""

import io
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, Literal, Protocol

import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rossmann.data.uploads.csv_chunks import GZIP_MAGIC, MAX_COLUMNS, CsvChunks, gunzip
from rossmann.data.uploads.fields import normalize_text
from rossmann.errors import DataValidationError, first_line

FileFormat = Literal["csv", "parquet", "xlsx"]
CHUNK_ROWS: Final = 16_384
"""Rows in a chunk of Parquet."""
_PARQUET_MAGIC: Final = b"PAR1"
_WORKBOOK_MAGIC: Final = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0")
_MAX_BYTES: Final = 1 << 30
"""Bytes that a table read whole may unpack to: a small archive can hold any amount of zeros."""
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


def read_table(name: str, content: bytes) -> pl.DataFrame:
    """The table in ``content`` with every value as text without outer blanks, null where empty.

    CSV, Parquet or the first sheet of a workbook, each also gzipped. Empty rows at the end are
    dropped; others stay, so that a row keeps its number. Raises ``DataValidationError`` for what
    is no table.
    """
    if content.startswith(GZIP_MAGIC):
        unpacked = io.BytesIO()
        gunzip(name, io.BytesIO(content), unpacked, _MAX_BYTES)
        content = unpacked.getvalue()
    if content.startswith(_PARQUET_MAGIC):
        frame = _read_parquet(name, content)
    elif content.startswith(_WORKBOOK_MAGIC):
        frame = _read_workbook(name, content)
    else:
        frame = pl.concat(CsvChunks(name, lambda: io.BytesIO(content), "line").frames())
    try:
        return _as_text(frame)
    except pl.exceptions.PolarsError as error:
        raise DataValidationError(
            f"{name} cannot be read as a table: {first_line(error)}"
        ) from error


def _read_parquet(name: str, content: bytes) -> pl.DataFrame:
    try:
        return pl.read_parquet(io.BytesIO(content))
    # Some kinds of damage make the reader panic, which is no PolarsError.
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
        raise DataValidationError(f"{name} is no Parquet table: {first_line(error)}") from error


def _read_workbook(name: str, content: bytes) -> pl.DataFrame:
    """The first sheet of a workbook, every cell as text."""
    import fastexcel

    try:
        # A length of 0 leaves every cell as it is written: nothing is guessed from a few rows.
        return pl.read_excel(content, infer_schema_length=0, drop_empty_rows=False)
    except (fastexcel.FastExcelError, pl.exceptions.PolarsError, ValueError, IndexError) as error:
        raise DataValidationError(f"{name} is no workbook: {first_line(error)}") from error


def _as_text(frame: pl.DataFrame) -> pl.DataFrame:
    """Every value as text, without the empty rows at the end."""
    text = pl.DataFrame([normalize_text(column) for column in frame.get_columns()])
    text = text.rename({name: name.strip() for name in text.columns})
    filled = pl.any_horizontal(pl.all().is_not_null()).alias("filled")
    rows = text.select(filled)["filled"].arg_true().to_list() if text.width else []
    return text.head(rows[-1] + 1 if rows else 0)


class TableChunks(Protocol):
    """An opened table: its format, its columns, and its rows in chunks, any number of times."""

    @property
    def file_format(self) -> FileFormat:
        """The format of the file."""

    @property
    def columns(self) -> list[str]:
        """The column names without outer blanks."""

    @property
    def separator(self) -> str:
        """The character between the values of a row of CSV."""

    def read(self) -> Iterator[pa.RecordBatch]:
        """The rows in record batches of any length, in order.

        Raises ``DataValidationError`` for what is no table; a table that was read to its end once
        does not raise later.
        """


def open_table(name: str, path: Path, workspace: Path, max_bytes: int) -> TableChunks:
    """Open CSV (also gzipped), Parquet or the first sheet of a workbook.

    ``workspace``: a folder for temporary files. ``max_bytes``: size limit of the unpacked table.
    A workbook is read whole. Raises ``DataValidationError`` for what is no table.
    """
    with path.open("rb") as file:
        head = file.read(8)
    chunks: TableChunks
    if head.startswith(_PARQUET_MAGIC):
        chunks = ParquetChunks(name, path, max_bytes)
    elif head.startswith(_WORKBOOK_MAGIC):
        sheet = _convert_sheet(name, path, workspace, max_bytes)
        chunks = ParquetChunks(name, sheet, max_bytes, "xlsx")
    else:
        plain = path
        if head.startswith(GZIP_MAGIC):
            plain = workspace / "unpacked"
            with path.open("rb") as source, plain.open("wb") as target:
                gunzip(name, source, target, max_bytes)
        chunks = CsvChunks(name, lambda: plain.open("rb"))
    for number, column in enumerate(chunks.columns):
        if column in chunks.columns[:number]:
            raise DataValidationError(f"{name} has the column {column[:40]} more than once")
    return chunks


def _convert_sheet(name: str, path: Path, workspace: Path, max_bytes: int) -> Path:
    """Write a workbook's first sheet as Parquet, every cell as text; returns the new path."""
    try:
        with zipfile.ZipFile(path) as book:
            size = sum(part.file_size for part in book.infolist())
    except (zipfile.BadZipFile, ValueError, NotImplementedError):
        size = 0  # the old binary format, or no workbook, which the reader reports
    if size > max_bytes:
        raise DataValidationError(
            f"{name} holds more than {max_bytes >> 20:,} MB unpacked: send it as CSV"
        )
    sheet = workspace / "sheet"
    _read_workbook(name, path.read_bytes()).write_parquet(sheet, row_group_size=4 * CHUNK_ROWS)
    return sheet


class ParquetChunks:
    """A Parquet table. Raises ``DataValidationError`` for damage, odd types or too much data."""

    separator = ","

    def __init__(
        self, name: str, path: Path, max_bytes: int, file_format: FileFormat = "parquet"
    ) -> None:
        self.file_format = file_format
        self._name, self._path = name, path
        try:
            schema = pq.read_schema(path)
            meta = pq.read_metadata(path)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise self._unreadable(error) from error
        self.columns = [column.strip() for column in schema.names]
        if len(self.columns) > MAX_COLUMNS:
            raise DataValidationError(f"{name} has more than {MAX_COLUMNS:,} columns")
        for field in schema:
            if not _is_supported(field.type):
                raise DataValidationError(
                    f"{name}: the column {field.name[:40]} holds {field.type}: a table's values "
                    "are numbers, texts, days, times and flags"
                )
        size = sum(meta.row_group(n).total_byte_size for n in range(meta.num_row_groups))
        if size > max_bytes:
            raise DataValidationError(
                f"{name} holds more than {max_bytes >> 20:,} MB unpacked: send it in parts"
            )
        self._types = dict(zip(self.columns, schema.types, strict=True))
        # Text is read dictionary-encoded: then a few bytes cannot unpack to gigabytes.
        self._text_columns = [f.name for f in schema if _is_text(f.type)]

    def _unreadable(self, error: Exception) -> DataValidationError:
        return DataValidationError(f"{self._name} is no Parquet table: {first_line(error)}")

    def read(self) -> Iterator[pa.RecordBatch]:
        """The rows in record batches of about ``CHUNK_ROWS``."""
        try:
            # Without a buffer of its own it holds a whole row group, which may be the file.
            with pq.ParquetFile(
                self._path,
                read_dictionary=self._text_columns,
                pre_buffer=False,
                buffer_size=_READ_BUFFER,
            ) as file:
                batches = (b.rename_columns(self.columns) for b in file.iter_batches(CHUNK_ROWS))
                yield from _merge_small(map(self._validated, batches))
        except (pa.ArrowException, OSError, ValueError) as error:
            raise self._unreadable(error) from error

    def _validated(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The batch in the schema's types, once its text is known to be valid and not too long."""
        size = 0
        columns = []
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
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
            dtype = self._types[name]
            columns.append(column if column.type == dtype else column.cast(dtype))
        return pa.RecordBatch.from_arrays(columns, batch.schema.names)


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
