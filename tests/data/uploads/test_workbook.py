"""Workbooks as spreadsheet programs write them: faulty cells are faults of their rows."""

import io
import re
import zipfile
from collections.abc import Callable
from datetime import date, time
from pathlib import Path

import polars as pl
import pytest
import xlsxwriter
import xlwt

from rossmann.data.uploads.table_reader import read_fields, read_table
from rossmann.errors import DataValidationError
from tests.fixtures.tables import ods_document

NAMES = ["Store", "Date", "Open", "Promo", "StateHoliday", "SchoolHoliday"]
DAY = date(2015, 8, 13)
ROWS = [[1, DAY, 1, 0, "0", 1], [2, DAY, "=NA()", 1, "0", 1], [3, DAY, 0, 1, "0", 1]]


def xlsx(rows: list[list[object]], at: tuple[int, int] = (0, 0), value: str = "#N/A") -> bytes:
    """A workbook; texts that begin with = are formulas with that ``value``."""
    out = io.BytesIO()
    book = xlsxwriter.Workbook(out, {"default_date_format": "yyyy-mm-dd"})
    sheet = book.add_worksheet("Plan")
    for row, cells in enumerate(rows, at[0]):
        for column, cell in enumerate(cells, at[1]):
            if isinstance(cell, str) and cell.startswith("="):
                sheet.write_formula(row, column, cell, None, value)
            else:
                sheet.write(row, column, cell)
    book.close()
    return out.getvalue()


def changed(content: bytes, change: Callable[[bytes], bytes]) -> bytes:
    """A workbook with ``change`` made to each of its XML files."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(out, "w") as new:
        for name in old.namelist():
            new.writestr(name, change(old.read(name)))
    return out.getvalue()


def strict(xml: bytes) -> bytes:
    """XML of "Strict Open XML", which Excel can save."""
    usual, strict_name = b"schemas.openxmlformats.org/spreadsheetml/2006", b"purl.oclc.org/ooxml"
    return xml.replace(usual, strict_name + b"/spreadsheetml")


def without_references(xml: bytes) -> bytes:
    return re.sub(rb'<(c|row) r="[A-Z0-9]+"', rb"<\1", xml)


def ods(*rows: str) -> bytes:
    return ods_document("".join(rows))


def ods_row(*cells: str, attributes: str = "") -> str:
    return f"<table:table-row {attributes}>{''.join(cells)}</table:table-row>"


def text_cell(text: str) -> str:
    kind = 'office:value-type="string"'
    return f"<table:table-cell {kind}><text:p>{text}</text:p></table:table-cell>"


def number(value: int, more: str = "") -> str:
    kind = f'office:value-type="float" office:value="{value}" {more}'
    return f"<table:table-cell {kind}><text:p>{value}</text:p></table:table-cell>"


ODS_DAY = (
    '<table:table-cell office:value-type="date" office:date-value="2015-08-13">'
    "<text:p>13.08.15</text:p></table:table-cell>"
)
ODS_NAMES = ods_row(*map(text_cell, NAMES))
EMPTY_LINES = (
    '<table:table-row table:number-rows-repeated="3"><table:table-cell/></table:table-row>'
)
ODS_ERRORS = {
    "#DIV/0! stored as 0": '<table:table-cell table:formula="of:=1/0" office:value-type="float"'
    ' office:value="0" calcext:value-type="error"><text:p>#DIV/0!</text:p></table:table-cell>',
    "#N/A stored as text": '<table:table-cell table:formula="of:=NA()" office:value-type="string"'
    ' office:string-value="" calcext:value-type="error"><text:p>#N/A</text:p></table:table-cell>',
    "Err:502 of OpenOffice": '<table:table-cell table:formula="of:=A(1)" office:value-type="float"'
    ' office:value="0"><text:p>Err:502</text:p></table:table-cell>',
    "formula without value stored": '<table:table-cell table:formula="of:=IF(1;0;1)"/>',
}


def open_of(content: bytes) -> list[str | None]:
    return read_fields("plan", content)[0]["Open"].to_list()


@pytest.mark.parametrize(
    ("change", "at"),
    [(bytes, (0, 0)), (bytes, (3, 2)), (strict, (0, 0)), (without_references, (0, 0))],
    ids=["plain", "not at A1", "strict", "cells without names"],
)
@pytest.mark.parametrize("value", ["#N/A", "#DIV/0!", ""])
def test_a_faulty_cell_has_its_fault_and_address(
    change: Callable[[bytes], bytes], at: tuple[int, int], value: str
) -> None:
    read = open_of(changed(xlsx([NAMES, *ROWS], at, value), change))
    fault = value or "formula without value"
    assert read == ["1", f"{fault} in cell {'E' if at[1] else 'C'}{at[0] + 3}", "0"]


@pytest.mark.parametrize("cell", ODS_ERRORS.values(), ids=ODS_ERRORS)
def test_an_error_of_an_ods_file_is_no_value(cell: str) -> None:
    """LibreOffice stores an error with the value 0: it would be read as closed."""
    faulty = ods_row(number(2), ODS_DAY, cell, number(1), text_cell("0"), number(1))
    good = ods_row(number(1), ODS_DAY, number(1), number(0), text_cell("0"), number(1))
    found = open_of(ods(EMPTY_LINES, ODS_NAMES, good, faulty, good))
    assert found[0] == found[2] == "1"
    assert re.fullmatch(r"(#DIV/0!|#N/A|Err:502|formula without value) in cell C6", found[1] or "")


def test_an_error_repeated_in_an_ods_file() -> None:
    error = ODS_ERRORS["#DIV/0! stored as 0"].replace(
        "<table:table-cell", '<table:table-cell table:number-columns-repeated="2"'
    )
    row = ods_row(number(2), ODS_DAY, error, text_cell("0"), number(1),
                  attributes='table:number-rows-repeated="2"')  # fmt: skip
    frame = read_fields("plan", ods(ODS_NAMES, row))[0]
    assert frame["Open"].to_list() == ["#DIV/0! in cell C2", "#DIV/0! in cell C3"]
    assert frame["Promo"].to_list() == ["#DIV/0! in cell D2", "#DIV/0! in cell D3"]


def test_hidden_rows_of_an_ods_file_are_said() -> None:
    cells = number(1), ODS_DAY, number(1), number(0), text_cell("0"), number(1)
    hidden = ods_row(*cells, attributes='table:visibility="filter"')
    assert "1 hidden row is read like the others" in read_table("p", ods(ODS_NAMES, hidden)).notes


def test_errors_of_a_users_own_column_stay_as_they_are() -> None:
    content = xlsx([[*NAMES, "x", "y"], [*ROWS[0], "=1/0", "a"]], value="#DIV/0!")
    assert read_table("plan", content).frame["c6"].to_list() == ["#DIV/0!"]
    content = xlsx([[*NAMES, "x", "y"], [*ROWS[0], '=""', "a"]], value="")
    assert read_table("plan", content).frame["c6"].to_list() == [None]


def test_times_of_day_of_a_users_own_column() -> None:
    content = xlsx([[*NAMES, "Opens"], [*ROWS[0], time(8, 30)]])
    assert read_table("plan", content).frame["c6"].to_list() == ["08:30:00"]


def test_damaged_xml_of_a_sheet_is_said() -> None:
    content = changed(xlsx([NAMES, *ROWS]), lambda xml: xml.replace(b"</row></sheetData>", b"<"))
    with pytest.raises(DataValidationError, match=r"plan is (no|a damaged) workbook"):
        read_table("plan", content)


def test_a_chart_is_no_sheet() -> None:
    out = io.BytesIO()
    book = xlsxwriter.Workbook(out, {"default_date_format": "yyyy-mm-dd"})
    chart = book.add_chart({"type": "line"})
    book.add_chartsheet("Chart").set_chart(chart)
    sheet = book.add_worksheet("Plan")
    for index, row in enumerate([NAMES, ROWS[0]]):
        sheet.write_row(index, 0, row)
    chart.add_series({"values": "=Plan!$A$2:$A$2"})
    book.close()
    assert len(read_table("plan", out.getvalue()).frame) == 1


def test_an_empty_workbook_is_said() -> None:
    with pytest.raises(DataValidationError, match="plan is empty: the sheet Plan has no cells"):
        read_table("plan", xlsx([]))
    assert read_table("plan", xlsx([NAMES])).frame.is_empty()


def test_dates_of_both_calendars() -> None:
    out = io.BytesIO()
    book = xlsxwriter.Workbook(out, {"default_date_format": "yyyy-mm-dd", "date_1904": True})
    sheet = book.add_worksheet("Plan")
    sheet.write_row(0, 0, NAMES)
    sheet.write_row(1, 0, ROWS[0])
    book.close()
    assert read_table("plan", out.getvalue()).frame["c1"].to_list() == [DAY]
    assert read_table("plan", xlsx([NAMES, *ROWS])).frame["c1"].dtype == pl.Date


def test_an_error_cell_of_an_xls_file(tmp_path: Path) -> None:
    book = xlwt.Workbook()
    sheet = book.add_sheet("Plan")
    for column, name in enumerate(NAMES):
        sheet.write(0, column, name)
    for column, cell in {0: 1, 1: "2015-08-13", 3: 0, 4: "0", 5: 1}.items():
        sheet.write(1, column, cell)
    sheet.row(1).set_cell_error(2, 0x2A)
    book.save(tmp_path / "plan.xls")
    assert open_of((tmp_path / "plan.xls").read_bytes()) == ["#N/A in cell C2"]
