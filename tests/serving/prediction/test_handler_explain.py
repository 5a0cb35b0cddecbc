"""``POST /explain``: what ``/predict`` says, and what drove it."""

import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import timedelta
from math import prod
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from rossmann.data.panel.panel import Panel
from rossmann.errors import PayloadTooLargeError, RequestError, ServiceError
from rossmann.models.inference.attributions import DRIVER_LABELS
from rossmann.models.inference.forecaster import Forecaster
from rossmann.serving.client.client import EXPLAIN_TIMEOUT, Client
from rossmann.serving.schemas.errors import ErrorResponse
from rossmann.serving.schemas.forecasts import ExplainResponse, Explanation

MakeRow = Callable[..., dict[str, Any]]
MakeApp = Callable[..., FastAPI]
MakeForecaster = Callable[[Path], Forecaster]


@pytest.fixture
def make_forecaster(make_trained: MakeForecaster) -> MakeForecaster:
    return make_trained


def explained(api: TestClient, body: Any) -> ExplainResponse:
    answer = api.post("/explain", json=body)
    assert answer.status_code == 200, answer.text
    assert set(answer.json()) == set(ExplainResponse.model_fields)
    return ExplainResponse.model_validate_json(answer.content, strict=True)


def factor(told: Explanation, name: str) -> float:
    return next(driver.factor for driver in told.drivers if driver.name == name)


def some(row: MakeRow, panel: Panel) -> list[dict[str, Any]]:
    """Rows of several stores, with and without promotion, one of them closed."""
    stores = panel.store_numbers
    return [
        row(n % 20 + 1, Store=int(stores[n % 9]), Promo=n % 2, Open=int(n != 5)) for n in range(24)
    ]


def test_the_forecast_is_the_served_one_and_its_drivers_make_it(
    api: TestClient, row: MakeRow, panel: Panel
) -> None:
    body = {"inputs": some(row, panel), "intervals": [0.8]}
    served = api.post("/predict", json=body).json()
    told = explained(api, body)
    assert told.predictions == served["predictions"]
    assert [band.model_dump() for band in told.intervals] == served["intervals"]
    assert told.warnings == served["warnings"] == []
    assert (told.as_of, told.model_version) == (served["as_of"], served["model_version"])
    assert [one.forecast for one in told.explanations] == served["predictions"]
    for one in told.explanations:
        by_factor = one.baseline * prod(driver.factor for driver in one.drivers)
        by_percent = one.baseline * prod(1 + driver.percent / 100 for driver in one.drivers)
        by_sales = one.baseline + sum(driver.sales for driver in one.drivers)
        assert by_factor == pytest.approx(one.forecast, rel=1e-12)
        assert by_percent == pytest.approx(one.forecast, rel=1e-9)
        assert by_sales == pytest.approx(one.forecast, rel=1e-9, abs=1e-9)


def test_an_open_day_has_every_driver_and_a_closed_one_its_own(
    api: TestClient, row: MakeRow
) -> None:
    opened, closed = explained(api, {"inputs": [row(1), row(2, Open=0)]}).explanations
    assert [driver.name for driver in opened.drivers] == list(DRIVER_LABELS)
    assert [driver.label for driver in opened.drivers] == list(DRIVER_LABELS.values())
    (only,) = closed.drivers
    assert (only.name, only.label, only.factor, only.percent) == ("closed", "Closed", 0, -100)
    assert closed.forecast == 0 and only.sales == -closed.baseline
    assert closed.baseline == pytest.approx(opened.baseline, rel=1e-4)


def test_a_promotion_shows_as_one(api: TestClient, row: MakeRow) -> None:
    plain, promoted = explained(api, {"inputs": [row(2, Promo=0), row(2)]}).explanations
    assert factor(promoted, "promotion") > 1.05 > factor(plain, "promotion")
    raised = {d.name for d in promoted.drivers if d.factor > factor(plain, d.name) + 0.02}
    assert raised == {"promotion"}


def test_a_row_is_explained_alike_alone_and_in_company(
    api: TestClient, row: MakeRow, panel: Panel
) -> None:
    rows = some(row, panel)
    whole = explained(api, {"inputs": rows}).explanations
    for at in (0, 5, 11):
        (alone,) = explained(api, {"inputs": rows[at : at + 1]}).explanations
        assert alone.forecast == pytest.approx(whole[at].forecast, rel=1e-9)
        for one, other in zip(alone.drivers, whole[at].drivers, strict=True):
            assert one.name == other.name
            assert one.factor == pytest.approx(other.factor, rel=1e-6)


@pytest.mark.parametrize(
    "body",
    [
        {"inputs": []},
        {},
        {"inputs": [{"Store": 4444}], "x": 1},
        {"inputs": [7], "intervals": [2], "as_of": "2015-02-30", "objective": "best"},
    ],
)
def test_refuses_what_predict_refuses(api: TestClient, body: Any) -> None:
    told = api.post("/explain", json=body)
    other = api.post("/predict", json=body)
    assert told.status_code == other.status_code == 422
    assert told.json()["detail"] == other.json()["detail"]


def test_unknown_versions_and_other_bodies(api: TestClient, row: MakeRow) -> None:
    assert api.post("/explain", json={"inputs": [row()], "model_stage": "9"}).status_code == 404
    assert api.post("/explain", content=b"\xff").status_code == 400
    assert api.post("/explain", content=b"{").status_code == 422
    assert api.get("/explain").status_code == 405


def test_more_rows_than_are_explained_at_once(make_app: MakeApp, row: MakeRow) -> None:
    with TestClient(make_app(explain_max_rows=3)) as api:
        assert len(explained(api, {"inputs": [row()] * 3}).explanations) == 3
        answer = api.post("/explain", json={"inputs": [row()] * 4})
        assert answer.status_code == 413
        told = ErrorResponse.model_validate_json(answer.content)
        assert "at most 3 rows" in told.detail[0].msg
        assert api.post("/predict", json={"inputs": [row()] * 4}).status_code == 200


def test_needs_a_key_where_predict_does(make_app: MakeApp, row: MakeRow) -> None:
    with TestClient(make_app(api_keys="predict:" + "0" * 64)) as api:
        assert api.post("/explain", json={"inputs": [row()]}).status_code == 401


def test_as_of_stage_and_warnings(api: TestClient, row: MakeRow, panel: Panel) -> None:
    earlier = (panel.info.last_day - timedelta(days=60)).isoformat()
    body = {"inputs": [row(1, DayOfWeek=1), row(2, DayOfWeek=1)], "as_of": earlier,
            "model_stage": "Staging"}  # fmt: skip
    told = explained(api, body)
    assert (told.as_of, told.model_stage, told.model_version) == (earlier, "Staging", 2)
    assert {w.type for w in told.warnings} == {"day_of_week", "horizon"}


def test_the_client_explains(
    make_app: MakeApp, row: MakeRow, live: Callable[[FastAPI], AbstractContextManager[str]]
) -> None:
    with live(make_app(explain_max_rows=2)) as url, Client(url) as client:
        told = client.explain([row()], stage="Staging", intervals=[0.8])
        assert told.model_version == 2 and told.intervals[0].level == 0.8
        assert told.explanations[0].forecast == told.predictions[0]
        assert np.prod([d.factor for d in told.explanations[0].drivers]) > 0
        with pytest.raises(PayloadTooLargeError):
            client.explain([row()] * 3)
        with pytest.raises(RequestError):
            client.explain([row(Store=4444)])


def test_the_example_of_the_openapi_text_works(api: TestClient) -> None:
    text = api.get("/openapi.json").json()
    call = text["paths"]["/explain"]["post"]
    body = call["requestBody"]["content"]["application/json"]
    explained(api, body["example"])
    shape = call["responses"]["200"]["content"]["application/json"]["schema"]["$ref"]
    assert shape.rsplit("/", 1)[1] in text["components"]["schemas"]


def test_a_service_that_may_not_start_imports_nothing_slow() -> None:
    code = "import sys, rossmann.serving.runtime; print('numba' in sys.modules)"
    told = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert told.stdout.strip() == "False"


@pytest.mark.parametrize(("told", "waits"), [(5.0, EXPLAIN_TIMEOUT), (600.0, 600.0)])
def test_the_client_waits_longer_for_drivers(row: MakeRow, told: float, waits: float) -> None:
    seen: list[float] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request.extensions["timeout"]["read"])
        raise httpx.ReadTimeout("slow")

    with Client("http://here", timeout=told, transport=httpx.MockTransport(answer)) as client:
        for call in (client.explain, client.predict):
            with pytest.raises(ServiceError, match="in time"):
                call([row()])
    assert seen == [waits, told]
