"""Cells of a workbook's sheet that the reader leaves empty or takes for a value, and hidden rows.

Errors such as #N/A come from the reader. Formulas that no program has calculated, errors in .ods
files (stored with the value 0) and hidden rows are found in the sheet's XML.
"""

import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final
from xml.etree import ElementTree

import numpy as np

from rossmann.data.uploads.file_formats import NamesDamage

if TYPE_CHECKING:
    from fastexcel import CellErrors

NO_VALUE: Final = "formula without value"
_ERRORS: Final = {"NA": "#N/A", "Div0": "#DIV/0!", "Null": "#NULL!", "GettingData": "#DATA!",
                  "Name": "#NAME?", "Num": "#NUM!", "Ref": "#REF!", "Value": "#VALUE!"}  # fmt: skip
_BLOCK: Final = 1 << 20
_OVERLAP: Final = 1 << 10
_XLSX_SIGNS: Final = (b"hidden=",)
_ODS_SIGNS: Final = (b"formula=", b'value-type="error', b"value-type='error", b"visibility=")
"""XML without any of them has no error or hidden row: searching is faster than reading."""
_ODS_ERROR: Final = re.compile(r"#[A-Z/0]+[!?]?|Err:[0-9]+")


@dataclass(frozen=True)
class FaultyCell:
    """A cell without a usable value: row and column from 0, and its ``fault``, such as #N/A."""

    row: int
    column: int
    fault: str

    @property
    def address(self) -> str:
        """The cell's name in a spreadsheet, such as ``D7``."""
        letters, rest = "", self.column + 1
        while rest:
            rest, letter = divmod(rest - 1, 26)
            letters = chr(ord("A") + letter) + letters
        return f"{letters}{self.row + 1}"


def error_cells(errors: "CellErrors | None", first_column: int) -> Iterator[FaultyCell]:
    """The cells whose value was lost on reading; ``first_column``: that of the data, from 0."""
    for error in errors.errors if errors else ():
        row, column = error.position
        kind = re.search(r"Error\((\w+)\)", error.detail)
        fault = _ERRORS.get(kind[1], f"#{kind[1].upper()}") if kind else "unreadable value"
        yield FaultyCell(row, column + first_column, fault)


def scan_sheet(
    name: str, path: Path, sheet: str, size: tuple[int, int]
) -> tuple[list[FaultyCell], int]:
    """The faulty cells that only the XML of a sheet shows, and the number of its hidden rows.

    ``size``: rows and columns that count. Nothing for formats other than .xlsx and .ods, in which
    each formula has a value. Raises ``DataValidationError`` for damaged XML.
    """
    if not zipfile.is_zipfile(path):
        return [], 0
    with NamesDamage(name, "workbook"), zipfile.ZipFile(path) as book:
        part, signs = _sheet_part(book, sheet)
        if part is None or not _contains(book, part, signs):
            return [], 0
        with book.open(part) as xml:
            cells = _ods_cells(xml, sheet, size) if signs is _ODS_SIGNS else _xlsx_cells(xml)
            found = list(cells)
    return [cell for cell in found if cell], sum(cell is None for cell in found)


def _sheet_part(book: zipfile.ZipFile, sheet: str) -> tuple[str | None, tuple[bytes, ...]]:
    """The archive's file with a sheet's cells, None where it is not XML, and what to look for."""
    names = book.namelist()
    if "content.xml" in names:
        return "content.xml", _ODS_SIGNS
    if "xl/workbook.xml" not in names:
        return None, _XLSX_SIGNS
    relations = ElementTree.fromstring(book.read("xl/_rels/workbook.xml.rels"))
    targets = {one.get("Id"): one.get("Target", "") for one in relations}
    for one in ElementTree.fromstring(book.read("xl/workbook.xml")).iter():
        if _local(one.tag) == "sheet" and one.get("name") == sheet:
            target = targets[next(v for k, v in one.items() if _local(k) == "id" and k[0] == "{")]
            return target.lstrip("/") if target.startswith("/") else f"xl/{target}", _XLSX_SIGNS
    raise KeyError(f"it has no part of the name {sheet}")


def _contains(book: zipfile.ZipFile, part: str, signs: tuple[bytes, ...]) -> bool:
    """Whether the XML has a formula, an error or a hidden row at all: most sheets have none."""
    rest = b""
    with book.open(part) as xml:
        while block := xml.read(_BLOCK):
            data = rest + block
            if any(sign in data for sign in signs) or _has_formula(data):
                return True
            rest = block[-_OVERLAP:]
    return False


def _has_formula(data: bytes) -> bool:
    """Whether an element is named ``f``. By arrays: ``<`` is in every cell, ``f`` in few."""
    text = np.frombuffer(data, np.uint8)
    before = np.flatnonzero(text[1:-1] == ord("f"))
    begins = np.isin(text[before], list(b"<:"))
    return bool((begins & np.isin(text[before + 2], list(b" \t\r\n/>"))).any())


def _local(tag: str) -> str:
    """A name without its namespace: there are several for one format."""
    return tag.rpartition("}")[2]


def _attributes(element: ElementTree.Element) -> dict[str, str]:
    return {_local(key): value for key, value in element.items()}


def _xlsx_cells(xml: IO[bytes]) -> Iterator[FaultyCell | None]:
    """Formulas without value; None for each hidden row."""
    row = column = -1
    for event, element in ElementTree.iterparse(xml, ("start", "end")):
        tag = _local(element.tag)
        if tag == "row" and event == "start":
            row, column = int(element.get("r", row + 2)) - 1, -1
            if element.get("hidden") in ("1", "true"):
                yield None
        elif tag == "row":
            element.clear()
        elif tag == "c" and event == "end":
            column = _column(element.get("r", ""), column + 1)
            values = {_local(child.tag): child.text for child in element}
            if "f" in values and not values.get("v") and "is" not in values:
                yield FaultyCell(row, column, NO_VALUE)


def _column(reference: str, default: int) -> int:
    """The column of a cell such as ``D7``, from 0; ``default`` where the cell has no name."""
    letters = re.match("[A-Z]+", reference)
    if letters is None:
        return default
    column = 0
    for letter in letters[0]:
        column = 26 * column + ord(letter) - ord("A") + 1
    return column - 1


def _ods_cells(xml: IO[bytes], sheet: str, size: tuple[int, int]) -> Iterator[FaultyCell | None]:
    """Errors and formulas without value; None for each hidden row with values."""
    is_wanted, rows = False, range(0)
    for event, element in ElementTree.iterparse(xml, ("start", "end")):
        tag = _local(element.tag)
        if tag == "table" and event == "start":
            is_wanted, rows = _attributes(element).get("name") == sheet, range(0)
        elif tag == "table-row" and event == "end":
            attributes = _attributes(element)
            rows = range(rows.stop, rows.stop + int(attributes.get("number-rows-repeated", 1)))
            if is_wanted:
                faults, has_text = _ods_faults(element, size[1])
                inside = range(rows.start, min(rows.stop, size[0]))
                yield from (FaultyCell(row, at, fault) for row in inside for at, fault in faults)
                if has_text and attributes.get("visibility") in ("collapse", "filter"):
                    yield from (None for _ in inside)
            element.clear()


def _ods_faults(row: ElementTree.Element, width: int) -> tuple[list[tuple[int, str]], bool]:
    """The column and fault of a row's faulty cells, and whether the row has any text."""
    faults, column, has_text = list[tuple[int, str]](), 0, False
    for cell in row:
        attributes = _attributes(cell)
        count = int(attributes.get("number-columns-repeated", 1))
        text = "".join(cell.itertext()).strip()
        has_text = has_text or bool(text)
        fault = _ods_fault(attributes, text)
        if fault:
            faults += [(at, fault) for at in range(column, min(column + count, width))]
        column += count
    return faults, has_text


def _ods_fault(attributes: dict[str, str], text: str) -> str | None:
    kinds = attributes.get("value-type", "")
    if kinds == "error" or ("formula" in attributes and _ODS_ERROR.fullmatch(text)):
        return text or "error"
    if "formula" in attributes and not kinds and not text:
        return NO_VALUE
    return None
