"""Workbooks (.xlsx, .xls, .ods): the one visible sheet that holds a table, as Parquet.

Cells keep their types: numbers of a workbook have no decimal mark. Cells with an error, such as
#N/A, and formulas without a value become text that names the cell, so that they are errors of
their rows and not empty.
"""

import logging
import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final
from xml.etree import ElementTree

import polars as pl

from rossmann.data.uploads.fields import known_name
from rossmann.errors import DataValidationError, first_line

if TYPE_CHECKING:
    from fastexcel import ExcelReader

_HEAD_ROWS: Final = 50
_MIN_KNOWN: Final = 2
_MAIN: Final = "{http://schemas.openxmlformats.org/spreadsheetml/2006/main}"
_RELATION: Final = "{http://schemas.openxmlformats.org/officeDocument/2006/relationships}id"
_BLOCK: Final = 1 << 20
_MAX_EXACT: Final = 2**53
_HIDDEN_ROW: Final = re.compile(rb'<row\b[^>]*\bhidden="(?:1|true)"')


class SeveralSheetsError(DataValidationError):
    """A workbook in which several visible ``sheets`` hold a table."""

    def __init__(self, name: str, sheets: list[str]) -> None:
        self.sheets = sheets
        super().__init__(
            f"{name} has several sheets with a table: {', '.join(sheets)}; say which one to read"
        )


@dataclass(frozen=True)
class SheetTable:
    """A sheet's rows below its header, typed, in columns c0, c1, ...; ``columns``: their names."""

    frame: pl.DataFrame
    columns: list[str]
    notes: list[str]


@dataclass(frozen=True)
class _Sheet:
    """A sheet: its place, whether it is visible, and the row of its header (-1: it has none)."""

    index: int
    name: str
    visible: bool
    header: int
    head: pl.DataFrame


def read_sheet(name: str, path: Path, wanted: str | None = None) -> SheetTable:
    """The sheet ``wanted``, or the only visible one that holds a table.

    Raises ``DataValidationError`` for what is no workbook, and where several sheets hold tables.
    """
    import fastexcel

    # It warns of columns of mixed types, which are read as text here.
    logging.getLogger("fastexcel").setLevel(logging.ERROR)
    try:
        reader = fastexcel.read_excel(path)
        sheets = [_probe(reader, index) for index in range(len(reader.sheet_names))]
        sheet = _choose(name, sheets, wanted)
        columns = _header(sheet)
        body = reader.load_sheet(
            sheet.index,
            header_row=None,
            skip_rows=max(sheet.header, 0) + 1,
            schema_sample_rows=None,
        ).to_polars()
    except (fastexcel.FastExcelError, pl.exceptions.PolarsError, ValueError, IndexError) as error:
        if isinstance(error, DataValidationError):
            raise
        raise DataValidationError(f"{name} is no workbook: {first_line(error)}") from error
    frame = pl.DataFrame([_plain_types(body[:, i]).alias(f"c{i}") for i in range(body.width)])
    frame = _with_faulty_cells(frame, path, sheet, columns)
    notes = [*_notes(sheet, sheets), *_hidden_rows(path, sheet.name)]
    return SheetTable(frame, columns[: frame.width], notes)


def _probe(reader: "ExcelReader", index: int) -> _Sheet:
    probe = reader.load_sheet(
        index, header_row=None, skip_rows=0, n_rows=_HEAD_ROWS, dtypes="string"
    )
    head = probe.to_polars()
    known = [len({known_name(cell or "") for cell in row} - {None}) for row in head.rows()]
    best = max(range(len(known)), key=known.__getitem__, default=-1)
    header = best if best >= 0 and known[best] >= _MIN_KNOWN else -1
    return _Sheet(index, reader.sheet_names[index], probe.visible == "visible", header, head)


def _choose(name: str, sheets: list[_Sheet], wanted: str | None) -> _Sheet:
    if wanted is not None:
        for sheet in sheets:
            if sheet.name.casefold() == wanted.casefold():
                return sheet
        names = ", ".join(sheet.name for sheet in sheets)
        raise DataValidationError(f"{name} has no sheet {wanted}; it has: {names}")
    visible = [sheet for sheet in sheets if sheet.visible] or sheets
    tables = [sheet for sheet in visible if sheet.header >= 0]
    if len(tables) > 1:
        raise SeveralSheetsError(name, [sheet.name for sheet in tables])
    return tables[0] if tables else visible[0]


def _header(sheet: _Sheet) -> list[str]:
    if not sheet.head.height:
        return []
    cells = sheet.head.row(max(sheet.header, 0))
    return ["" if cell is None else cell.strip() for cell in cells]


def _notes(sheet: _Sheet, sheets: list[_Sheet]) -> list[str]:
    titles = (" ".join(cell for cell in row if cell) for row in sheet.head.rows()[: sheet.header])
    notes = [f"the row {title[:80]!r} above the header is skipped" for title in titles if title]
    others = [one for one in sheets if one.index != sheet.index and one.head.height]
    for other in others:
        kind = "sheet" if other.visible else "hidden sheet"
        notes.append(f"the {kind} {other.name} is left out: {sheet.name} is read")
    return notes


def _plain_types(column: pl.Series) -> pl.Series:
    """Whole floats as integers, midnights as days, durations and times as text."""
    if column.dtype == pl.Float64:
        whole = (column == column.floor()) & (column.abs() < _MAX_EXACT)
        return column.cast(pl.Int64) if whole.fill_null(True).all() else column
    if column.dtype == pl.Datetime:
        is_day = (column.dt.date().cast(column.dtype) == column).fill_null(True).all()
        return column.dt.date() if is_day else column
    known = {pl.Boolean, pl.Int64, pl.Date, pl.String}
    return column if column.dtype in known else column.cast(pl.String)


def _with_faulty_cells(
    frame: pl.DataFrame, path: Path, sheet: _Sheet, columns: list[str]
) -> pl.DataFrame:
    """The frame with the text of error cells and of formulas without a value."""
    cells = _faulty_cells(path, sheet.name)
    if not cells:
        return frame
    first_column = min(column for _, column, _ in cells)
    start = max(sheet.header, 0) + 1
    texts: dict[int, list[tuple[int, str]]] = {}
    for row, column, text in cells:
        index = column - first_column
        if text and row >= start and index < frame.width and row - start < frame.height:
            texts.setdefault(index, []).append((row - start, text))
    for index, found in texts.items():
        values_of_column = frame[:, index].cast(pl.String)
        rows, values = zip(*found, strict=True)
        if known_name(columns[index]) is None:
            values = tuple(value.partition(" in cell ")[0] for value in values)
        frame = frame.with_columns(values_of_column.scatter(list(rows), list(values)))
    return frame


def _faulty_cells(path: Path, sheet: str) -> list[tuple[int, int, str]]:
    """Row and column, from 0, and the text of each cell that has no value it could be read by.

    With an empty text the leftmost cell of the sheet, from which columns are counted. Empty where
    the sheet has no such cell, or is not of the format .xlsx.
    """
    try:
        with zipfile.ZipFile(path) as book:
            part = _sheet_part(book, sheet)
            if part is None:
                return []
            with book.open(part) as xml:
                if not _may_be_faulty(xml):
                    return []
            with book.open(part) as xml:
                return list(_scan(xml))
    except (zipfile.BadZipFile, ElementTree.ParseError, KeyError):
        return []


def _hidden_rows(path: Path, sheet: str) -> list[str]:
    """A note where rows are hidden, as by a filter: they are read like the others."""
    count, rest = 0, b""
    try:
        with zipfile.ZipFile(path) as book:
            part = _sheet_part(book, sheet)
            if part is None:
                return []
            with book.open(part) as xml:
                while block := xml.read(_BLOCK):
                    data = rest + block
                    end = max(data.rfind(b"<row"), 0)
                    count += len(_HIDDEN_ROW.findall(data[:end]))
                    rest = data[end:]
            count += len(_HIDDEN_ROW.findall(rest))
    except (zipfile.BadZipFile, ElementTree.ParseError, KeyError):
        return []
    rows = "1 hidden row is" if count == 1 else f"{count:,} hidden rows are"
    return [f"{rows} read like the others"] if count else []


def _sheet_part(book: zipfile.ZipFile, sheet: str) -> str | None:
    if "xl/workbook.xml" not in book.namelist():
        return None
    relations = ElementTree.fromstring(book.read("xl/_rels/workbook.xml.rels"))
    targets = {one.get("Id"): one.get("Target", "") for one in relations}
    for one in ElementTree.fromstring(book.read("xl/workbook.xml")).iter(f"{_MAIN}sheet"):
        if one.get("name") == sheet:
            target = targets.get(one.get(_RELATION), "")
            return target.lstrip("/") if target.startswith("/") else f"xl/{target}"
    return None


def _may_be_faulty(xml: IO[bytes]) -> bool:
    """Whether the XML has error cells or formulas at all: most sheets have neither."""
    rest = b""
    while block := xml.read(_BLOCK):
        data = rest + block
        if b't="e"' in data or b"<f" in data:
            return True
        rest = data[-8:]
    return False


def _scan(xml: IO[bytes]) -> Iterator[tuple[int, int, str]]:
    leftmost = None
    for _, element in ElementTree.iterparse(xml):
        if element.tag != f"{_MAIN}c":
            if element.tag == f"{_MAIN}row":
                element.clear()
            continue
        row, column = _position(element.get("r", "A1"))
        value = element.findtext(f"{_MAIN}v")
        has_value = bool(value) or element.find(f"{_MAIN}is") is not None
        if (has_value or element.find(f"{_MAIN}f") is not None) and (
            leftmost is None or column < leftmost
        ):
            leftmost = column
            yield row, column, ""
        if element.get("t") == "e":
            yield row, column, f"{value} in cell {element.get('r')}"
        elif element.find(f"{_MAIN}f") is not None and not value:
            yield row, column, f"formula without value in cell {element.get('r')}"


def _position(reference: str) -> tuple[int, int]:
    """Row and column of a cell such as ``D7``, from 0."""
    match = re.fullmatch(r"([A-Z]+)([0-9]+)", reference)
    if match is None:
        return 0, 0
    column = 0
    for letter in match[1]:
        column = 26 * column + ord(letter) - 64
    return int(match[2]) - 1, column - 1
