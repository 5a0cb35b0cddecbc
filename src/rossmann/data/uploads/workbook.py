"""Workbooks (.xlsx, .xls, .ods): the one visible sheet that holds a table, as Parquet.

Cells keep their types: numbers of a workbook have no decimal mark. Cells with an error, such as
#N/A, and formulas without a value become text that names the cell, so that they are errors of
their rows and not empty.
"""

import logging
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Final

import polars as pl

from rossmann.data.uploads.fields import known_name
from rossmann.data.uploads.file_formats import NamesDamage
from rossmann.data.uploads.sheet_cells import NO_VALUE, FaultyCell, error_cells, scan_sheet
from rossmann.errors import DataValidationError, first_line

if TYPE_CHECKING:
    from fastexcel import ExcelReader

_HEAD_ROWS: Final = 50
_MIN_KNOWN: Final = 2
_MAX_EXACT: Final = 2**53
_LAST_DAY_OF_TIMES: Final = date(1899, 12, 31)
"""The day that a time of day has in a workbook."""


class SeveralSheetsError(DataValidationError):
    """A workbook in which several visible ``sheets`` hold a table."""

    def __init__(self, name: str, sheets: list[str]) -> None:
        self.sheets = sheets
        super().__init__(
            f"{name} has several sheets with a table: {', '.join(sheets)}; say which one to read"
        )


@dataclass(frozen=True)
class SheetTable:
    """A sheet's rows below its header, typed, in columns c0, c1, ...; ``columns``: their names.

    ``first_row``: the number of the first of them in the sheet, from 1.
    """

    frame: pl.DataFrame
    columns: list[str]
    notes: list[str]
    first_row: int


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
        with NamesDamage(name, "workbook"):
            reader = fastexcel.read_excel(path)
            sheets = [_probe(reader, index) for index in range(len(reader.sheet_names))]
            sheet = _choose(name, sheets, wanted)
            if not sheet.head.height:
                raise DataValidationError(f"{name} is empty: the sheet {sheet.name} has no cells")
            columns = _header(sheet)
            loaded = reader.load_sheet(
                sheet.index,
                header_row=None,
                skip_rows=max(sheet.header, 0) + 1,
                schema_sample_rows=None,
            )
            batch, lost = loaded.to_arrow_with_errors()
    except (fastexcel.FastExcelError, pl.exceptions.PolarsError, IndexError) as error:
        raise DataValidationError(f"{name} is no workbook: {first_line(error)}") from error
    values = pl.DataFrame(batch)
    frame = pl.DataFrame([_plain_types(values[:, i]).alias(f"c{i}") for i in range(values.width)])
    left = min((column.absolute_index for column in loaded.selected_columns), default=0)
    first = max(sheet.header, 0) + 1, left
    size = first[0] + frame.height, left + frame.width
    faulty, hidden = scan_sheet(name, path, sheet.name, size)
    frame = _with_faults(frame, [*error_cells(lost, left), *faulty], columns, first)
    return SheetTable(frame, columns[: frame.width], _notes(sheet, sheets, hidden), first[0] + 1)


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


def _notes(sheet: _Sheet, sheets: list[_Sheet], hidden_rows: int) -> list[str]:
    titles = (" ".join(cell for cell in row if cell) for row in sheet.head.rows()[: sheet.header])
    notes = [f"the row {title[:80]!r} above the header is skipped" for title in titles if title]
    others = [one for one in sheets if one.index != sheet.index and one.head.height]
    for other in others:
        kind = "sheet" if other.visible else "hidden sheet"
        notes.append(f"the {kind} {other.name} is left out: {sheet.name} is read")
    if hidden_rows:
        rows = "1 hidden row is" if hidden_rows == 1 else f"{hidden_rows:,} hidden rows are"
        notes.append(f"{rows} read like the others")
    return notes


def _plain_types(column: pl.Series) -> pl.Series:
    """Whole floats as integers, midnights as days, durations and times as text."""
    if column.dtype == pl.Float64:
        whole = (column == column.floor()) & (column.abs() < _MAX_EXACT)
        return column.cast(pl.Int64) if whole.fill_null(True).all() else column
    if column.dtype == pl.Datetime:
        if (column.dt.date() <= _LAST_DAY_OF_TIMES).fill_null(True).all():
            return column.dt.time().cast(pl.String)
        is_day = (column.dt.date().cast(column.dtype) == column).fill_null(True).all()
        return column.dt.date() if is_day else column
    known = {pl.Boolean, pl.Int64, pl.Date, pl.String}
    return column if column.dtype in known else column.cast(pl.String)


def _with_faults(
    frame: pl.DataFrame, cells: list[FaultyCell], columns: list[str], first: tuple[int, int]
) -> pl.DataFrame:
    """The frame with texts for faulty cells; ``first``: row and column of its first cell.

    In a user's own column an error is its own text, and a formula without value stays empty.
    """
    texts: dict[int, dict[int, str]] = {}
    for cell in cells:
        row, index = cell.row - first[0], cell.column - first[1]
        if not (0 <= row < frame.height and 0 <= index < frame.width):
            continue
        if known_name(columns[index]) is not None:
            texts.setdefault(index, {})[row] = f"{cell.fault} in cell {cell.address}"
        elif cell.fault != NO_VALUE:
            texts.setdefault(index, {})[row] = cell.fault
    for index, found in texts.items():
        column = frame[:, index].cast(pl.String)
        frame = frame.with_columns(column.scatter(list(found), list(found.values())))
    return frame
