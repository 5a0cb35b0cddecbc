"""Fuzz tests of file uploads: no status 500, and every body matches its schema."""

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
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
HEADER = ",".join(REQUIRED_FIELDS).encode() + b"\n"
texts = st.text(max_size=10) | st.sampled_from(
    ["1", "0", "a", "2015-08-01", "01/02/15", '"', '"x', "1.0", "", " ", "NaN", "9" * 30]
)


def check(response: Any) -> None:
    if response.status_code == 200:
        assert height(response.content) == int(response.headers["X-Rows"]) > 0
        return
    assert response.status_code in {400, 413, 422}, response.text
    result = ErrorResponse.model_validate_json(response.content, strict=True)
    assert result.detail and all(error.msg and error.type for error in result.detail)


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
def test_random_bytes(api: TestClient, body: bytes) -> None:
    check(api.post("/predict/file", content=body))


@fuzz
@given(
    table=st.lists(st.tuples(*[texts] * len(REQUIRED_FIELDS)), max_size=6),
    separator=st.sampled_from(",;\t"),
    file_format=st.sampled_from(["csv", "parquet", "xlsx"]),
)
def test_random_text_in_every_field(
    api: TestClient, table: list[tuple[str, ...]], separator: str, file_format: str
) -> None:
    lines = [REQUIRED_FIELDS, *table]
    body = "\n".join(separator.join(line) for line in lines).encode("utf-8", "replace")
    check(api.post(f"/predict/file?format={file_format}", content=body))


@fuzz
@given(
    values=st.lists(st.integers(-(2**31), 2**31 - 1), min_size=1, max_size=5),
    dtype=st.sampled_from(
        [pl.Date, pl.Int32, pl.Float32, pl.Boolean, pl.Time, pl.Datetime("ms"), pl.Duration,
         pl.List(pl.Int32), pl.Binary, pl.Decimal(20, 2), pl.Null, pl.Categorical]
    ),
    field=st.sampled_from([*REQUIRED_FIELDS, "Other"]),
)  # fmt: skip
def test_columns_of_other_types(
    api: TestClient, row: MakeRow, values: list[int], dtype: Any, field: str
) -> None:
    frame = pl.DataFrame([row()] * len(values)).drop("DayOfWeek")
    try:
        column = pl.Series(field, values).cast(dtype, strict=False)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException):
        column = pl.Series(field, [None] * len(values), dtype=dtype)
    buffer = io.BytesIO()
    frame.with_columns(column).write_parquet(buffer)
    for output_format in ("parquet", "csv", "xlsx"):
        check(api.post(f"/predict/file?format={output_format}", content=buffer.getvalue()))


@fuzz
@given(
    changes=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=8)
)
@pytest.mark.parametrize("file_format", ["parquet", "xlsx"])
def test_damaged_files(
    api: TestClient, row: MakeRow, file_format: str, changes: list[tuple[int, int]]
) -> None:
    buffer = io.BytesIO()
    frame = pl.DataFrame([row(n % 40 + 1) for n in range(50)])
    frame.write_parquet(buffer) if file_format == "parquet" else frame.write_excel(buffer)
    body = bytearray(buffer.getvalue())
    for offset, value in changes:
        body[offset % len(body)] = value
    check(api.post("/predict/file", content=bytes(body)))


def test_column_that_decompresses_to_gigabytes_is_rejected(api: TestClient, row: MakeRow) -> None:
    table = pl.DataFrame([row()] * 60_000).to_arrow(compat_level=pl.CompatLevel.oldest())
    column = pa.DictionaryArray.from_arrays(pa.array([0] * 60_000, pa.int32()), ["x" * 200_000])
    buffer = io.BytesIO()
    pq.write_table(table.append_column("text", column), buffer, store_schema=False)
    assert len(buffer.getvalue()) < 2**21
    response = api.post("/predict/file", content=buffer.getvalue())
    check(response)
    assert response.status_code == 422
