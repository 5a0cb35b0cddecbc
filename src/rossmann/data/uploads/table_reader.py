"""The one reader of users' tables: CSV, Parquet, .xlsx, .xls and .ods, also in gzip or zip.

The first bytes of a file decide its format; names are for messages only. Blank rows are left out.
What is skipped is said in ``notes``.
"""

import gzip
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final, Protocol

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from rossmann.data.uploads.csv_chunks import CsvChunks
from rossmann.data.uploads.csv_dialect import CsvDialect
from rossmann.data.uploads.dates import detect_date_format, parse_dates
from rossmann.data.uploads.decimal_marks import DecimalMark, detect_decimal_mark
from rossmann.data.uploads.fields import (
    FLAGS,
    NUMBER_FIELDS,
    FieldColumns,
    field_columns,
    field_text,
    flag_text,
    known_name,
    normalize_text,
)
from rossmann.data.uploads.parquet_chunks import (
    CHUNK_ROWS,
    FileFormat,
    ParquetChunks,
    to_arrow,
    to_series,
)
from rossmann.data.uploads.workbook import read_sheet
from rossmann.errors import DataValidationError, first_line

_GZIP: Final = b"\x1f\x8b"
_PARQUET: Final = b"PAR1"
_ZIP: Final = b"PK\x03\x04"
_COMPOUND: Final = b"\xd0\xcf\x11\xe0"
_ENCRYPTED: Final = "EncryptedPackage".encode("utf-16-le")
_OTHER_FORMATS: Final = {
    b"%PDF": "a PDF document",
    b"\x89PNG": "a picture",
    b"\xff\xd8\xff": "a picture",
    b"Rar!": "a RAR archive",
    b"7z\xbc\xaf": "a 7z archive",
    b"<htm": "a web page",
    b"<!DO": "a web page",
    b"<?xm": "an XML document",
    b"{": "JSON",
    b"[": "JSON",
}
_MAX_BYTES: Final = 1 << 30
"""Bytes that a table read whole may unpack to: a small archive can hold any amount of zeros."""
_READ_BYTES: Final = 4 << 20


class Chunks(Protocol):
    """A table of one format, read in chunks."""

    @property
    def file_format(self) -> FileFormat:
        """The format of the file."""

    @property
    def columns(self) -> list[str]:
        """The column names without outer blanks."""

    @property
    def notes(self) -> list[str]:
        """What is skipped, for people."""

    @property
    def dialect(self) -> CsvDialect | None:
        """How a CSV file is written; None for other formats."""

    def read(self) -> Iterator[pa.RecordBatch]:
        """The rows in record batches, in order."""


class OpenTable:
    """An opened table: its format, its columns, and its rows in chunks, any number of times.

    ``columns``: names without outer blanks, which may be empty or come twice; batches name them
    c0, c1, ... ``notes`` is complete when the rows were read once.
    """

    def __init__(self, chunks: Chunks) -> None:
        self.file_format = chunks.file_format
        self.columns = chunks.columns
        self.dialect = chunks.dialect
        self._chunks = chunks
        self._blank_rows = 0
        keys = [i for i, name in enumerate(self.columns) if known_name(name) == "Store"]
        self._key = keys[0] if keys else 0

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
        blank = pending = 0
        for batch in self._chunks.read():
            if not batch.num_columns:
                continue
            indices = self._blank_in(batch)
            if len(indices):
                keep = np.setdiff1d(np.arange(len(batch)), indices)
                last = int(keep[-1]) if len(keep) else -1
                inner = int((indices < last).sum())
                blank, pending = (
                    (blank + pending + inner, len(indices) - inner)
                    if len(keep)
                    else (blank, pending + len(indices))
                )
                batch = batch.take(to_arrow(keep))  # noqa: PLW2901
            elif len(batch):
                blank, pending = blank + pending, 0
            if len(batch):
                yield batch
        self._blank_rows = blank

    def _blank_in(self, batch: pa.RecordBatch) -> npt.NDArray[np.int64]:
        """The rows of a batch without any value."""
        key = to_series(batch.column(self._key))
        empty = key.is_null()
        if key.dtype == pl.String:
            empty = empty | (key.str.strip_chars().str.len_bytes() == 0).fill_null(True)
        rows = np.asarray(empty.arg_true().to_numpy(), np.int64)
        for column in batch.columns:
            if not len(rows):
                break
            part = column.take(to_arrow(rows))
            part = part.dictionary_decode() if pa.types.is_dictionary(part.type) else part
            rows = rows[normalize_text(to_series(part)).is_null().to_numpy()]
        return rows


@dataclass(frozen=True)
class WholeTable:
    """A table in memory: ``frame`` has the columns c0, c1, ... in the types of the file."""

    name: str
    frame: pl.DataFrame
    columns: list[str]
    file_format: FileFormat
    dialect: CsvDialect | None
    notes: list[str]

    def decimal_mark(self, columns: FieldColumns) -> DecimalMark | None:
        """The decimal mark of the fields' numbers, None where none depends on it.

        Raises ``AmbiguousNumbersError`` where the file does not decide.
        """
        series = ((field, self.frame[:, index]) for field, index in columns.index.items())
        numbers = [
            normalize_text(column)
            for field, column in series
            if field in NUMBER_FIELDS
            and column.dtype == pl.String
            and column.str.contains("[.,]").any()
        ]
        return detect_decimal_mark(numbers, self._hints(set(columns.index.values())))

    def field_texts(
        self, columns: FieldColumns, decimal: DecimalMark | None
    ) -> dict[str, pl.Series]:
        """The text of each field that the table has."""
        return {
            field: field_text(field, self.frame[:, index], decimal).alias(field)
            for field, index in columns.index.items()
        }

    def _hints(self, taken: set[int]) -> Iterator[pl.Series]:
        """Other columns of text of a file in which a comma does not separate values."""
        if self.dialect is None or self.dialect.separator == ",":
            return
        for index, column in enumerate(self.frame.get_columns()):
            if index not in taken and column.dtype == pl.String:
                yield normalize_text(column)


def open_table(
    name: str, path: Path, workspace: Path, max_bytes: int, sheet: str | None = None
) -> OpenTable:
    """Open a table; ``workspace``: a folder for temporary files.

    ``max_bytes``: size limit of the unpacked table. ``sheet``: of a workbook. A workbook is read
    whole. Raises ``DataValidationError`` for what is no table, naming what it is.
    """
    plain = _unpacked(name, path, workspace, max_bytes)
    with plain.open("rb") as file:
        head = file.read(8)
    if head.startswith(_PARQUET):
        return OpenTable(ParquetChunks(name, plain, max_bytes))
    if head.startswith((_ZIP, _COMPOUND)):
        return OpenTable(_open_workbook(name, plain, workspace, max_bytes, sheet))
    for magic, kind in _OTHER_FORMATS.items():
        if head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(magic):
            raise DataValidationError(f"{name} is {kind}, not a table: send CSV, Parquet or Excel")
    return OpenTable(CsvChunks(name, lambda: plain.open("rb")))


def read_table(name: str, source: bytes | Path, sheet: str | None = None) -> WholeTable:
    """The table in ``source`` as a whole, with values as the file holds them."""
    with tempfile.TemporaryDirectory(prefix="rossmann-table-") as folder:
        path = source if isinstance(source, Path) else Path(folder) / "file"
        if not isinstance(source, Path):
            path.write_bytes(source)
        table = open_table(name, path, Path(folder), _MAX_BYTES, sheet)
        batches = list(table.read())
    names = [f"c{index}" for index in range(len(table.columns))]
    if batches:
        frame = pl.concat([_frame(batch) for batch in batches], how="vertical_relaxed")
    else:
        frame = pl.DataFrame(schema=dict.fromkeys(names, pl.String))
    return WholeTable(name, frame, table.columns, table.file_format, table.dialect, table.notes)


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
        texts["Date"] = texts["Date"].replace(iso)
    for flag in FLAGS:
        if flag in texts:
            texts[flag] = texts[flag].to_frame().select(flag_text(flag)).to_series()
    taken = set(columns.index.values())
    others = [
        normalize_text(table.frame[:, index]).alias(column)
        for index, column in enumerate(unique_names(table.columns))
        if index not in taken
    ]
    frame = pl.DataFrame([*texts.values(), *others])
    return frame, table, [*table.notes, *columns.notes]


def _frame(batch: pa.RecordBatch) -> pl.DataFrame:
    frame = pl.from_arrow(batch)
    assert isinstance(frame, pl.DataFrame)
    return frame


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


def _open_workbook(
    name: str, path: Path, workspace: Path, max_bytes: int, sheet: str | None
) -> ParquetChunks:
    with path.open("rb") as file:
        if _ENCRYPTED in file.read(_READ_BYTES):
            raise DataValidationError(
                f"{name} is a workbook with a password: save it without one and send it again"
            )
    table = read_sheet(name, path, sheet)
    target = workspace / "sheet"
    table.frame.write_parquet(target, row_group_size=4 * CHUNK_ROWS)
    chunks = ParquetChunks(name, target, max_bytes, "xlsx", table.columns)
    chunks.notes = table.notes
    return chunks


def _unpacked(name: str, path: Path, workspace: Path, max_bytes: int) -> Path:
    """The plain file: unpacked where it is gzip, or a zip with one table."""
    with path.open("rb") as file:
        head = file.read(4)
    if head.startswith(_GZIP):
        target = workspace / "gunzipped"
        try:
            with gzip.open(path) as packed:
                _copy(name, packed, target, max_bytes)
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise DataValidationError(
                f"{name} is a damaged gzip file: {first_line(error)}"
            ) from error
        return _unpacked(name, target, workspace, max_bytes) if _is_zip(target) else target
    if not head.startswith(_ZIP):
        return path
    try:
        with zipfile.ZipFile(path) as archive:
            member = _table_member(name, archive, max_bytes)
            if member is None:
                return path
            target = workspace / "unzipped"
            with archive.open(member) as packed:
                _copy(name, packed, target, max_bytes)
    except (zipfile.BadZipFile, NotImplementedError, EOFError, zlib.error) as error:
        raise DataValidationError(f"{name} is a damaged zip file: {first_line(error)}") from error
    return target


def _is_zip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == _ZIP


def _table_member(name: str, archive: zipfile.ZipFile, max_bytes: int) -> str | None:
    """The one file of an archive; None where the archive is a workbook."""
    names = archive.namelist()
    size = sum(part.file_size for part in archive.infolist())
    if size > max_bytes:
        raise DataValidationError(
            f"{name} holds more than {max_bytes >> 20:,} MB unpacked: send it as CSV, in parts"
        )
    if "[Content_Types].xml" in names or "mimetype" in names:
        return None
    files = [one for one in names if not one.endswith("/") and not one.startswith("__MACOSX/")]
    if len(files) != 1:
        listed = ", ".join(files[:5]) or "none"
        raise DataValidationError(
            f"{name} is a zip archive with {len(files)} files ({listed}): send one table"
        )
    if archive.getinfo(files[0]).flag_bits & 1:
        raise DataValidationError(f"{name} is a zip archive with a password: unpack it first")
    return files[0]


def _copy(name: str, source: IO[bytes] | gzip.GzipFile, target: Path, max_bytes: int) -> None:
    """Write ``source`` to ``target``; raises ``DataValidationError`` above ``max_bytes``."""
    size = 0
    with target.open("wb") as file:
        while piece := source.read(_READ_BYTES):
            size += len(piece)
            if size > max_bytes:
                raise DataValidationError(
                    f"{name} holds more than {max_bytes >> 20:,} MB: send it in parts"
                )
            file.write(piece)


def decimal_comma_hints(table: OpenTable, columns: FieldColumns) -> Iterator[pl.Series]:
    """The distinct texts of columns that no field takes, of a CSV without commas as separators."""
    if table.dialect is None or table.dialect.separator == ",":
        return
    others = [i for i in range(len(table.columns)) if i not in set(columns.index.values())]
    for index in others:
        texts: set[str] = set()
        for batch in table.read():
            texts.update(normalize_text(to_series(batch.column(index))).drop_nulls().to_list())
            if len(texts) > CHUNK_ROWS:
                break
        else:
            yield pl.Series(list(texts), dtype=pl.String)
