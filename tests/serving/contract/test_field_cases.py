"""Field cases: files that people send, each with its right outcome at every entry point.

A case is one entry of ``FORECASTS``, ``INGESTS`` or ``BODIES``: its kind, its input, its outcome.
That is a number of rows with texts that must be said, or the text of the error.
"""

import gzip
import io
import json
import shutil
import zipfile
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import xlsxwriter
from fastapi.testclient import TestClient

import rossmann.serving.runtime.service
from rossmann.cli import main
from rossmann.data.prepare_predictions import read_upload
from rossmann.data.tables.cleaning import read_as_given
from rossmann.data.tables.ingest import ingest
from rossmann.data.tables.raw_tables import find_raw_tables
from rossmann.errors import DataValidationError, ErrorDetail
from rossmann.serving.runtime.service import Service
from rossmann.settings import Settings, load_settings

make_forecaster = pytest.fixture(lambda make_trained: make_trained)


@dataclass(frozen=True)
class Rows:
    """The file is read: so many rows; ``said``: texts of its notes."""

    count: int
    said: tuple[str, ...] = ()


@dataclass(frozen=True)
class Refused:
    """The file is refused with this text."""

    text: str


HEADER = "Store,Date,Open,Promo,StateHoliday,SchoolHoliday"
ONE, TWO = "1,2015-08-13,1,0,0,1", "2,2015-08-13,1,1,0,1"


def csv(*rows: str, header: str = HEADER, end: str = "\n") -> bytes:
    return (end.join((header, *rows)) + end).encode()


def semicolons(*rows: str, header: str = HEADER) -> bytes:
    return csv(*(row.replace(",", ";") for row in rows), header=header.replace(",", ";"))


def workbook(sheets: dict[str, list[list[Any]]], hidden: str = "", row: int = -1) -> bytes:
    """A workbook; dates are real ones, a text that begins with = is a formula without a value."""
    out = io.BytesIO()
    book = xlsxwriter.Workbook(out, {"default_date_format": "yyyy-mm-dd"})
    for name, rows in sheets.items():
        sheet = book.add_worksheet(name)
        for index, values in enumerate(rows):
            for column, value in enumerate(values):
                if isinstance(value, str) and value.startswith("="):
                    sheet.write_formula(index, column, value, None, "")
                else:
                    sheet.write(index, column, value)
        if name == hidden:
            sheet.very_hidden()
        else:
            sheet.activate()
            sheet.set_first_sheet()
        if row >= 0:
            sheet.set_row(row, options={"hidden": True})
    book.close()
    return out.getvalue()


NAMES = HEADER.split(",")
DAY = date(2015, 8, 13)
SHEET = [NAMES, [1, DAY, 1, 0, "0", 1], [2, DAY, 1, 1, "0", 1]]


def zipped(**files: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return out.getvalue()


def parquet(content: bytes) -> bytes:
    out = io.BytesIO()
    pl.read_csv(content, schema_overrides={"StateHoliday": pl.String}).write_parquet(out)
    return out.getvalue()


FORECASTS: dict[str, tuple[bytes, Rows | Refused]] = {
    # Numbers and dates, by the whole file
    "thousands that nothing decides": (
        semicolons("1.000,13.08.2015,1,0,0,1"), Refused("1.000 can be read as 1 or as 1000")),
    "thousands beside a decimal comma": (
        b"Store;Date;Open;Promo;StateHoliday;SchoolHoliday;Preis\n1.000;13.08.2015;1;0;0;1;12,5\n",
        Refused("got 1000")),
    "whole numbers with .0": (csv("1.0,2015-08-13,1.0,0.0,0,1.0"), Rows(1)),
    "ISO times of midnight with zones": (
        csv("1,2015-08-13T00:00:00Z,1,0,0,1", "2,2015-08-13T00:00:00.000+02:00,1,0,0,1"), Rows(2)),
    "slashes after the year": (csv("1,2015/08/13,1,0,0,1"), Rows(1)),
    "dates without separators": (csv("1,20150813,1,0,0,1"), Rows(1)),
    "month names": (csv("1,13-Aug-15,1,0,0,1"), Rows(1)),
    "American midnights": (csv("1,8/13/2015 0:00,1,0,0,1"), Rows(1)),
    "a time of day": (csv("1,2015-08-13 14:30,1,0,0,1"), Refused("it has a time of day")),
    "Excel's serial numbers": (csv("1,42229,1,0,0,1"), Refused("Excel's number for 2015-08-13")),
    "dashes after the day": (csv("1,13-08-2015,1,0,0,1"), Rows(1)),
    "dashes after the month": (csv("1,08-13-2015,1,0,0,1"), Rows(1)),
    "dashes, ambiguous": (csv("1,08-09-2015,1,0,0,1"), Refused("MM-DD-YYYY or DD-MM-YYYY")),
    "months in full": (csv("1,13. August 2015,1,0,0,1"), Rows(1)),
    "weekdays before dates": (csv('1,"Do, 13.08.2015",1,0,0,1'), Rows(1)),
    "a weekday of another date": (csv("1,Fr 13.08.2015,1,0,0,1"), Refused("another weekday")),
    "a format that is not read": (csv("1,2015-W33-4,1,0,0,1"), Refused("formats that are read")),
    "ambiguous dates": (csv("1,08/09/2015,1,0,0,1"), Refused("can be read as MM/DD/YYYY or DD")),
    # Quotation marks and lines
    "a backslash before a quotation mark": (
        csv(f'{ONE},"say \\"hi"', f"{TWO},mid", header=f"{HEADER},Note"),
        Refused("line 2, character")),
    "inch marks": (csv(f'{ONE},shelf 12" wide', f"{TWO},x", header=f"{HEADER},Note"), Rows(2)),
    "line ends in quotes": (csv(f'{ONE},"a\nb"', f"{TWO},x", header=f"{HEADER},Note"), Rows(2)),
    "CR alone": (csv(ONE, TWO, end="\r"), Rows(2)),
    "sep= line": (b"sep=;\n" + semicolons(ONE, TWO), Rows(2)),
    "line ends lost": (csv(ONE, TWO, end=""), Refused("--data-binary")),
    "vertical bars": (csv(ONE, TWO).replace(b",", b"|"), Rows(2)),
    "more values than names": (csv(ONE, f"{TWO},9"), Refused("line 3 has 7 values")),
    "a row that lost its last value": (
        csv("1,2015-08-13,0,0,1", header="Store,Date,Promo,StateHoliday,SchoolHoliday,Open"),
        Refused("Open must be 0 or 1 (got nothing: the row has 5 of 6 values)")),
    "empty columns left out at the end": (csv(ONE, f"{TWO},x", header=f"{HEADER},Note"), Rows(2)),
    "bytes that are no text": (
        csv(f"{ONE},x", header=f"{HEADER},Note").replace(b"x", b"\x81\xff"), Rows(1)),
    # What is not data
    "title and blank rows": (
        b"Plan August 2015,,,,,\n,,,,,\n" + csv(ONE, ",,,,,", TWO),
        Rows(2, ("Plan August 2015", "1 blank row is skipped"))),
    "a row of totals": (csv(ONE, "Total,,2,1,,2"), Refused("this looks like a row of totals")),
    "a second header": (csv(ONE, HEADER, TWO), Refused("a second row of column names: remove it")),
    # Columns
    "other case and blanks": (
        csv(ONE, header="STORE,date,open,promo,State Holiday,school_holiday"), Rows(1)),
    "German names": (
        csv(ONE, header="Filiale,Datum,Geöffnet,Aktion,Feiertag,Schulferien"),
        Rows(1, ("Filiale is read as Store", "Geöffnet is read as Open"))),
    "a column of the result": (csv(f"{ONE},7", header=f"{HEADER},forecast"), Rows(1)),
    # Workbooks
    "a hidden sheet before the visible one": (
        workbook({"Old": [NAMES, [9, DAY, 1, 1, "0", 0]], "Plan": SHEET}, hidden="Old"),
        Rows(2, ("hidden sheet Old is left out",))),
    "two sheets with tables": (workbook({"Plan": SHEET, "September": SHEET}), Refused("Plan, Sep")),
    "a sheet of notes": (
        workbook({"Notes": [["Read me"]], "Plan": SHEET}), Rows(2, ("the sheet Notes is left",))),
    "hidden rows": (workbook({"Plan": SHEET}, row=1), Rows(2, ("1 hidden row is read",))),
    "a formula without a value": (
        workbook({"Plan": [NAMES, [1, DAY, "=IF(1,0,1)", 0, "0", 1]]}),
        Refused("formula without value in cell C2")),
    # Archives and other formats
    "gzip": (gzip.compress(csv(ONE)), Rows(1)),
    "zip with a table": (zipped(plan=csv(ONE)), Rows(1)),
    "zip with what systems add": (
        zipped(plan=csv(ONE), **{".DS_Store": b"x", "__MACOSX/._plan": b"x"}), Rows(1)),
    "zip of gzip": (zipped(plan=gzip.compress(csv(ONE))), Rows(1)),
    "a form": (
        b'--x\r\nContent-Disposition: form-data; name="f"\r\n\r\n' + csv(ONE) + b"--x--",
        Refused("send the file itself as the body")),
    "zip with two": (zipped(a=csv(ONE), b=csv(TWO)), Refused("2 files (a, b)")),
    "PDF": (b"%PDF-1.7\n", Refused("a PDF document")),
    "JSON": (b'[{"Store": 1}]', Refused("JSON")),
}  # fmt: skip

SALES = "Store,DayOfWeek,Date,Sales,Customers,Open,Promo,StateHoliday,SchoolHoliday"
SOLD = "1,6,2015-08-01,5000,500,1,0,0,1"
INGESTS: dict[str, tuple[bytes, Rows | Refused]] = {
    "names in other case": (csv(SOLD, header=SALES.replace("Sales,Cust", "sales,cust")), Rows(1)),
    "German names": (
        csv(SOLD, header=SALES.replace("Sales,Customers", "Umsatz,Kunden")),
        Rows(1, ("Umsatz is read as Sales",))),
    "sales under an unknown name": (
        csv(SOLD, header=SALES.replace("Sales,Customers", "Turnover,Guests")),
        Refused("Turnover, Guests")),
    "a backslash before a quotation mark": (
        csv(f'{SOLD},"say \\"hi"', header=f"{SALES},Note"), Refused("line 2, character")),
    "thousands that nothing decides": (
        semicolons("1,6,2015-08-01,6.000,1.000,1,0,0,1", header=SALES),
        Refused("6.000 can be read as 6 or as 6000")),
    "thousands and cents": (
        semicolons("1,6,2015-08-01,x,500,1,0,0,1", header=SALES).replace(b"x", b"6.000,00"),
        Rows(1)),
    "German dates": (csv(SOLD.replace("2015-08-01", "01.08.2015"), header=SALES), Rows(1)),
}  # fmt: skip

PLAN = f"DayOfWeek,{HEADER}"
GOOD, BAD = f"4,{ONE}", "4,1,2015-08-13,7,0,0,1"
BAD_SHEET = [["Plan"], [], PLAN.split(","), [4, *SHEET[1]], [], [4, 1, DAY, 7, 0, "0", 1]]
POSITIONS: dict[str, tuple[bytes, str]] = {
    "blank rows": (csv(GOOD, "", ",,,,,,", BAD, header=PLAN), "line 5"),
    "title rows": (b"Plan\n\n" + csv(GOOD, BAD, header=PLAN), "line 5"),
    "sep= line": (b"sep=;\n" + semicolons(GOOD, BAD, header=PLAN), "line 4"),
    "line ends in quotes": (
        csv(f'{GOOD},"a\n\nb"', f"{BAD},", header=f'{PLAN},"of\nours"'), "line 6"),
    "line ends in quotes beside inch marks": (
        csv(f'{GOOD},"a\n\nb"', f'{BAD},5" up', header=f"{PLAN},Note"), "line 5"),
    "CR alone": (csv(GOOD, "", BAD, header=PLAN, end="\r"), "line 4"),
    "UTF-16 in gzip": (
        gzip.compress(csv(GOOD, "", BAD, header=PLAN, end="\r\n").decode().encode("utf-16")),
        "line 4"),
    "a workbook": (workbook({"Plan": BAD_SHEET}), "row 6"),
    "Parquet": (parquet(csv(GOOD, BAD, header=PLAN)), "row 2"),
}  # fmt: skip
"""Files with a bad row, and where it stands."""

ROW = {"Store": 1, "DayOfWeek": 4, "Date": "2015-08-13", "Open": 1, "Promo": 0,
       "StateHoliday": "0", "SchoolHoliday": 1}  # fmt: skip
BODY = json.dumps({"inputs": [ROW]}).encode()
BODIES: dict[str, tuple[str, bytes, dict[str, str], int | str]] = {
    "options in the query": ("?model_stage=Staging", BODY, {}, "options belong into the body"),
    "a key twice": ("", BODY.replace(b'"Store": 1', b'"Store": 1, "Store": 2'), {}, "Store is giv"),
    "an option twice": (
        "", BODY.replace(b"}]}", b'}], "as_of": null, "as_of": "2015-07-01"}'), {}, "as_of is giv"),
    "a key twice, escaped": (
        "", BODY.replace(b'"Store": 1', b'"Store": 1, "\\u0053tore": 2'), {}, "Store is given"),
    "a byte order mark": ("", b"\xef\xbb\xbf" + BODY, {}, 1),
    "gzip": ("", gzip.compress(BODY), {"Content-Encoding": "gzip"}, 1),
    "gzip cut short": ("", gzip.compress(BODY)[:-9], {"Content-Encoding": "gzip"}, "cut short"),
    "another encoding": ("", BODY, {"Content-Encoding": "br"}, "send the body plain or with gzip"),
}  # fmt: skip


@pytest.fixture(params=FORECASTS)
def case(request: pytest.FixtureRequest) -> tuple[bytes, Rows | Refused]:
    return FORECASTS[request.param]


def test_file_over_http(api: TestClient, case: tuple[bytes, Rows | Refused]) -> None:
    content, outcome = case
    response = api.post("/predict/file?format=csv", content=content)
    if isinstance(outcome, Refused):
        assert response.status_code == 422, response.text
        assert outcome.text in " ".join(e["msg"] for e in response.json()["detail"])
        return
    assert response.status_code == 200, response.text
    assert response.headers["X-Rows"] == str(outcome.count)
    notes = json.loads(response.headers["X-Notes"])
    assert all(any(text in note for note in notes) for text in outcome.said), notes


def test_file_on_the_command_line(
    case: tuple[bytes, Rows | Refused],
    service: Service,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    content, outcome = case
    monkeypatch.setattr(rossmann.serving.runtime.service, "build_service", lambda _: service)
    monkeypatch.setenv("ROSSMANN_DATA_DIR", str(tmp_path))
    source, target = tmp_path / "plan", tmp_path / "out.csv"
    source.write_bytes(content)
    code = main(["predict", str(source), "-o", str(target)])
    errors = capsys.readouterr().err
    assert (code == 0) == isinstance(outcome, Rows), errors
    for text in (outcome.text,) if isinstance(outcome, Refused) else outcome.said:
        assert text in errors
    assert target.exists() == (code == 0)


def test_file_on_the_dashboard(case: tuple[bytes, Rows | Refused]) -> None:
    """The page reads a file by this function, and shows its notes and errors."""
    content, outcome = case
    try:
        upload = read_upload("plan", content)
    except DataValidationError as error:
        assert isinstance(outcome, Refused) and outcome.text in str(error)
        return
    if isinstance(outcome, Refused) and not upload.errors:
        assert "1000" in outcome.text and 1000 in upload.rows.store  # the service refuses it
    elif isinstance(outcome, Refused):
        assert outcome.text in " ".join(error.msg for error in upload.errors)
    else:
        assert (len(upload.rows), upload.errors) == (outcome.count, [])
        assert all(any(text in note for note in upload.notes) for text in outcome.said)


@pytest.mark.parametrize("kind", POSITIONS)
def test_place_of_a_bad_row_over_http(api: TestClient, kind: str) -> None:
    content, place = POSITIONS[kind]
    response = api.post("/predict/file", content=content)
    assert response.status_code == 422
    [error] = response.json()["detail"]
    assert error["loc"] == ["rows", 1, "Open"]
    assert error["msg"] == f"{place}: Open must be 0 or 1 (got 7)"


@pytest.mark.parametrize("kind", POSITIONS)
def test_place_of_a_bad_row_on_the_command_line(
    kind: str,
    service: Service,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    content, place = POSITIONS[kind]
    monkeypatch.setattr(rossmann.serving.runtime.service, "build_service", lambda _: service)
    monkeypatch.setenv("ROSSMANN_DATA_DIR", str(tmp_path))
    (tmp_path / "plan").write_bytes(content)
    assert main(["predict", str(tmp_path / "plan"), "-o", str(tmp_path / "out.csv")]) == 1
    assert f"  {place}: Open must be 0 or 1 (got 7)\n" in capsys.readouterr().err


@pytest.mark.parametrize("kind", POSITIONS)
def test_place_of_a_bad_row_in_an_ingest(
    kind: str, chain_settings: Settings, tmp_path: Path
) -> None:
    content, place = POSITIONS[kind]
    settings = load_settings(data_dir=tmp_path, demo=True)
    shutil.copytree(chain_settings.demo_raw_dir, settings.demo_raw_dir)
    path = tmp_path / "days"
    path.write_bytes(content)
    with pytest.raises(
        DataValidationError, match=f"1 row; {place}: Store=1 Date=2015-08-13 Open=7"
    ):
        ingest(settings, path, "schedule")


FAULTS = {
    (0, "Store"): "got 9999", (0, "Open"): "got 7", (2, "Date"): "a year after",
    (2, "Promo"): "got 2", (3, "Store"): "got x", (3, "Date"): "after",
    (3, "StateHoliday"): "got q",
}  # fmt: skip
"""What is wrong with the rows of ``FAULTY``: what a look at them shows, and what the panel does."""
FAULTY = csv("9999,2015-08-13,7,0,0,1", ONE, "1,2035-08-13,1,2,0,1", "x,1999-01-01,1,0,q,1")


def test_all_faults_of_a_file_at_once_over_http(api: TestClient) -> None:
    detail = api.post("/predict/file", content=FAULTY).json()["detail"]
    assert [tuple(error["loc"][1:]) for error in detail] == list(FAULTS)
    assert all(text in e["msg"] for e, text in zip(detail, FAULTS.values(), strict=True))


def test_all_faults_of_rows_at_once_over_http(api: TestClient) -> None:
    rows = [{**ROW, "Store": 9999, "Open": 7}, ROW, {**ROW, "Date": "2035-08-13", "Promo": 2},
            {**ROW, "Store": "x", "Date": "1999-01-01", "StateHoliday": "q"}]  # fmt: skip
    detail = api.post("/predict", json={"inputs": rows}).json()["detail"]
    assert [tuple(error["loc"][1:]) for error in detail] == list(FAULTS)


@pytest.mark.parametrize("skip", [False, True])
def test_all_faults_of_a_file_at_once_on_the_command_line(
    skip: bool,
    service: Service,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(rossmann.serving.runtime.service, "build_service", lambda _: service)
    monkeypatch.setenv("ROSSMANN_DATA_DIR", str(tmp_path))
    source, target = tmp_path / "plan", tmp_path / "out.csv"
    source.write_bytes(FAULTY)
    options = ["--skip-faulty"] if skip else []
    assert main(["predict", str(source), "-o", str(target), *options]) == int(not skip)
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("  line ")]
    assert len(lines) == len(FAULTS)
    for line, ((row, field), text) in zip(lines, FAULTS.items(), strict=True):
        assert line.startswith(f"  line {row + 2}: {field} ") and text in line
    assert not skip or pl.read_csv(target)["Store"].to_list() == [1]


def test_all_faults_of_a_file_at_once_on_the_dashboard(api: TestClient) -> None:
    """The page sends what this table holds; see also tests/dashboard/batch/test_job.py."""
    upload = read_upload("plan", FAULTY)
    sample = upload.stores_and_days(invalid_only=True)
    content = io.BytesIO()
    sample.refused_table().write_parquet(content)
    answer = api.post("/predict/file", content=content.getvalue())
    assert answer.status_code == 422
    details = [ErrorDetail(tuple(e.pop("loc")), **e) for e in answer.json()["detail"]]
    found = [*upload.errors, *sample.errors_of(details)]
    assert {(int(e.loc[0]) - 1, e.loc[1]) for e in found} == set(FAULTS)


def test_without_a_version_the_faults_of_a_file_are_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ROSSMANN_DATA_DIR", str(tmp_path))
    (tmp_path / "plan").write_bytes(FAULTY)
    assert main(["predict", str(tmp_path / "plan"), "-o", str(tmp_path / "out.csv")]) == 1
    assert "  line 2: Open must be 0 or 1 (got 7)\n" in capsys.readouterr().err


@pytest.mark.parametrize("kind", INGESTS)
def test_ingest(kind: str, chain_settings: Settings, tmp_path: Path) -> None:
    content, outcome = INGESTS[kind]
    settings = load_settings(data_dir=tmp_path, demo=True)
    shutil.copytree(chain_settings.demo_raw_dir, settings.demo_raw_dir)
    path = tmp_path / "days"
    path.write_bytes(content)
    if isinstance(outcome, Refused):
        with pytest.raises(DataValidationError) as error:
            ingest(settings, path)
        assert outcome.text in str(error.value)
        assert not list(settings.ingested_dir.rglob("*.parquet"))
        return
    done = ingest(settings, path)
    assert (done.kind, done.added) == ("sales", outcome.count)
    assert all(any(text in note for note in done.notes) for text in outcome.said)
    assert done.increment is not None
    sold = pl.read_parquet(done.increment.path)
    assert sold["Sales"].to_list() == [6000 if "cents" in kind else 5000]


@pytest.mark.parametrize("kind", INGESTS)
def test_raw_table(kind: str, chain_settings: Settings, tmp_path: Path) -> None:
    content, outcome = INGESTS[kind]
    settings = load_settings(data_dir=tmp_path, demo=True)
    shutil.copytree(chain_settings.demo_raw_dir, settings.demo_raw_dir)
    (settings.demo_raw_dir / "train.csv").write_bytes(content)
    if isinstance(outcome, Rows):
        sold = read_as_given(find_raw_tables(settings)).history["Sales"].to_list()
        assert sold == [6000 if "cents" in kind else 5000]
        return
    with pytest.raises(DataValidationError) as error:
        read_as_given(find_raw_tables(settings))
    lacks = "lacks the columns Sales, Customers"
    assert (lacks if "unknown name" in kind else outcome.text) in str(error.value)


@pytest.mark.parametrize("kind", BODIES)
def test_rows_over_http(api: TestClient, kind: str) -> None:
    query, body, headers, outcome = BODIES[kind]
    response = api.post(f"/predict{query}", content=body, headers=headers)
    if isinstance(outcome, str):
        assert response.status_code == 422
        assert outcome in " ".join(error["msg"] for error in response.json()["detail"])
    else:
        assert response.status_code == 200, response.text
        assert response.json()["count"] == outcome
