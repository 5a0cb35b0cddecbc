"""Fuzz tests of the JSON routes: no status 500, and every body matches its schema."""

import json
import os
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import pytest
from fastapi.testclient import TestClient
from hypothesis import given, settings
from hypothesis import strategies as st

from rossmann.schema import ROW_FIELDS
from rossmann.serving.schemas.errors import ErrorResponse
from rossmann.serving.schemas.forecasts import PredictResponse

MakeRow = Callable[..., dict[str, Any]]

# The application is stateless between requests, so all examples of a test share one.
PROFILE = os.environ.get("HYPOTHESIS_PROFILE", "fuzz")
fuzz = settings(settings.get_profile(PROFILE))
pytestmark = pytest.mark.timeout(3_600 if PROFILE == "nightly" else 300)
scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=12)
    | st.sampled_from(["2015-08-01", "0", "a", 1, 0, 41, 2**31, 2**63, 10**40, 1e308, "1"])
)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)
days = st.dates().map(str) | st.integers(-700, 500).map(lambda n: f"+{n}")


def check(response: Any) -> None:
    """Check the status code and the schema of the body."""
    assert response.status_code in {200, 400, 404, 413, 422}, response.text
    schema = PredictResponse if response.status_code == 200 else ErrorResponse
    result = schema.model_validate_json(response.content, strict=True)
    if isinstance(result, PredictResponse):
        assert all(0 <= sales < float("inf") for sales in result.predictions)
    else:
        assert result.detail and all(error.msg and error.type for error in result.detail)


def post(api: TestClient, body: Any) -> Any:
    return api.post("/predict", content=json.dumps(body).encode())


@fuzz
@given(
    body=st.binary(max_size=200) | st.text(max_size=200).map(lambda t: t.encode("utf-8", "replace"))
)
def test_random_bytes(api: TestClient, body: bytes) -> None:
    check(api.post("/predict", content=body))


@fuzz
@given(body=values | st.fixed_dictionaries({"inputs": values}))
def test_random_json(api: TestClient, body: Any) -> None:
    check(post(api, body))


@fuzz
@given(
    changes=st.lists(
        st.dictionaries(st.sampled_from(ROW_FIELDS) | st.text(max_size=5), values, max_size=3),
        min_size=1,
        max_size=4,
    ),
    options=st.fixed_dictionaries(
        {},
        optional={
            "model_stage": values,
            "as_of": values | days,
            "intervals": values,
            "quantiles": values,
        },
    ),
)
def test_rows_with_random_changes(
    api: TestClient, row: MakeRow, changes: list[dict[str, Any]], options: dict[str, Any]
) -> None:
    check(post(api, {"inputs": [row() | change for change in changes], **options}))


@fuzz
@given(
    inputs=st.lists(
        st.fixed_dictionaries(
            {
                "Store": st.integers(-1, 42),
                "DayOfWeek": st.integers(1, 7),
                "Date": st.integers(-640, 380),
                "Open": st.integers(0, 1),
                "Promo": st.integers(0, 1),
                "StateHoliday": st.sampled_from("0abc"),
                "SchoolHoliday": st.integers(0, 1),
            }
        ),
        min_size=1,
        max_size=12,
    ),
    as_of=st.none() | st.integers(-640, 10),
    levels=st.lists(st.floats(0.01, 0.99), max_size=3),
    quantiles=st.lists(st.floats(0.005, 0.995), max_size=3),
)
def test_well_formed_rows(
    api: TestClient,
    row: MakeRow,
    inputs: list[dict[str, Any]],
    as_of: int | None,
    levels: list[float],
    quantiles: list[float],
) -> None:
    dates = [row(r["Date"])["Date"] for r in inputs]
    body: dict[str, Any] = {
        "inputs": [dict(r, Date=text) for r, text in zip(inputs, dates, strict=True)],
        "intervals": levels,
        "quantiles": quantiles,
    }
    if as_of is not None:
        body["as_of"] = row(as_of)["Date"]
    check(post(api, body))
    response = post(api, body)
    if response.status_code == 200:
        closed = [sales for sales, r in zip(response.json()["predictions"], inputs, strict=True)
                  if not r["Open"]]  # fmt: skip
        assert not any(closed)
    else:
        # Only these errors are possible for well-formed rows.
        assert {error["type"] for error in response.json()["detail"]} <= {
            "unknown_store",
            "date_before_history",
            "date_too_far",
            "date_not_after_as_of",
            "as_of_range",
            "level_range",
            "quantile_range",
        }


@fuzz
@given(
    path=st.sampled_from(["/stores/{}", "/stores/{}/history", "/stores/{}/plan", "/{}"]),
    store=st.text(max_size=12) | st.integers().map(str),
    query=st.dictionaries(
        st.sampled_from(["days", "until", "start", "other"]),
        st.text(max_size=12) | st.integers().map(str) | st.dates().map(str),
        max_size=3,
    ),
)
def test_random_store_paths(api: TestClient, path: str, store: str, query: dict[str, str]) -> None:
    response = api.get(path.format(quote(store, safe="")), params=query)
    assert response.status_code in {200, 404, 405, 422}, response.text
    if response.status_code != 200:
        assert ErrorResponse.model_validate_json(response.content, strict=True).detail


@fuzz
@given(
    path=st.sampled_from(
        ["/model/load", "/models/1/promote", "/models/rollback", "/models/0/promote"]
    ),
    body=st.binary(max_size=60) | values.map(lambda v: json.dumps(v).encode()),
    content_type=st.sampled_from(["application/json", "text/plain", ""]),
)
def test_random_bodies_of_model_operations(
    api: TestClient, path: str, body: bytes, content_type: str
) -> None:
    response = api.post(path, content=body, headers={"content-type": content_type})
    assert response.status_code in {200, 400, 404, 409, 413, 415, 422}, response.text
    if response.status_code != 200:
        assert ErrorResponse.model_validate_json(response.content, strict=True).detail
