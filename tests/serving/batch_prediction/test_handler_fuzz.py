"""Whatever a file holds: never 500, always the one shape, and nothing left behind."""

import gzip
import io
from collections.abc import Callable
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rossmann.data.uploads.fields import REQUIRED_FIELDS
from rossmann.serving.schemas.errors import ErrorResponse

MakeRow = Callable[..., dict[str, Any]]
fuzz = settings(
    max_examples=80,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
HEADER = ",".join(REQUIRED_FIELDS).encode() + b"\n"
texts = st.text(max_size=10) | st.sampled_from(
    ["1", "0", "a", "2015-08-01", "01/02/15", '"', '"x', "1.0", "", " ", "NaN", "9" * 30]
)


def check(answer: Any) -> None:
    if answer.status_code == 200:
        assert height(answer.content) == int(answer.headers["X-Rows"]) > 0
        return
    assert answer.status_code in {400, 413, 422}, answer.text
    told = ErrorResponse.model_validate_json(answer.content, strict=True)
    assert told.detail and all(fault.msg and fault.type for fault in told.detail)


def height(content: bytes) -> int:
    if content.startswith(b"PAR1"):
        return int(pq.read_metadata(io.BytesIO(content)).num_rows)
    if content.startswith(b"PK"):
        return pl.read_excel(content, infer_schema_length=0).height
    separator = max(",;\t", key=content.partition(b"\n")[0].decode().count)
    return pl.read_csv(content, separator=separator, infer_schema=False).height


@fuzz
@given(
    body=st.binary(max_size=300)
    | st.binary(max_size=200).map(lambda data: HEADER + data)
    | st.binary(max_size=200).map(lambda data: gzip.compress(HEADER + data))
    | st.tuples(st.sampled_from([b"PAR1", b"PK\x03\x04", b"\x1f\x8b", b"\xff\xfe", b"\xd0\xcf"]),
                st.binary(max_size=200)).map(b"".join)
)  # fmt: skip
def test_any_bytes(api: TestClient, body: bytes) -> None:
    check(api.post("/predict/file", content=body))


@fuzz
@given(
    table=st.lists(st.tuples(*[texts] * len(REQUIRED_FIELDS)), max_size=6),
    separator=st.sampled_from(",;\t"),
    kind=st.sampled_from(["csv", "parquet", "xlsx"]),
)
def test_any_text_in_any_field(
    api: TestClient, table: list[tuple[str, ...]], separator: str, kind: str
) -> None:
    lines = [REQUIRED_FIELDS, *table]
    body = "\n".join(separator.join(line) for line in lines).encode("utf-8", "replace")
    check(api.post(f"/predict/file?format={kind}", content=body))


@fuzz
@given(
    values=st.lists(st.integers(-(2**31), 2**31 - 1), min_size=1, max_size=5),
    kind=st.sampled_from(
        [pl.Date, pl.Int32, pl.Float32, pl.Boolean, pl.Time, pl.Datetime("ms"), pl.Duration,
         pl.List(pl.Int32), pl.Binary, pl.Decimal(20, 2), pl.Null, pl.Categorical]
    ),
    field=st.sampled_from([*REQUIRED_FIELDS, "Other"]),
)  # fmt: skip
def test_columns_of_any_kind(
    api: TestClient, row: MakeRow, values: list[int], kind: Any, field: str
) -> None:
    frame = pl.DataFrame([row()] * len(values)).drop("DayOfWeek")
    try:
        column = pl.Series(field, values).cast(kind, strict=False)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException):
        column = pl.Series(field, [None] * len(values), dtype=kind)
    out = io.BytesIO()
    frame.with_columns(column).write_parquet(out)
    for wanted in ("parquet", "csv", "xlsx"):
        check(api.post(f"/predict/file?format={wanted}", content=out.getvalue()))


@fuzz
@given(
    places=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=8)
)
@pytest.mark.parametrize("kind", ["parquet", "xlsx"])
def test_damaged_files(
    api: TestClient, row: MakeRow, kind: str, places: list[tuple[int, int]]
) -> None:
    out = io.BytesIO()
    frame = pl.DataFrame([row(n % 40 + 1) for n in range(50)])
    frame.write_parquet(out) if kind == "parquet" else frame.write_excel(out)
    body = bytearray(out.getvalue())
    for place, value in places:
        body[place % len(body)] = value
    check(api.post("/predict/file", content=bytes(body)))


def test_texts_that_unpack_to_gigabytes(api: TestClient, row: MakeRow) -> None:
    table = pl.DataFrame([row()] * 60_000).to_arrow(compat_level=pl.CompatLevel.oldest())
    note = pa.DictionaryArray.from_arrays(pa.array([0] * 60_000, pa.int32()), ["x" * 200_000])
    out = io.BytesIO()
    pq.write_table(table.append_column("note", note), out, store_schema=False)
    assert len(out.getvalue()) < 2**21
    answer = api.post("/predict/file", content=out.getvalue())
    check(answer)
    assert answer.status_code == 422
