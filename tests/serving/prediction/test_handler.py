"""``POST /predict``: responses, validation errors, warnings and limits."""

import json
from collections.abc import Callable
from datetime import date, timedelta
from typing import Any

import numpy as np
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from rossmann.data.panel.panel import Panel
from rossmann.serving.schemas.errors import ErrorResponse
from rossmann.serving.schemas.forecasts import PredictResponse

MakeRow = Callable[..., dict[str, Any]]


def errors_by_loc(response: Any, code: int = 422) -> dict[tuple[Any, ...], str]:
    """Messages by location, after a check of status code and schema."""
    assert response.status_code == code, response.text
    result = ErrorResponse.model_validate_json(response.content, strict=True)
    assert set(response.json()) == {"detail", "request_id"}
    assert result.request_id == response.headers["X-Request-ID"]
    return {tuple(error.loc): error.msg for error in result.detail}


def test_predictions_follow_the_order_of_inputs(
    api: TestClient, row: MakeRow, panel: Panel
) -> None:
    rows = [row(n % 40 + 1, Store=int(panel.store_numbers[-1 - n % 7])) for n in range(200)]
    forward = api.post("/predict", json={"inputs": rows}).json()
    backward = api.post("/predict", json={"inputs": rows[::-1]}).json()
    assert forward["count"] == len(forward["predictions"]) == 200
    assert forward["predictions"] == backward["predictions"][::-1]
    assert len(set(forward["predictions"])) > 100


def test_errors_of_all_checks_are_returned_together(api: TestClient, row: MakeRow) -> None:
    early, late = row(-5), row(5) | {"Date": "2099-01-01"}
    options = {"as_of": row(-2)["Date"]}
    date_locs = {("inputs", 0, "Date"), ("inputs", 1, "Date"), ("inputs", 2, "Date")}
    inputs = [early | {"Open": 7}, early, late]
    response = api.post("/predict", json={"inputs": inputs, **options})
    assert set(errors_by_loc(response)) == date_locs | {("inputs", 0, "Open")}
    response = api.post("/predict", json={"inputs": [early, early, late], **options})
    assert set(errors_by_loc(response)) == date_locs
    response = api.post("/predict", json={"inputs": [early | {"Open": 7}], "as_of": "2099-01-01"})
    assert set(errors_by_loc(response)) == {
        ("as_of",),
        ("inputs", 0, "Open"),
        ("inputs", 0, "Date"),
    }
    response = api.post("/predict", json={"inputs": [early | {"Store": 0}], "as_of": "soon"})
    assert set(errors_by_loc(response)) == {("as_of",), ("inputs", 0, "Store")}


def test_response_fields_and_defaults(api: TestClient, row: MakeRow, panel: Panel) -> None:
    response = api.post("/predict", json={"inputs": [row()]})
    result = PredictResponse.model_validate_json(response.content, strict=True)
    assert set(response.json()) == set(PredictResponse.model_fields)
    assert (result.model_version, result.model_stage, result.count) == (1, "Production", 1)
    assert result.as_of == panel.info.last_day.isoformat()
    assert result.intervals == result.quantiles == [] and result.warnings == []


def test_interval_contains_the_forecast_and_closed_days_are_zero(
    api: TestClient, row: MakeRow
) -> None:
    rows = [row(1), row(2, Open=0), row(3)]
    result = api.post("/predict", json={"inputs": rows, "intervals": [0.8, 0.95]}).json()
    assert result["predictions"][1] == 0
    assert [interval["level"] for interval in result["intervals"]] == [0.8, 0.95]
    for interval in result["intervals"]:
        assert interval["lower"][1] == interval["upper"][1] == 0
        assert interval["lower"][0] < result["predictions"][0] < interval["upper"][0]


def test_quantiles_come_in_the_order_of_the_request_and_closed_days_are_zero(
    api: TestClient, row: MakeRow
) -> None:
    rows = [row(1), row(2, Open=0), row(3)]
    body = {"inputs": rows, "quantiles": [0.9, 0.1, 0.025, 0.9, 0.5]}
    result = PredictResponse.model_validate_json(api.post("/predict", json=body).content)
    assert [one.quantile for one in result.quantiles] == [0.9, 0.1, 0.025, 0.5]
    assert all(one.sales[1] == 0 for one in result.quantiles)
    high, low, lowest, middle = (one.sales[0] for one in result.quantiles)
    assert 0 < lowest < low < middle < high
    assert result.intervals == []
    for absent in (None, []):
        body = {"inputs": rows, "quantiles": absent}
        assert api.post("/predict", json=body).json()["quantiles"] == []


def test_stage_or_number_selects_the_version(api: TestClient, row: MakeRow) -> None:
    cases = {"Production": (1, "Production"), "Staging": (2, "Staging"), 3: (3, "None"),
             "3": (3, "None"), 2: (2, "Staging")}  # fmt: skip
    for requested, expected in cases.items():
        result = api.post("/predict", json={"inputs": [row()], "model_stage": requested}).json()
        assert (result["model_version"], result["model_stage"]) == expected


@pytest.mark.parametrize(
    "requested", ["Archived", "None", "production", "", "99", "../1", 99, 0, -1, 10**30, "9" * 5000]
)
def test_unknown_version_is_404_and_lists_the_versions(
    api: TestClient, row: MakeRow, requested: Any
) -> None:
    errors = errors_by_loc(
        api.post("/predict", json={"inputs": [row()], "model_stage": requested}), 404
    )
    assert "Production (version 1), Staging (version 2), versions 1, 2, 3" in errors["model_stage",]


def test_as_of_is_the_origin(api: TestClient, row: MakeRow, panel: Panel) -> None:
    earlier = (panel.info.last_day - timedelta(days=30)).isoformat()
    inputs = [row(-20), row(1)]
    explicit = api.post("/predict", json={"inputs": inputs, "as_of": earlier}).json()
    assert explicit["as_of"] == earlier
    default = api.post("/predict", json={"inputs": inputs}).json()
    assert default["as_of"] == (panel.info.last_day - timedelta(days=21)).isoformat()
    assert explicit["predictions"] != default["predictions"]


def test_as_of_out_of_range_is_rejected(api: TestClient, row: MakeRow, panel: Panel) -> None:
    for days, loc in ((1, ("as_of",)), (-9999, ("as_of",))):
        as_of = (panel.info.last_day + timedelta(days=days)).isoformat()
        assert loc in errors_by_loc(api.post("/predict", json={"inputs": [row(9)], "as_of": as_of}))
    same = panel.info.last_day.isoformat()
    inputs = [row(1), row(0), row(-5)]
    errors = errors_by_loc(api.post("/predict", json={"inputs": inputs, "as_of": same}))
    assert set(errors) == {("inputs", 1, "Date"), ("inputs", 2, "Date")}
    for wrong in ("2015-02-30", "31.07.2015", "", 5, True, ["2015-07-31"]):
        assert ("as_of",) in errors_by_loc(
            api.post("/predict", json={"inputs": [row()], "as_of": wrong})
        )


def test_every_error_of_every_row_is_returned(api: TestClient, row: MakeRow) -> None:
    inputs = [
        row(Store=4444, DayOfWeek=9),
        row(),
        row(Date="01.01.2015", Open=True, Extra=1),
        row(Promo=..., StateHoliday=0),
        7,
        row(Store="1", SchoolHoliday=1.0),
    ]
    errors = errors_by_loc(api.post("/predict", json={"inputs": inputs, "intervals": [2], "x": 1}))
    assert list(errors) == [
        ("intervals", 0),
        ("x",),
        ("inputs", 0, "Store"),
        ("inputs", 0, "DayOfWeek"),
        ("inputs", 2, "Date"),
        ("inputs", 2, "Open"),
        ("inputs", 2, "Extra"),
        ("inputs", 3, "Promo"),
        ("inputs", 3, "StateHoliday"),
        ("inputs", 4),
        ("inputs", 5, "Store"),
        ("inputs", 5, "SchoolHoliday"),
    ]
    assert errors["inputs", 0, "Store"] == "Store must be between 1 and 40 (got 4444)"
    assert errors["inputs", 2, "Extra"].startswith("Extra is not a field")


@pytest.mark.parametrize("field", ["Store", "DayOfWeek", "Open", "Promo", "SchoolHoliday"])
@pytest.mark.parametrize("text", ["1.0", "true", '"1"', "null", "[1]", "{}", "NaN", "Infinity",
                                  "-Infinity", "1e0", "-1", "1" + "0" * 40])  # fmt: skip
def test_numeric_fields_accept_only_integers(
    api: TestClient, row: MakeRow, field: str, text: str
) -> None:
    body = json.dumps({"inputs": [row(**{field: "HERE"})]}).replace('"HERE"', text)
    assert ("inputs", 0, field) in errors_by_loc(api.post("/predict", content=body))


@pytest.mark.parametrize(
    "text",
    ["2015-8-1", "2015-13-01", "20150801", "08/01/2015", "2015-08-01T00:00:00", " 2015-08-01",
     "\uff12\uff10\uff11\uff15-08-01", "2015-W31-6", "", "tomorrow", "0001-01-01", "9999-12-31"],
)  # fmt: skip
def test_date_must_be_an_iso_date_in_range(api: TestClient, row: MakeRow, text: str) -> None:
    assert ("inputs", 0, "Date") in errors_by_loc(
        api.post("/predict", json={"inputs": [row(Date=text)]})
    )


def test_range_of_dates(api: TestClient, row: MakeRow, panel: Panel) -> None:
    def code(day: date) -> int:
        changed = row(Date=day.isoformat(), DayOfWeek=day.isoweekday())
        return int(api.post("/predict", json={"inputs": [changed]}).status_code)

    first, last = panel.info.first_day, panel.info.last_day
    year_later = last.replace(year=last.year + 1)
    assert code(first) == 422 and code(first + timedelta(days=1)) == 200
    assert code(year_later) == 200 and code(year_later + timedelta(days=1)) == 422


def test_wrong_day_of_week_is_a_warning(api: TestClient, row: MakeRow) -> None:
    inputs = [row(n % 9 + 1) for n in range(40)]
    expected = api.post("/predict", json={"inputs": inputs}).json()
    wrong = [dict(r, DayOfWeek=r["DayOfWeek"] % 7 + 1) if n % 2 else r
             for n, r in enumerate(inputs)]  # fmt: skip
    result = api.post("/predict", json={"inputs": wrong}).json()
    assert result["predictions"] == expected["predictions"]
    assert expected["warnings"] == []
    (warning,) = result["warnings"]
    assert (warning["type"], warning["count"]) == ("day_of_week", 20)
    assert warning["rows"] == list(range(1, 20, 2))


def test_warnings_for_horizon_and_missing_schedule(api: TestClient, row: MakeRow) -> None:
    result = api.post("/predict", json={"inputs": [row(1), row(60), row(49)]}).json()
    rows_by_type = {warning["type"]: warning["rows"] for warning in result["warnings"]}
    assert rows_by_type == {"horizon": [1, 2], "no_schedule": [1, 2]}


@pytest.mark.parametrize(
    ("body", "loc"),
    [
        (b"", ("body",)),
        (b"{", ("body",)),
        (b"not json", ("body",)),
        (b"[]", ("body",)),
        (b"null", ("body",)),
        (b"3", ("body",)),
        (b'"x"', ("body",)),
        (b"{}", ("inputs",)),
        (b'{"inputs": []}', ("inputs",)),
        (b'{"inputs": {}}', ("inputs",)),
        (b'{"inputs": null}', ("inputs",)),
        (b'{"inputs": [null]}', ("inputs", 0)),
        (b"[" * 90_000, ("body",)),
        (b'{"inputs":' + b"[" * 300 + b"]" * 300 + b"}", ("body",)),
        (b'{"inputs": [{"Store": "\\ud800"}]}', ("body",)),
        (b'{"inputs": [{"Store": ' + b"1" * 5000 + b"}]}", ("body",)),
        (b'{"inputs": [], "model_stage": true}', ("model_stage",)),
        (b'{"inputs": [], "model_stage": 1.5}', ("model_stage",)),
        (b'{"inputs": [], "intervals": [NaN]}', ("intervals", 0)),
        (b'{"inputs": [], "intervals": 0.8}', ("intervals",)),
        ("{}".encode("utf-16"), None),
        (b"\xff\xfe", None),
        (b'{"inputs": "\xed\xa0\x80"}', None),
    ],
)
def test_malformed_body_is_rejected(
    api: TestClient, body: bytes, loc: tuple[Any, ...] | None
) -> None:
    errors = errors_by_loc(api.post("/predict", content=body), 422 if loc else 400)
    assert (loc or ("body",)) in errors


def test_level_outside_the_calibrated_range_is_rejected(api: TestClient, row: MakeRow) -> None:
    body = {"inputs": [row()], "intervals": [0.8, 0.3]}
    assert "from 0.5 to 0.99" in errors_by_loc(api.post("/predict", json=body))["intervals", 1]


def test_invalid_quantiles_are_rejected_by_index(api: TestClient, row: MakeRow) -> None:
    def errors(quantiles: Any) -> dict[tuple[Any, ...], str]:
        body = {"inputs": [row()], "quantiles": quantiles}
        return errors_by_loc(api.post("/predict", json=body))

    assert errors([0.5, 0.005, 0.995]) == {
        ("quantiles", 1): "a quantile must be from 0.01 to 0.99 (got 0.005)",
        ("quantiles", 2): "a quantile must be from 0.01 to 0.99 (got 0.995)",
    }
    for wrong in (0, 1, -0.1, 10, "0.5", None, True):
        assert set(errors([0.5, wrong])) == {("quantiles", 1)}
    for wrong in (0.5, "0.5", {}, [0.5] * 21):
        assert set(errors(wrong)) == {("quantiles",)}
    many = [n / 100 for n in range(1, 21)]
    assert api.post("/predict", json={"inputs": [row()], "quantiles": many}).status_code == 200


def test_repeated_json_keys_are_rejected(api: TestClient, row: MakeRow) -> None:
    text = json.dumps({"inputs": [row(), row()]})
    twice = text[::-1].replace('"Open": 1'[::-1], '"Open": 1, "Open": 0'[::-1], 1)[::-1]
    errors = errors_by_loc(api.post("/predict", content=twice))
    assert errors == {("inputs", 1, "Open"): "Open is given more than once"}


def test_too_many_rows_is_413(api: TestClient, row: MakeRow) -> None:
    assert api.post("/predict", json={"inputs": [row()] * 5000}).status_code == 200
    for inputs in ([row()] * 5001, [{}] * 6000, [1] * 300_000, [row(Open=2)] * 5001):
        errors = errors_by_loc(api.post("/predict", json={"inputs": inputs}), 413)
        assert "at most 5,000 rows" in errors["inputs",]


def test_unknown_fields_of_every_row_are_named(
    make_app: Callable[..., FastAPI], row: MakeRow
) -> None:
    with TestClient(make_app(max_rows=50)) as api:
        errors = errors_by_loc(
            api.post("/predict", json={"inputs": [row() | {"A": 1, "B": 2}] * 50})
        )
    assert set(errors) == {("inputs", n, name) for n in range(50) for name in "AB"}


def test_a_thousand_errors_are_listed(api: TestClient, row: MakeRow) -> None:
    rows = [row(Store=9_999_999) | {"Open": 2} for _ in range(2_000)]
    response = api.post("/predict", json={"inputs": rows})
    *errors, more = response.json()["detail"]
    assert response.status_code == 422
    assert len(errors) == 1_000
    assert more["type"] == "more_faults"


def test_too_many_bytes_is_413(make_app: Callable[..., FastAPI]) -> None:
    with TestClient(make_app(max_body_mb=1)) as api:
        errors = errors_by_loc(api.post("/predict", content=b" " * (2**20 + 1)), 413)
        assert "at most 1 MB" in errors["body",]
        pieces = (b" " * 2**18 for _ in range(6))
        assert api.post("/predict", content=pieces).status_code == 413


def test_large_request_in_a_thread_equals_single_rows(api: TestClient, row: MakeRow) -> None:
    rows = [row(n % 48 + 1, Store=n % 40 + 1) for n in range(300)]
    batched = api.post("/predict", json={"inputs": rows}).json()["predictions"]
    single = [api.post("/predict", json={"inputs": [r]}).json()["predictions"][0] for r in rows]
    assert np.allclose(batched, single, rtol=1e-12, atol=0)


def test_valid_request_id_is_kept_and_invalid_replaced(api: TestClient, row: MakeRow) -> None:
    body = {"inputs": [row()]}
    response = api.post("/predict", json=body, headers={"X-Request-ID": "abc-1.2_3"})
    assert response.json()["request_id"] == response.headers["X-Request-ID"] == "abc-1.2_3"
    for invalid_id in ("a b", "x" * 65, "<script>"):
        response = api.post("/predict", json=body, headers={"X-Request-ID": invalid_id})
        assert response.json()["request_id"] != invalid_id


def test_unknown_or_unavailable_totals_are_rejected(api: TestClient, row: MakeRow) -> None:
    errors = errors_by_loc(
        api.post("/predict", json={"inputs": [row()], "totals": ["store", "region"]})
    )
    assert "store_type_week" in errors["totals", 1]
    errors = errors_by_loc(api.post("/predict", json={"inputs": [row()], "totals": ["chain"]}))
    assert "rossmann train" in errors[("totals",)]  # the card has no table of totals
    assert api.post("/predict", json={"inputs": [row()], "totals": []}).status_code == 200
