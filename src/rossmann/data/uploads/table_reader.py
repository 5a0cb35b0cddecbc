"""Any table that a user has, as text: CSV of every usual kind, Parquet, Excel."""

import csv
import gzip
import io
import re
import zlib
from typing import Final

import polars as pl

from rossmann.errors import DataValidationError

SEPARATORS: Final = (",", ";", "\t")
_MIDNIGHT: Final = r"^([0-9]{4}-[0-9]{2}-[0-9]{2})[ T]00:00(?::00(?:\.0+)?)?$"
_MOST_BYTES: Final = 1 << 30
"""Refuse more than a gigabyte unpacked: a small archive can hold any amount of nothing."""


def read_table(name: str, content: bytes) -> pl.DataFrame:
    """The table in ``content`` with every value as text without outer blanks, null where empty.

    What it is, is told by its first bytes; ``name`` is for messages. CSV may use commas, semicolons
    or tabs, a byte order mark, UTF-8, UTF-16 or Windows' Western alphabet, and may be gzipped. Of a
    workbook, the first sheet is read. Empty rows at the end are dropped; others stay, so that a row
    keeps its number. Raises ``BrokenRule`` for what is no table.
    """
    if content.startswith(b"\x1f\x8b"):
        content = _unpack(name, content)
    if content.startswith(b"PAR1"):
        frame = _read_parquet(name, content)
    elif content.startswith((b"PK\x03\x04", b"\xd0\xcf\x11\xe0")):
        frame = read_workbook(name, content)
    else:
        frame = _read_csv(name, _decode(name, content))
    try:
        return _plain(frame)
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


def read_workbook(name: str, content: bytes) -> pl.DataFrame:
    """The first sheet of a workbook, every cell as text; raises ``BrokenRule``."""
    import fastexcel

    try:
        # A length of 0 leaves every cell as it is written: nothing is guessed from a few rows.
        return pl.read_excel(content, infer_schema_length=0, drop_empty_rows=False)
    except (fastexcel.FastExcelError, pl.exceptions.PolarsError, ValueError, IndexError) as error:
        raise DataValidationError(f"{name} is no workbook: {first_line(error)}") from error


def _unpack(name: str, content: bytes) -> bytes:
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(content)) as stream:
            plain = stream.read(_MOST_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise DataValidationError(f"{name} is a damaged gzip file: {first_line(error)}") from error
    if len(plain) > _MOST_BYTES:
        raise DataValidationError(f"{name} holds more than a gigabyte: send it in parts")
    return plain


def _decode(name: str, content: bytes) -> str:
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return content.decode("utf-16", errors="replace")
    if b"\x00" in content:
        raise DataValidationError(f"{name} is no table: it must be CSV, Parquet or Excel (.xlsx)")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("cp1252", errors="replace")


def _read_csv(name: str, text: str) -> pl.DataFrame:
    text = text.lstrip("\r\n \t")
    if not text:
        raise DataValidationError(f"{name} is empty")
    header = re.sub(r'"[^"]*"', "", text.partition("\n")[0])
    separator = max(SEPARATORS, key=header.count)
    try:
        return pl.read_csv(text.encode(), separator=separator, infer_schema=False)
    except pl.exceptions.PolarsError as error:
        raise DataValidationError(
            f"{name} is no CSV table: {_why(text, separator, error)}"
        ) from error


def _why(text: str, separator: str, error: Exception) -> str:
    """Name the first line with too many values, which is the usual reason."""
    lines = csv.reader(io.StringIO(text), delimiter=separator)
    try:
        width = len(next(lines))
        for line in lines:
            if len(line) > width:
                return f"line {lines.line_num} has {len(line)} values, the first line {width} names"
    except csv.Error:
        pass
    return first_line(error)


def normalize_text(column: pl.Series) -> pl.Series:
    """A column as text without outer blanks, null where it is empty.

    Truth becomes true and false: which fields may say so is theirs to tell. The midnight of a day
    becomes the day. Raises polars' errors for what is no text.
    """
    text = column.cast(pl.String).str.strip_chars().str.replace(_MIDNIGHT, "$1")
    return text.set(text == "", None)


def _plain(frame: pl.DataFrame) -> pl.DataFrame:
    """Every value as text, without the empty rows at the end."""
    text = pl.DataFrame([normalize_text(column) for column in frame.get_columns()])
    text = text.rename({name: name.strip() for name in text.columns})
    some = pl.any_horizontal(pl.all().is_not_null()).alias("some")
    filled = text.select(some)["some"].arg_true().to_list() if text.width else []
    return text.head(filled[-1] + 1 if filled else 0)


def first_line(error: Exception) -> str:
    """An error's text without what follows its first line."""
    return (str(error).splitlines() or [type(error).__name__])[0]
