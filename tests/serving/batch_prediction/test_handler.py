"""``POST /predict/file``: the same rows with the same numbers as ``/predict``, in every format."""

import io
import json
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import Any

import httpx
import polars as pl
import pytest
from fastapi.testclient import TestClient

from rossmann.data.panel.panel import Panel
from rossmann.data.uploads.fields import FLAGS
from rossmann.serving.schemas.errors import ErrorResponse

MakeRow = Callable[..., dict[str, Any]]
KINDS = ("csv", "parquet", "xlsx")
make_forecaster = pytest.fixture(lambda make_trained: make_trained)


def written(rows: list[dict[str, Any]], kind: str) -> bytes:
    frame = pl.DataFrame(rows)
    out = io.BytesIO()
    if kind == "csv":
        frame.write_csv(out)
    else:
        frame = frame.with_columns(pl.col("Date").str.to_date())
        frame.write_parquet(out) if kind == "parquet" else frame.write_excel(out)
    return out.getvalue()


def read(content: bytes, kind: str) -> pl.DataFrame:
    match kind:
        case "csv":
            return pl.read_csv(content)
        case "parquet":
            return pl.read_parquet(content)
        case _:
            return pl.read_excel(content)


@pytest.fixture
def rows(row: MakeRow, panel: Panel) -> list[dict[str, Any]]:
    numbers = panel.store_numbers
    return [
        {**row(n * 7 % 60 + 1, Store=int(numbers[-1 - n % 9]), Open=int(n % 5 > 0)), "Id": n + 5}
        for n in range(120)
    ]


def plain(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if k != "Id"} for row in rows]


def faults(answer: Any, code: int = 422) -> dict[tuple[Any, ...], str]:
    assert answer.status_code == code, answer.text
    told = ErrorResponse.model_validate_json(answer.content, strict=True)
    return {tuple(fault.loc): fault.msg for fault in told.detail}


@pytest.mark.parametrize("wanted", [None, *KINDS])
@pytest.mark.parametrize("kind", KINDS)
def test_every_format_gives_the_bits_of_predict_in_the_order_sent(
    api: TestClient, rows: list[dict[str, Any]], kind: str, wanted: str | None
) -> None:
    asked = {"inputs": plain(rows), "intervals": [0.8, 0.95], "objective": "unbiased"}
    told = api.post("/predict", json=asked).json()
    query = "?intervals=0.8,0.95&objective=unbiased" + (f"&format={wanted}" if wanted else "")
    answer = api.post(f"/predict/file{query}", content=written(rows, kind))
    assert answer.status_code == 200, answer.text
    found = read(answer.content, wanted or kind)
    assert found["forecast"].cast(pl.Float64).to_list() == told["predictions"]
    for band in told["intervals"]:
        name = f"{band['level'] * 100:g}"
        assert found[f"lower_{name}"].cast(pl.Float64).to_list() == band["lower"]
        assert found[f"upper_{name}"].cast(pl.Float64).to_list() == band["upper"]
    assert [int(n) for n in found["Id"]] == [row["Id"] for row in rows]
    assert [str(day)[:10] for day in found["Date"]] == [row["Date"] for row in rows]
    assert set(found["model_version"]) == {1}
    assert {str(day)[:10] for day in found["as_of"]} == {told["as_of"]}
    assert (answer.headers["X-As-Of"], answer.headers["X-Rows"]) == (told["as_of"], "120")
    told_warnings = {w["type"]: (w["msg"], w["count"], w["rows"]) for w in told["warnings"]}
    warnings = json.loads(answer.headers["X-Warnings"])
    assert told_warnings and told_warnings == {
        w["type"]: (w["msg"], w["count"], w["rows"]) for w in warnings
    }
    kinds = [set((text or "").split()) for text in found["warnings"]]
    for warning in warnings:
        assert sum(warning["type"] in each for each in kinds) == warning["count"]


def test_the_columns_of_a_file_keep_their_kinds(
    api: TestClient, rows: list[dict[str, Any]]
) -> None:
    frame = read(written(rows, "parquet"), "parquet").with_columns(
        pl.col("Open").cast(pl.Float64),
        pl.col("StateHoliday").cast(pl.Categorical),
        ratio=pl.lit(0.1),
        forecast=pl.lit("old"),
        when=pl.datetime(2020, 1, 1, 12, 30),
    )
    out = io.BytesIO()
    frame.write_parquet(out)
    found = read(api.post("/predict/file", content=out.getvalue()).content, "parquet")
    kept = frame.drop("forecast", "StateHoliday")
    assert found.select(kept.columns).equals(kept)
    assert found["StateHoliday"].cast(pl.String).to_list() == ["0"] * len(rows)
    assert found.columns[-4:] == ["forecast", "model_version", "as_of", "warnings"]
    assert found["forecast"].dtype == pl.Float64


@pytest.mark.parametrize("kind", KINDS)
def test_a_flag_may_be_a_truth_and_a_store_may_not(
    api: TestClient, rows: list[dict[str, Any]], kind: str
) -> None:
    def truths(*fields: str) -> bytes:
        return written(
            [{k: bool(v) if k in fields else v for k, v in r.items()} for r in rows], kind
        )

    plain = api.post("/predict/file", content=written(rows, kind))
    asked = api.post("/predict/file", content=truths(*FLAGS))
    assert asked.status_code == 200, asked.text
    found, same = read(asked.content, kind), read(plain.content, kind)
    assert found["forecast"].equals(same["forecast"])
    told = faults(api.post("/predict/file", content=truths("Store")))
    assert len(told) == len(rows)
    assert (
        told["rows", 0, "Store"] == "Store must be a whole number from 1 to 2147483647 (got true)"
    )


def test_row_groups_may_be_tiny(api: TestClient, rows: list[dict[str, Any]]) -> None:
    out = io.BytesIO()
    frame = read(written(rows, "parquet"), "parquet")
    frame.with_columns(pl.col("StateHoliday").cast(pl.Categorical)).write_parquet(
        out, row_group_size=7
    )
    found = read(api.post("/predict/file", content=out.getvalue()).content, "parquet")
    whole = read(api.post("/predict/file", content=written(rows, "parquet")).content, "parquet")
    assert found.drop("StateHoliday").equals(whole.drop("StateHoliday"))


def test_text_keeps_its_spelling(api: TestClient, row: MakeRow) -> None:
    day = date.fromisoformat(row()["Date"])
    text = (
        "\ufeffid;store;DATE;open;promo;state_holiday;SchoolHoliday\r\n"
        f'"a;b";01;{day:%d.%m.%Y};1.0;1;A;0\r\n007;1;{day:%d.%m.%Y};;0;0;1\r\n;;;;;;\r\n'
    )
    answer = api.post("/predict/file", content=text.encode())
    assert answer.status_code == 200, answer.text
    found = pl.read_csv(answer.content, separator=";", infer_schema=False)
    assert found["id"].to_list() == ["a;b", "007"]
    assert found["store"].to_list() == ["01", "1"]
    assert found["DATE"].to_list() == [f"{day:%d.%m.%Y}"] * 2
    assert found["open"].to_list() == ["1.0", None]
    assert {w["type"] for w in json.loads(answer.headers["X-Warnings"])} == {"open_unsaid"}
    assert found["warnings"].to_list() == [None, "open_unsaid"]
    typed = api.post("/predict/file?format=parquet", content=text.encode())
    frame = read(typed.content, "parquet")
    assert frame["DATE"].to_list() == [day] * 2
    assert frame["open"].to_list() == [1, int(day.isoweekday() < 7)]
    assert frame["forecast"].to_list() == [float(x) for x in found["forecast"]]


def test_an_empty_file_and_what_is_no_table(api: TestClient) -> None:
    for body, said in (
        (b"", "empty"),
        (b"\n \n", "empty"),
        (b"\x00\x01\x02", "no table"),
        (b"a,b\n1,2\n", "lacks the columns Store"),
        (b"Store,Date,Open,Promo,StateHoliday,SchoolHoliday\n", "no rows"),
        (b"Store,Date,Open,Promo,StateHoliday,SchoolHoliday\n,,,,,\n", "no rows"),
        (b"PAR1 and no more", "no Parquet table"),
        (b"PK\x03\x04 and no more", "no workbook"),
        (b"\x1f\x8b and no more", "damaged gzip"),
    ):
        assert said in faults(api.post("/predict/file", content=body))[("body",)]


def test_every_fault_of_every_row_is_told_with_its_place(api: TestClient, row: MakeRow) -> None:
    rows = [row(), row(Store=9999), row(Date="2015-02-30"), row(Date="1999-01-01"), row(Open=2),
            row(400), row(Promo=7, SchoolHoliday=-1), row()]  # fmt: skip
    told = faults(api.post("/predict/file", content=written(rows, "csv")))
    assert list(told) == [
        ("rows", 1, "Store"), ("rows", 2, "Date"), ("rows", 3, "Date"), ("rows", 4, "Open"),
        ("rows", 5, "Date"), ("rows", 6, "Promo"), ("rows", 6, "SchoolHoliday"),
    ]  # fmt: skip
    assert "got 9999" in told["rows", 1, "Store"]
    assert "got 2015-02-30" in told["rows", 2, "Date"]
    assert "a year after" in told["rows", 5, "Date"]


def test_faults_beyond_a_thousand_are_counted(api: TestClient, row: MakeRow) -> None:
    rows = [row()] * 3 + [row(Store=9999, Open=5)] * 40_000
    answer = api.post("/predict/file", content=written(rows, "csv"))
    told = faults(answer)
    assert len(told) == 1001
    assert told["rows",] == "79,000 more faults are not listed"


def test_options_are_refused_by_name(api: TestClient, rows: list[dict[str, Any]]) -> None:
    body = written(rows, "csv")
    for query, place in {
        "as_of=yesterday": "as_of", "intervals=0.8,x": "intervals", "intervals=2": "intervals",
        "objective=best": "objective", "format=pdf": "format", "date_format=YY": "date_format",
        "formats=csv": "formats", "as_of=1999-01-01": "as_of", "intervals=0.01": "intervals",
    }.items():  # fmt: skip
        told = faults(api.post(f"/predict/file?{query}", content=body))
        assert place in {loc[0] for loc in told}, (query, told)
    assert api.post("/predict/file?model_stage=77", content=body).status_code == 404
    assert api.post("/predict/file?model_stage=2", content=body).headers["X-Model-Version"] == "2"


def test_an_origin_may_be_named(api: TestClient, row: MakeRow) -> None:
    rows = [row(-10), row(-5)]
    as_of = row(-30)["Date"]
    told = api.post("/predict", json={"inputs": rows, "as_of": as_of}).json()
    answer = api.post(f"/predict/file?as_of={as_of}", content=written(rows, "csv"))
    assert read(answer.content, "csv")["forecast"].to_list() == told["predictions"]
    late = row(-7)["Date"]
    told = faults(api.post(f"/predict/file?as_of={late}", content=written(rows, "csv")))
    assert list(told) == [("rows", 0, "Date")]
    # Without one, it is the day before the earliest date of the whole file.
    answer = api.post("/predict/file", content=written(rows, "csv"))
    assert answer.headers["X-As-Of"] == row(-11)["Date"]


def test_dates_that_can_be_read_in_two_ways(api: TestClient, row: MakeRow, panel: Panel) -> None:
    year = panel.info.last_day.year
    rows = [row(Date=f"01/02/{year}"), row(Date=f"03/04/{year}")]
    body = written(rows, "csv")
    told = faults(api.post("/predict/file", content=body))
    assert "MM/DD/YYYY or DD/MM/YYYY" in told[("date_format",)]
    seen = {
        api.post(f"/predict/file?date_format={one}", content=body).headers["X-As-Of"]
        for one in ("MM/DD/YYYY", "DD/MM/YYYY")
    }
    assert seen == {f"{year}-01-01", f"{year}-01-31"}


def test_a_form_holds_one_file(api: TestClient, rows: list[dict[str, Any]]) -> None:
    body = written(rows, "csv")
    alone = api.post("/predict/file", content=body)
    assert api.post("/predict/file", files={"file": ("x.csv", body)}).content == alone.content
    twice = [("file", ("x.csv", body)), ("file", ("y.csv", body))]
    assert "more than one file" in faults(api.post("/predict/file", files=twice))[("body",)]
    kind = {"Content-Type": "multipart/form-data; boundary=x"}
    for broken in (b"", b"--x", b"--x\r\n\r\n", b"--x\r\nContent-Disposition: form-data\r\n\r\na"):
        answer = api.post("/predict/file", content=broken, headers=kind)
        assert ("body",) in faults(answer), broken


@pytest.mark.parametrize("tail", [b"", b"\n", b"\n\n,,,,,,,\n"])
def test_empty_rows_at_the_end_are_no_rows(
    api: TestClient, rows: list[dict[str, Any]], tail: bytes
) -> None:
    body = written(rows, "csv").rstrip(b"\n")
    answer = api.post("/predict/file", content=body + tail)
    assert answer.headers["X-Rows"] == "120"
    assert read(answer.content, "csv").height == 120
    told = faults(api.post("/predict/file", content=body + b"\n,,,,,,,8\n"))
    assert told["rows", 120] == "the row is empty"


def test_limits(make_app: Callable[..., Any], rows: list[dict[str, Any]]) -> None:
    body = written(rows, "csv")
    with TestClient(make_app(max_file_mb=1, max_file_rows=100)) as api:
        assert "100 rows" in faults(api.post("/predict/file", content=body), 413)[("rows",)]
        long = b" " * (2**20 + 1)
        assert "1 MB" in faults(api.post("/predict/file", content=long), 413)[("body",)]
        pieces: Iterator[bytes] = (b" " * 2**18 for _ in range(6))
        assert api.post("/predict/file", content=pieces).status_code == 413
        kind = {"Content-Type": "multipart/form-data; boundary=x"}
        talk = (b"\r\n" * 2**17 for _ in range(100))
        assert api.post("/predict/file", content=talk, headers=kind).status_code in {413, 422}
        form = api.post("/predict/file", files={"file": ("x", long)})
        assert form.status_code == 413


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs Linux's /proc")
def test_forecasts_load_neither_pandas_nor_the_libraries_of_the_boosters(
    run_door: Callable[..., Any], rows: list[dict[str, Any]]
) -> None:
    # Arrow imports pandas in passing, where it may: a fifth of a start. Drivers need the libraries.
    door = run_door()
    with httpx.Client(base_url=door.url, timeout=60, trust_env=False) as client:
        assert client.post("/predict", json={"inputs": plain(rows[:3])}).is_success
        for kind in KINDS:
            for wanted in KINDS:
                content = written([{**rows[0], "Date": "2001-02-03"}, *rows], kind)
                asked = f"/predict/file?format={wanted}"
                assert len(faults(client.post(asked, content=content))) == 1
                answer = client.post(f"{asked}&intervals=0.8", content=written(rows, kind))
                assert answer.is_success, answer.text
    maps = Path(f"/proc/{door.process.pid}/maps").read_text()
    loaded = {Path(name).parts for name in maps.split() if name.endswith(".so")}
    found = {part for parts in loaded for part in parts}
    assert {"numpy", "polars", "pyarrow"} & found
    assert not {"pandas", "lightgbm", "xgboost", "catboost", "sklearn", "mlflow"} & found
