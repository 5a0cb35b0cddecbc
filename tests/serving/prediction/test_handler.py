"""``POST /predict`` as the contract has it."""

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


def faults(answer: Any, code: int = 422) -> dict[tuple[Any, ...], str]:
    """Place → message, after checking code and shape."""
    assert answer.status_code == code, answer.text
    told = ErrorResponse.model_validate_json(answer.content, strict=True)
    assert set(answer.json()) == {"detail", "request_id"}
    assert told.request_id == answer.headers["X-Request-ID"]
    return {tuple(fault.loc): fault.msg for fault in told.detail}


def test_answers_in_the_order_sent(api: TestClient, row: MakeRow, panel: Panel) -> None:
    rows = [row(n % 40 + 1, Store=int(panel.store_numbers[-1 - n % 7])) for n in range(200)]
    forward = api.post("/predict", json={"inputs": rows}).json()
    backward = api.post("/predict", json={"inputs": rows[::-1]}).json()
    assert forward["count"] == len(forward["predictions"]) == 200
    assert forward["predictions"] == backward["predictions"][::-1]
    assert len(set(forward["predictions"])) > 100


def test_faults_of_all_kinds_are_told_together(api: TestClient, row: MakeRow) -> None:
    early, late = row(-5), row(5) | {"Date": "2099-01-01"}
    asked = {"as_of": row(-2)["Date"]}
    of_dates = {("inputs", 0, "Date"), ("inputs", 1, "Date"), ("inputs", 2, "Date")}
    form = [early | {"Open": 7}, early, late]
    answer = api.post("/predict", json={"inputs": form, **asked})
    assert set(faults(answer)) == of_dates | {("inputs", 0, "Open")}
    answer = api.post("/predict", json={"inputs": [early, early, late], **asked})
    assert set(faults(answer)) == of_dates
    answer = api.post("/predict", json={"inputs": [early | {"Open": 7}], "as_of": "2099-01-01"})
    assert set(faults(answer)) == {("as_of",), ("inputs", 0, "Open"), ("inputs", 0, "Date")}
    answer = api.post("/predict", json={"inputs": [early | {"Store": 0}], "as_of": "soon"})
    assert set(faults(answer)) == {("as_of",), ("inputs", 0, "Store")}


def test_shape_and_defaults(api: TestClient, row: MakeRow, panel: Panel) -> None:
    answer = api.post("/predict", json={"inputs": [row()]})
    told = PredictResponse.model_validate_json(answer.content, strict=True)
    assert set(answer.json()) == set(PredictResponse.model_fields)
    assert (told.model_version, told.model_stage, told.count) == (1, "Production", 1)
    assert told.as_of == panel.info.last_day.isoformat()
    assert told.intervals == [] and told.warnings == []


def test_bounds_hold_the_forecast_and_closed_is_zero(api: TestClient, row: MakeRow) -> None:
    rows = [row(1), row(2, Open=0), row(3)]
    told = api.post("/predict", json={"inputs": rows, "intervals": [0.8, 0.95]}).json()
    assert told["predictions"][1] == 0
    assert [band["level"] for band in told["intervals"]] == [0.8, 0.95]
    for band in told["intervals"]:
        assert band["lower"][1] == band["upper"][1] == 0
        assert band["lower"][0] < told["predictions"][0] < band["upper"][0]


def test_stage_and_number_choose_the_version(api: TestClient, row: MakeRow) -> None:
    asked = {"Production": (1, "Production"), "Staging": (2, "Staging"), 3: (3, "None"),
             "3": (3, "None"), 2: (2, "Staging")}  # fmt: skip
    for wanted, expected in asked.items():
        told = api.post("/predict", json={"inputs": [row()], "model_stage": wanted}).json()
        assert (told["model_version"], told["model_stage"]) == expected


@pytest.mark.parametrize(
    "wanted", ["Archived", "None", "production", "", "99", "../1", 99, 0, -1, 10**30, "9" * 5000]
)
def test_unknown_version_names_those_there_are(api: TestClient, row: MakeRow, wanted: Any) -> None:
    told = faults(api.post("/predict", json={"inputs": [row()], "model_stage": wanted}), 404)
    assert "Production (version 1), Staging (version 2), versions 1, 2, 3" in told["model_stage",]


def test_as_of_is_the_origin(api: TestClient, row: MakeRow, panel: Panel) -> None:
    earlier = (panel.info.last_day - timedelta(days=30)).isoformat()
    inputs = [row(-20), row(1)]
    named = api.post("/predict", json={"inputs": inputs, "as_of": earlier}).json()
    assert named["as_of"] == earlier
    unnamed = api.post("/predict", json={"inputs": inputs}).json()
    assert unnamed["as_of"] == (panel.info.last_day - timedelta(days=21)).isoformat()
    assert named["predictions"] != unnamed["predictions"]


def test_as_of_out_of_reach(api: TestClient, row: MakeRow, panel: Panel) -> None:
    for days, place in ((1, ("as_of",)), (-9999, ("as_of",))):
        as_of = (panel.info.last_day + timedelta(days=days)).isoformat()
        assert place in faults(api.post("/predict", json={"inputs": [row(9)], "as_of": as_of}))
    same = panel.info.last_day.isoformat()
    inputs = [row(1), row(0), row(-5)]
    told = faults(api.post("/predict", json={"inputs": inputs, "as_of": same}))
    assert set(told) == {("inputs", 1, "Date"), ("inputs", 2, "Date")}
    for wrong in ("2015-02-30", "31.07.2015", "", 5, True, ["2015-07-31"]):
        assert ("as_of",) in faults(api.post("/predict", json={"inputs": [row()], "as_of": wrong}))


def test_every_fault_of_every_row(api: TestClient, row: MakeRow) -> None:
    inputs = [
        row(Store=4444, DayOfWeek=9),
        row(),
        row(Date="01.01.2015", Open=True, Extra=1),
        row(Promo=..., StateHoliday=0),
        7,
        row(Store="1", SchoolHoliday=1.0),
    ]
    told = faults(api.post("/predict", json={"inputs": inputs, "intervals": [2], "x": 1}))
    assert list(told) == [
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
    assert told["inputs", 0, "Store"] == "Store must be between 1 and 40 (got 4444)"
    assert told["inputs", 2, "Extra"].startswith("Extra is not a field")


@pytest.mark.parametrize("field", ["Store", "DayOfWeek", "Open", "Promo", "SchoolHoliday"])
@pytest.mark.parametrize("text", ["1.0", "true", '"1"', "null", "[1]", "{}", "NaN", "Infinity",
                                  "-Infinity", "1e0", "-1", "1" + "0" * 40])  # fmt: skip
def test_numbers_are_whole_numbers(api: TestClient, row: MakeRow, field: str, text: str) -> None:
    body = json.dumps({"inputs": [row(**{field: "HERE"})]}).replace('"HERE"', text)
    assert ("inputs", 0, field) in faults(api.post("/predict", content=body))


@pytest.mark.parametrize(
    "text",
    ["2015-8-1", "2015-13-01", "20150801", "08/01/2015", "2015-08-01T00:00:00", " 2015-08-01",
     "\uff12\uff10\uff11\uff15-08-01", "2015-W31-6", "", "tomorrow", "0001-01-01", "9999-12-31"],
)  # fmt: skip
def test_dates_are_iso_dates_in_reach(api: TestClient, row: MakeRow, text: str) -> None:
    assert ("inputs", 0, "Date") in faults(api.post("/predict", json={"inputs": [row(Date=text)]}))


def test_reach_of_dates(api: TestClient, row: MakeRow, panel: Panel) -> None:
    def code(day: date) -> int:
        changed = row(Date=day.isoformat(), DayOfWeek=day.isoweekday())
        return int(api.post("/predict", json={"inputs": [changed]}).status_code)

    first, last = panel.info.first_day, panel.info.last_day
    year_later = last.replace(year=last.year + 1)
    assert code(first) == 422 and code(first + timedelta(days=1)) == 200
    assert code(year_later) == 200 and code(year_later + timedelta(days=1)) == 422


def test_weekday_that_contradicts_the_date_is_a_warning(api: TestClient, row: MakeRow) -> None:
    inputs = [row(n % 9 + 1) for n in range(40)]
    right = api.post("/predict", json={"inputs": inputs}).json()
    wrong = [dict(r, DayOfWeek=r["DayOfWeek"] % 7 + 1) if n % 2 else r
             for n, r in enumerate(inputs)]  # fmt: skip
    told = api.post("/predict", json={"inputs": wrong}).json()
    assert told["predictions"] == right["predictions"]
    assert right["warnings"] == []
    (warning,) = told["warnings"]
    assert (warning["type"], warning["count"]) == ("day_of_week", 20)
    assert warning["rows"] == list(range(1, 20, 2))


def test_warnings_name_what_is_unknown(api: TestClient, row: MakeRow) -> None:
    told = api.post("/predict", json={"inputs": [row(1), row(60), row(49)]}).json()
    kinds = {warning["type"]: warning["rows"] for warning in told["warnings"]}
    assert kinds == {"horizon": [1, 2], "no_schedule": [1, 2]}


@pytest.mark.parametrize(
    ("body", "place"),
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
def test_odd_bodies(api: TestClient, body: bytes, place: tuple[Any, ...] | None) -> None:
    told = faults(api.post("/predict", content=body), 422 if place else 400)
    assert (place or ("body",)) in told


def test_level_that_the_version_cannot_give(api: TestClient, row: MakeRow) -> None:
    body = {"inputs": [row()], "intervals": [0.8, 0.3]}
    assert "from 0.5 to 0.99" in faults(api.post("/predict", json=body))["intervals", 1]


def test_repeated_keys_take_the_last(api: TestClient, row: MakeRow) -> None:
    text = json.dumps({"inputs": [row()]})
    twice = text.replace('"Open": 1', '"Open": 1, "Open": 0')
    assert api.post("/predict", content=twice).json()["predictions"] == [0]


def test_too_many_rows(api: TestClient, row: MakeRow) -> None:
    assert api.post("/predict", json={"inputs": [row()] * 5000}).status_code == 200
    for crowd in ([row()] * 5001, [{}] * 6000, [1] * 300_000, [row(Open=2)] * 5001):
        told = faults(api.post("/predict", json={"inputs": crowd}), 413)
        assert "at most 5,000 rows" in told["inputs",]


def test_unknown_fields_are_named_also_where_there_are_many(
    make_app: Callable[..., FastAPI], row: MakeRow
) -> None:
    with TestClient(make_app(max_rows=50)) as api:
        told = faults(api.post("/predict", json={"inputs": [row() | {"A": 1, "B": 2}] * 50}))
    assert set(told) == {("inputs", n, name) for n in range(50) for name in "AB"}


def test_too_many_bytes(make_app: Callable[..., FastAPI]) -> None:
    with TestClient(make_app(max_body_mb=1)) as api:
        told = faults(api.post("/predict", content=b" " * (2**20 + 1)), 413)
        assert "at most 1 MB" in told["body",]
        pieces = (b" " * 2**18 for _ in range(6))
        assert api.post("/predict", content=pieces).status_code == 413


def test_a_wide_request_is_answered_off_the_loop_with_the_same_numbers(
    api: TestClient, row: MakeRow
) -> None:
    rows = [row(n % 48 + 1, Store=n % 40 + 1) for n in range(300)]
    whole = api.post("/predict", json={"inputs": rows}).json()["predictions"]
    alone = [api.post("/predict", json={"inputs": [r]}).json()["predictions"][0] for r in rows]
    assert np.allclose(whole, alone, rtol=1e-12, atol=0)


def test_request_id_is_kept_when_it_is_sane(api: TestClient, row: MakeRow) -> None:
    body = {"inputs": [row()]}
    kept = api.post("/predict", json=body, headers={"X-Request-ID": "abc-1.2_3"})
    assert kept.json()["request_id"] == kept.headers["X-Request-ID"] == "abc-1.2_3"
    for odd in ("a b", "x" * 65, "<script>"):
        made = api.post("/predict", json=body, headers={"X-Request-ID": odd})
        assert made.json()["request_id"] != odd


def test_totals_that_there_are_not(api: TestClient, row: MakeRow) -> None:
    told = faults(api.post("/predict", json={"inputs": [row()], "totals": ["store", "region"]}))
    assert "store_type_week" in told["totals", 1]
    told = faults(api.post("/predict", json={"inputs": [row()], "totals": ["chain"]}))
    assert "rossmann train" in told[("totals",)]  # this version's card has no table for them
    assert api.post("/predict", json={"inputs": [row()], "totals": []}).status_code == 200
