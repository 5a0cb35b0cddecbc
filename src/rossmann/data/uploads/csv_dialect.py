"""CSV dialect of a file: encoding, line ends, separator, and where its header is.

Commas, semicolons, tabs or vertical bars; UTF-8 (with or without a byte order mark), UTF-16 or
Windows-1252; LF, CRLF or CR. A line ``sep=;`` and title rows above the header are skipped.
"""

import codecs
import csv
import io
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO, Final

from rossmann.data.uploads.fields import known_name
from rossmann.errors import DataValidationError

MAX_COLUMNS: Final = 1_000
BLOCK_BYTES: Final = 4 << 20
_SEPARATORS: Final = (",", ";", "\t", "|")
_HEAD_BYTES: Final = 1 << 18
"""Bytes in which the header must lie."""
_HEAD_ROWS: Final = 50
_SEP_LINE: Final = re.compile(r'"?sep=(.)"?[\r\n]*\Z', re.IGNORECASE)
_QUOTED: Final = re.compile(r'"[^"]*"')
_MIN_KNOWN: Final = 2
"""Known column names that make a row the header."""

OpenSource = Callable[[], IO[bytes]]
"""Opens the plain file anew."""


@dataclass(frozen=True)
class CsvDialect:
    """How a CSV file is written.

    ``body_start``: bytes before the first row below the header, as UTF-8 with LF in place of CR.
    ``header_lines``: lines before it. ``titles``: the rows above the header.
    """

    encoding: str
    has_bom: bool
    line_end: str
    separator: str
    columns: tuple[str, ...]
    body_start: int
    header_lines: int
    titles: tuple[str, ...]


def detect_dialect(name: str, open_source: OpenSource) -> CsvDialect:
    """The dialect of a file; raises ``DataValidationError`` for an empty or binary one."""
    encoding, has_bom = _detect_encoding(name, open_source)
    head, is_whole = _read_head(open_source, encoding)
    line_end = _detect_line_end(head)
    lines = io.StringIO(head.replace("\r", "\n") if line_end == "\r" else head, "\n").readlines()
    fixed = _SEP_LINE.match(lines[0]) if lines else None
    first = 1 if fixed else 0
    separator, start, end = _find_header(lines[first:], fixed[1] if fixed else None)
    if start == end:
        raise DataValidationError(f"{name} is empty")
    start, end = start + first, end + first
    if end == len(lines) and not is_whole:
        raise DataValidationError(f"{name} has a first line of more than {_HEAD_BYTES >> 10} KB")
    columns = _column_names(name, lines[start:end], separator, start + 1)
    if len(columns) > MAX_COLUMNS:
        raise DataValidationError(f"{name} has more than {MAX_COLUMNS:,} columns")
    if end == len(lines) == 1 and _lost_line_ends(columns):
        raise DataValidationError(
            f"{name} is one line: its line ends were lost, as curl -d loses them; send the file"
            " with --data-binary"
        )
    return CsvDialect(
        encoding=encoding,
        has_bom=has_bom,
        line_end=line_end,
        separator=separator,
        columns=tuple(column.strip() for column in columns),
        body_start=sum(len(line.encode()) for line in lines[:end]),
        header_lines=end,
        titles=tuple(title for line in lines[first:start] if (title := _title(line, separator))),
    )


def _column_names(name: str, lines: list[str], separator: str, line: int) -> list[str]:
    try:
        return next(csv.reader(lines, delimiter=separator))
    except csv.Error as error:
        raise DataValidationError(
            f"{name} has no readable column names in line {line}: line ends of two kinds are mixed,"
            " or a quotation mark is missing; save the file anew"
        ) from error


def _detect_line_end(head: str) -> str:
    """CR only where no LF is outside of quotes, as in a file of a Mac with line ends in cells."""
    bare = _QUOTED.sub("", head)
    bare = bare if "\r" in bare or "\n" in bare else head
    return "\r\n" if "\r\n" in bare else "\n" if "\n" in bare or "\r" not in bare else "\r"


def _read_head(open_source: OpenSource, encoding: str) -> tuple[str, bool]:
    """The first part of a file, and whether that is all of it."""
    head = b""
    with open_source() as source:
        for piece in decoded(source, encoding):
            head += piece
            if len(head) > _HEAD_BYTES:
                return head[:_HEAD_BYTES].decode(errors="ignore"), False
    return head.decode(errors="ignore"), True


def _find_header(lines: list[str], separator: str | None) -> tuple[str, int, int]:
    """The separator, and the first and last line (exclusive) of the header.

    It is the row with the most known names; without any, the first row that is not blank.
    """
    best = (0, ",", 0, 0)
    for candidate in (separator,) if separator else _SEPARATORS:
        for start, end, row in _records(lines, candidate):
            known = len({known_name(cell) for cell in row} - {None})
            if known >= _MIN_KNOWN and known > best[0]:
                best = (known, candidate, start, end)
    if best[0]:
        return best[1:]
    for start, line in enumerate(lines):
        if line.strip(' \t\r\n,;|"'):
            chosen = separator or max(_SEPARATORS, key=_QUOTED.sub("", line).count)
            first = next(_records(lines[start:], chosen), (0, 1, []))
            return chosen, start, start + first[1]
    return ",", 0, 0


def _records(lines: list[str], separator: str) -> Iterator[tuple[int, int, list[str]]]:
    """The first rows, each with its first and last line (exclusive)."""
    reader, start = csv.reader(lines, delimiter=separator), 0
    try:
        for row in reader:
            yield start, reader.line_num, row
            start = reader.line_num
            if start >= _HEAD_ROWS:
                return
    except csv.Error:  # a value of more than 128 kB
        return


def _title(line: str, separator: str) -> str:
    return line.strip().strip(separator + '"').strip()[:80]


def _lost_line_ends(columns: list[str]) -> bool:
    return len(columns) > _MIN_KNOWN and any(re.search(r"[0-9]", column) for column in columns)


def _detect_encoding(name: str, open_source: OpenSource) -> tuple[str, bool]:
    """The codec of the whole file, and whether it begins with a byte order mark.

    Raises ``DataValidationError`` where the bytes are not text of that codec.
    """
    with open_source() as source:
        head = source.read(4)
    if head.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        raise DataValidationError(f"{name} is written in UTF-32: save it as UTF-8")
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        if not _is_valid(open_source, "utf-16"):
            raise DataValidationError(f"{name} is damaged: it is no valid UTF-16; save it as UTF-8")
        return "utf-16", True
    has_bom = head.startswith(codecs.BOM_UTF8)
    _reject_binary(name, open_source)
    if _is_valid(open_source, "utf-8"):
        return ("utf-8-sig" if has_bom else "utf-8"), has_bom
    # Latin-1 has a character for each byte, so that columns come back as they came.
    return ("cp1252" if _is_valid(open_source, "cp1252") else "latin-1"), False


def _reject_binary(name: str, open_source: OpenSource) -> None:
    with open_source() as source:
        while piece := source.read(BLOCK_BYTES):
            if b"\x00" in piece:
                raise DataValidationError(
                    f"{name} is no table: it must be CSV (in UTF-8, UTF-16 with a byte order mark"
                    " or Windows-1252), Parquet or Excel"
                )


def _is_valid(open_source: OpenSource, encoding: str) -> bool:
    decoder = codecs.getincrementaldecoder(encoding)()
    with open_source() as source:
        while piece := source.read(BLOCK_BYTES):
            if not _can_decode(decoder, piece, final=False):
                return False
    return _can_decode(decoder, b"", final=True)


def _can_decode(decoder: codecs.IncrementalDecoder, piece: bytes, final: bool) -> bool:
    try:
        decoder.decode(piece, final)
    except UnicodeDecodeError:
        return False
    return True


def decoded(source: IO[bytes], encoding: str) -> Iterator[bytes]:
    """The bytes of ``source`` in pieces, as UTF-8 without a byte order mark."""
    if encoding == "utf-8-sig":
        source.seek(len(codecs.BOM_UTF8))
    if encoding.startswith("utf-8"):
        while piece := source.read(BLOCK_BYTES):
            yield piece
        return
    decoder = codecs.getincrementaldecoder(encoding)()
    while piece := source.read(BLOCK_BYTES):
        yield decoder.decode(piece).encode()
    yield decoder.decode(b"", final=True).encode()
