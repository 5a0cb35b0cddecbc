"""``POST /predict/file``: formats, validation errors, options and limits."""

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
from rossmann.data.uploads.fields import EMPTY_ROW, FLAGS
from rossmann.serving.schemas.errors import ErrorResponse

MakeRow = Callable[..., dict[str, Any]]
FORMATS = ("csv", "parquet", "xlsx")
make_forecaster = pytest.fixture(lambda make_trained: make_trained)


def to_file(rows: list[dict[str, Any]], file_format: str) -> bytes:
    frame = pl.DataFrame(rows)
    buffer = io.BytesIO()
    if file_format == "csv":
        frame.write_csv(buffer)
    else:
        frame = frame.with_columns(pl.col("Date").str.to_date())
        frame.write_parquet(buffer) if file_format == "parquet" else frame.write_excel(buffer)
    return buffer.getvalue()


def read(content: bytes, file_format: str) -> pl.DataFrame:
    match file_format:
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


def without_id(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if k != "Id"} for row in rows]


def errors_by_loc(response: Any, code: int = 422) -> dict[tuple[Any, ...], str]:
    assert response.status_code == code, response.text
    result = ErrorResponse.model_validate_json(response.content, strict=True)
    return {tuple(error.loc): error.msg for error in result.detail}


@pytest.mark.parametrize("output_format", [None, *FORMATS])
@pytest.mark.parametrize("file_format", FORMATS)
def test_every_format_equals_predict_in_row_order(
    api: TestClient, rows: list[dict[str, Any]], file_format: str, output_format: str | None
) -> None:
    options = {"intervals": [0.8, 0.95], "quantiles": [0.9, 0.025], "objective": "unbiased"}
    result = api.post("/predict", json={"inputs": without_id(rows), **options}).json()
    query = "?intervals=0.8,0.95&quantiles=0.9,0.025,0.9&objective=unbiased" + (
        f"&format={output_format}" if output_format else ""
    )
    response = api.post(f"/predict/file{query}", content=to_file(rows, file_format))
    assert response.status_code == 200, response.text
    table = read(response.content, output_format or file_format)
    assert table["forecast"].cast(pl.Float64).to_list() == result["predictions"]
    for interval in result["intervals"]:
        name = f"{interval['level'] * 100:g}"
        assert table[f"lower_{name}"].cast(pl.Float64).to_list() == interval["lower"]
        assert table[f"upper_{name}"].cast(pl.Float64).to_list() == interval["upper"]
    for quantile in result["quantiles"]:
        name = f"quantile_{quantile['quantile'] * 100:g}"
        assert table[name].cast(pl.Float64).to_list() == quantile["sales"]
    assert table.columns[-6:-3] == ["upper_95", "quantile_90", "quantile_2.5"]
    assert [int(n) for n in table["Id"]] == [row["Id"] for row in rows]
    assert [str(day)[:10] for day in table["Date"]] == [row["Date"] for row in rows]
    assert set(table["model_version"]) == {1}
    assert {str(day)[:10] for day in table["as_of"]} == {result["as_of"]}
    assert (response.headers["X-As-Of"], response.headers["X-Rows"]) == (result["as_of"], "120")
    json_warnings = {w["type"]: (w["msg"], w["count"], w["rows"]) for w in result["warnings"]}
    warnings = json.loads(response.headers["X-Warnings"])
    assert json_warnings and json_warnings == {
        w["type"]: (w["msg"], w["count"], w["rows"]) for w in warnings
    }
    types_by_row = [set((text or "").split()) for text in table["warnings"]]
    for warning in warnings:
        assert sum(warning["type"] in each for each in types_by_row) == warning["count"]


def test_columns_of_a_file_keep_their_types(api: TestClient, rows: list[dict[str, Any]]) -> None:
    frame = read(to_file(rows, "parquet"), "parquet").with_columns(
        pl.col("Open").cast(pl.Float64),
        pl.col("StateHoliday").cast(pl.Categorical),
        ratio=pl.lit(0.1),
        forecast=pl.lit("old"),
        when=pl.datetime(2020, 1, 1, 12, 30),
    )
    buffer = io.BytesIO()
    frame.write_parquet(buffer)
    table = read(api.post("/predict/file", content=buffer.getvalue()).content, "parquet")
    kept = frame.drop("forecast", "StateHoliday")
    assert table.select(kept.columns).equals(kept)
    assert table["StateHoliday"].cast(pl.String).to_list() == ["0"] * len(rows)
    assert table.columns[-4:] == ["forecast", "model_version", "as_of", "warnings"]
    assert table["forecast"].dtype == pl.Float64


@pytest.mark.parametrize("file_format", FORMATS)
def test_boolean_is_accepted_for_flags_and_rejected_for_store(
    api: TestClient, rows: list[dict[str, Any]], file_format: str
) -> None:
    def with_booleans(*fields: str) -> bytes:
        return to_file(
            [{k: bool(v) if k in fields else v for k, v in r.items()} for r in rows], file_format
        )

    expected = api.post("/predict/file", content=to_file(rows, file_format))
    response = api.post("/predict/file", content=with_booleans(*FLAGS))
    assert response.status_code == 200, response.text
    table, same = read(response.content, file_format), read(expected.content, file_format)
    assert table["forecast"].equals(same["forecast"])
    errors = errors_by_loc(api.post("/predict/file", content=with_booleans("Store")))
    assert len(errors) == len(rows)
    place = {"csv": "line 2", "parquet": "row 1", "xlsx": "row 2"}[file_format]
    text = "Store must be a whole number from 1 to 2147483647 (got true)"
    assert errors["rows", 0, "Store"] == f"{place}: {text}"


def test_small_parquet_row_groups(api: TestClient, rows: list[dict[str, Any]]) -> None:
    buffer = io.BytesIO()
    frame = read(to_file(rows, "parquet"), "parquet")
    frame.with_columns(pl.col("StateHoliday").cast(pl.Categorical)).write_parquet(
        buffer, row_group_size=7
    )
    table = read(api.post("/predict/file", content=buffer.getvalue()).content, "parquet")
    expected = read(api.post("/predict/file", content=to_file(rows, "parquet")).content, "parquet")
    assert table.drop("StateHoliday").equals(expected.drop("StateHoliday"))


def test_csv_output_keeps_input_text_and_parquet_is_typed(api: TestClient, row: MakeRow) -> None:
    day = date.fromisoformat(row()["Date"])
    text = (
        "\ufeffid;store;DATE;open;promo;state_holiday;SchoolHoliday\r\n"
        f'"a;b";01;{day:%d.%m.%Y};1.0;1;A;0\r\n007;1;{day:%d.%m.%Y};;0;0;1\r\n;;;;;;\r\n'
    )
    response = api.post("/predict/file", content=text.encode())
    assert response.status_code == 200, response.text
    table = pl.read_csv(response.content, separator=";", infer_schema=False)
    assert table["id"].to_list() == ["a;b", "007"]
    assert table["store"].to_list() == ["01", "1"]
    assert table["DATE"].to_list() == [f"{day:%d.%m.%Y}"] * 2
    assert table["open"].to_list() == ["1.0", None]
    assert {w["type"] for w in json.loads(response.headers["X-Warnings"])} == {"open_unsaid"}
    assert table["warnings"].to_list() == [None, "open_unsaid"]
    response = api.post("/predict/file?format=parquet", content=text.encode())
    frame = read(response.content, "parquet")
    assert frame["DATE"].to_list() == [day] * 2
    assert frame["open"].to_list() == [1, int(day.isoweekday() < 7)]
    assert frame["forecast"].to_list() == [float(x) for x in table["forecast"]]


def test_empty_or_unreadable_file_is_rejected(api: TestClient) -> None:
    for body, message in (
        (b"", "empty"),
        (b"\n \n", "empty"),
        (b"\x00\x01\x02", "no table"),
        (b"a,b\n1,2\n", "lacks the columns Store"),
        (b"Store,Date,Open,Promo,StateHoliday,SchoolHoliday\n", "no rows"),
        (b"Store,Date,Open,Promo,StateHoliday,SchoolHoliday\n,,,,,\n", "no rows"),
        (b"PAR1 and no more", "no Parquet table"),
        (b"PK\x03\x04 and no more", "damaged zip file"),
        (b"\x1f\x8b and no more", "damaged gzip"),
    ):
        assert message in errors_by_loc(api.post("/predict/file", content=body))[("body",)]


def test_every_error_of_every_row_has_its_location(api: TestClient, row: MakeRow) -> None:
    rows = [row(), row(Store=9999), row(Date="2015-02-30"), row(Date="1999-01-01"), row(Open=2),
            row(400), row(Promo=7, SchoolHoliday=-1), row()]  # fmt: skip
    errors = errors_by_loc(api.post("/predict/file", content=to_file(rows, "csv")))
    assert list(errors) == [
        ("rows", 1, "Store"), ("rows", 2, "Date"), ("rows", 3, "Date"), ("rows", 4, "Open"),
        ("rows", 5, "Date"), ("rows", 6, "Promo"), ("rows", 6, "SchoolHoliday"),
    ]  # fmt: skip
    assert "got 9999" in errors["rows", 1, "Store"]
    assert "got 2015-02-30" in errors["rows", 2, "Date"]
    assert "a year after" in errors["rows", 5, "Date"]


def test_errors_beyond_a_thousand_are_counted(api: TestClient, row: MakeRow) -> None:
    rows = [row()] * 3 + [row(Store=9999, Open=5)] * 40_000
    response = api.post("/predict/file", content=to_file(rows, "csv"))
    errors = errors_by_loc(response)
    assert len(errors) == 1001
    assert errors["rows",] == "79,000 more faults are not listed"


def test_invalid_option_is_rejected_by_name(api: TestClient, rows: list[dict[str, Any]]) -> None:
    body = to_file(rows, "csv")
    for query, option in {
        "as_of=yesterday": "as_of", "intervals=0.8,x": "intervals", "intervals=2": "intervals",
        "objective=best": "objective", "format=pdf": "format", "date_format=YY": "date_format",
        "formats=csv": "formats", "as_of=1999-01-01": "as_of", "intervals=0.01": "intervals",
        "quantiles=0.1,x": "quantiles", "quantiles=1": "quantiles", "quantiles=0.001": "quantiles",
    }.items():  # fmt: skip
        errors = errors_by_loc(api.post(f"/predict/file?{query}", content=body))
        assert option in {loc[0] for loc in errors}, (query, errors)
    assert api.post("/predict/file?model_stage=77", content=body).status_code == 404
    assert api.post("/predict/file?model_stage=2", content=body).headers["X-Model-Version"] == "2"


def test_numbers_that_six_digits_do_not_tell_apart_have_columns_of_their_own(
    api: TestClient, row: MakeRow
) -> None:
    query = "intervals=0.8,0.80000001&quantiles=0.1,0.10000001&format=parquet"
    response = api.post(f"/predict/file?{query}", content=to_file([row()], "csv"))
    added = read(response.content, "parquet").columns[-10:-3]
    assert added == [
        *("forecast", "lower_80", "upper_80", "lower_80.000001", "upper_80.000001"),
        *("quantile_10", "quantile_10.000001"),
    ]


def test_as_of_option_and_its_default(api: TestClient, row: MakeRow) -> None:
    rows = [row(-10), row(-5)]
    as_of = row(-30)["Date"]
    predicted = api.post("/predict", json={"inputs": rows, "as_of": as_of}).json()
    response = api.post(f"/predict/file?as_of={as_of}", content=to_file(rows, "csv"))
    assert read(response.content, "csv")["forecast"].to_list() == predicted["predictions"]
    late = row(-7)["Date"]
    errors = errors_by_loc(api.post(f"/predict/file?as_of={late}", content=to_file(rows, "csv")))
    assert list(errors) == [("rows", 0, "Date")]
    # The default is the day before the earliest date of the file.
    response = api.post("/predict/file", content=to_file(rows, "csv"))
    assert response.headers["X-As-Of"] == row(-11)["Date"]


def test_ambiguous_date_format_must_be_specified(
    api: TestClient, row: MakeRow, panel: Panel
) -> None:
    year = panel.info.last_day.year
    rows = [row(Date=f"01/02/{year}"), row(Date=f"03/04/{year}")]
    body = to_file(rows, "csv")
    errors = errors_by_loc(api.post("/predict/file", content=body))
    assert "MM/DD/YYYY or DD/MM/YYYY" in errors[("date_format",)]
    origins = {
        api.post(f"/predict/file?date_format={one}", content=body).headers["X-As-Of"]
        for one in ("MM/DD/YYYY", "DD/MM/YYYY")
    }
    assert origins == {f"{year}-01-01", f"{year}-01-31"}


def test_multipart_form_holds_one_file(api: TestClient, rows: list[dict[str, Any]]) -> None:
    body = to_file(rows, "csv")
    expected = api.post("/predict/file", content=body)
    assert api.post("/predict/file", files={"file": ("x.csv", body)}).content == expected.content
    twice = [("file", ("x.csv", body)), ("file", ("y.csv", body))]
    assert "more than one file" in errors_by_loc(api.post("/predict/file", files=twice))[("body",)]
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    form_data = b"--x\r\nContent-Disposition: form-data\r\n\r\na"
    for malformed in (b"", b"--x", b"--x\r\n\r\n", form_data):
        response = api.post("/predict/file", content=malformed, headers=headers)
        assert ("body",) in errors_by_loc(response), malformed


@pytest.mark.parametrize("tail", [b"", b"\n", b"\n\n,,,,,,,\n"])
def test_trailing_empty_rows_are_ignored(
    api: TestClient, rows: list[dict[str, Any]], tail: bytes
) -> None:
    body = to_file(rows, "csv").rstrip(b"\n")
    response = api.post("/predict/file", content=body + tail)
    assert response.headers["X-Rows"] == "120"
    assert read(response.content, "csv").height == 120
    errors = errors_by_loc(api.post("/predict/file", content=body + b"\n,,,,,,,8\n"))
    assert errors["rows", 120].endswith(f": {EMPTY_ROW}")


def test_row_and_byte_limits_are_413(
    make_app: Callable[..., Any], rows: list[dict[str, Any]]
) -> None:
    body = to_file(rows, "csv")
    with TestClient(make_app(max_file_mb=1, max_file_rows=100)) as api:
        assert "100 rows" in errors_by_loc(api.post("/predict/file", content=body), 413)[("rows",)]
        long = b" " * (2**20 + 1)
        assert "1 MB" in errors_by_loc(api.post("/predict/file", content=long), 413)[("body",)]
        pieces: Iterator[bytes] = (b" " * 2**18 for _ in range(6))
        assert api.post("/predict/file", content=pieces).status_code == 413
        headers = {"Content-Type": "multipart/form-data; boundary=x"}
        line_breaks = (b"\r\n" * 2**17 for _ in range(100))
        form = api.post("/predict/file", content=line_breaks, headers=headers)
        assert form.status_code in {413, 422}
        form = api.post("/predict/file", files={"file": ("x", long)})
        assert form.status_code == 413


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs Linux's /proc")
def test_forecasts_load_neither_pandas_nor_booster_libraries(
    run_service: Callable[..., Any], rows: list[dict[str, Any]]
) -> None:
    # Arrow imports pandas where it can, which slows the start. Only drivers need the libraries.
    service = run_service()
    with httpx.Client(base_url=service.url, timeout=60, trust_env=False) as client:
        assert client.post("/predict", json={"inputs": without_id(rows[:3])}).is_success
        for file_format in FORMATS:
            for output_format in FORMATS:
                content = to_file([{**rows[0], "Date": "2001-02-03"}, *rows], file_format)
                url = f"/predict/file?format={output_format}"
                assert len(errors_by_loc(client.post(url, content=content))) == 1
                response = client.post(f"{url}&intervals=0.8", content=to_file(rows, file_format))
                assert response.is_success, response.text
    maps = Path(f"/proc/{service.process.pid}/maps").read_text()
    loaded = {Path(name).parts for name in maps.split() if name.endswith(".so")}
    packages = {part for parts in loaded for part in parts}
    assert {"numpy", "polars", "pyarrow"} & packages
    assert not {"pandas", "lightgbm", "xgboost", "catboost", "sklearn", "mlflow"} & packages
