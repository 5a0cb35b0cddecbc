"""``POST /explain``: the forecast of ``/predict`` and its drivers."""

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


def explain(api: TestClient, body: Any) -> ExplainResponse:
    response = api.post("/explain", json=body)
    assert response.status_code == 200, response.text
    assert set(response.json()) == set(ExplainResponse.model_fields)
    return ExplainResponse.model_validate_json(response.content, strict=True)


def factor(explanation: Explanation, name: str) -> float:
    return next(driver.factor for driver in explanation.drivers if driver.name == name)


def sample_rows(row: MakeRow, panel: Panel) -> list[dict[str, Any]]:
    """Rows of several stores, with and without promotion, one of them closed."""
    stores = panel.store_numbers
    return [
        row(n % 20 + 1, Store=int(stores[n % 9]), Promo=n % 2, Open=int(n != 5)) for n in range(24)
    ]


@pytest.mark.parametrize("objective", ["accuracy", "unbiased"])
def test_other_promo_is_the_forecast_of_the_row_with_its_promotion_switched(
    api: TestClient, row: MakeRow, panel: Panel, objective: str
) -> None:
    rows = sample_rows(row, panel)
    switched = [one | {"Promo": 1 - one["Promo"]} for one in rows]
    expected = api.post("/predict", json={"inputs": switched, "objective": objective}).json()
    result = explain(api, {"inputs": rows, "objective": objective})
    for one, explanation, forecast in zip(
        rows, result.explanations, expected["predictions"], strict=True
    ):
        other = explanation.other_promo
        if not one["Open"]:
            assert other is None
            continue
        assert other is not None
        assert (other.promo, other.forecast) == (1 - one["Promo"], forecast)
        change = 1 + other.percent / 100
        assert explanation.forecast * change == pytest.approx(forecast, rel=1e-9)


def test_explained_forecast_equals_predict_and_the_product_of_drivers(
    api: TestClient, row: MakeRow, panel: Panel
) -> None:
    body = {"inputs": sample_rows(row, panel), "intervals": [0.8], "quantiles": [0.1, 0.9]}
    served = api.post("/predict", json=body).json()
    result = explain(api, body)
    assert result.predictions == served["predictions"]
    assert [interval.model_dump() for interval in result.intervals] == served["intervals"]
    assert [quantile.model_dump() for quantile in result.quantiles] == served["quantiles"]
    assert result.warnings == served["warnings"] == []
    assert (result.as_of, result.model_version) == (served["as_of"], served["model_version"])
    assert [explanation.forecast for explanation in result.explanations] == served["predictions"]
    for explanation in result.explanations:
        by_factor = explanation.baseline * prod(driver.factor for driver in explanation.drivers)
        by_percent = explanation.baseline * prod(
            1 + driver.percent / 100 for driver in explanation.drivers
        )
        by_sales = explanation.baseline + sum(driver.sales for driver in explanation.drivers)
        assert by_factor == pytest.approx(explanation.forecast, rel=1e-12)
        assert by_percent == pytest.approx(explanation.forecast, rel=1e-9)
        assert by_sales == pytest.approx(explanation.forecast, rel=1e-9, abs=1e-9)


def test_drivers_of_open_and_closed_days(api: TestClient, row: MakeRow) -> None:
    opened, closed = explain(api, {"inputs": [row(1), row(2, Open=0)]}).explanations
    assert [driver.name for driver in opened.drivers] == list(DRIVER_LABELS)
    assert [driver.label for driver in opened.drivers] == list(DRIVER_LABELS.values())
    (only,) = closed.drivers
    assert (only.name, only.label, only.factor, only.percent) == ("closed", "Closed", 0, -100)
    assert closed.forecast == 0 and only.sales == -closed.baseline
    assert closed.baseline == pytest.approx(opened.baseline, rel=1e-4)


def test_promotion_changes_only_the_promotion_driver(api: TestClient, row: MakeRow) -> None:
    plain, promoted = explain(api, {"inputs": [row(2, Promo=0), row(2)]}).explanations
    assert factor(promoted, "promotion") > 1.05 > factor(plain, "promotion")
    increased = {d.name for d in promoted.drivers if d.factor > factor(plain, d.name) + 0.02}
    assert increased == {"promotion"}


def test_explanation_does_not_depend_on_the_batch(
    api: TestClient, row: MakeRow, panel: Panel
) -> None:
    rows = sample_rows(row, panel)
    batched = explain(api, {"inputs": rows}).explanations
    for index in (0, 5, 11):
        (single,) = explain(api, {"inputs": rows[index : index + 1]}).explanations
        assert single.forecast == pytest.approx(batched[index].forecast, rel=1e-9)
        for driver, other in zip(single.drivers, batched[index].drivers, strict=True):
            assert driver.name == other.name
            assert driver.factor == pytest.approx(other.factor, rel=1e-6)


@pytest.mark.parametrize(
    "body",
    [
        {"inputs": []},
        {},
        {"inputs": [{"Store": 4444}], "x": 1},
        {"inputs": [7], "intervals": [2], "as_of": "2015-02-30", "objective": "best"},
    ],
)
def test_validation_errors_equal_those_of_predict(api: TestClient, body: Any) -> None:
    explained = api.post("/explain", json=body)
    predicted = api.post("/predict", json=body)
    assert explained.status_code == predicted.status_code == 422
    assert explained.json()["detail"] == predicted.json()["detail"]


def test_unknown_version_and_malformed_bodies(api: TestClient, row: MakeRow) -> None:
    assert api.post("/explain", json={"inputs": [row()], "model_stage": "9"}).status_code == 404
    assert api.post("/explain", content=b"\xff").status_code == 400
    assert api.post("/explain", content=b"{").status_code == 422
    assert api.get("/explain").status_code == 405


def test_too_many_rows_is_413(make_app: MakeApp, row: MakeRow) -> None:
    with TestClient(make_app(explain_max_rows=3)) as api:
        assert len(explain(api, {"inputs": [row()] * 3}).explanations) == 3
        response = api.post("/explain", json={"inputs": [row()] * 4})
        assert response.status_code == 413
        result = ErrorResponse.model_validate_json(response.content)
        assert "at most 3 rows" in result.detail[0].msg
        assert api.post("/predict", json={"inputs": [row()] * 4}).status_code == 200


def test_explain_needs_a_key(make_app: MakeApp, row: MakeRow) -> None:
    with TestClient(make_app(api_keys="predict:" + "0" * 64)) as api:
        assert api.post("/explain", json={"inputs": [row()]}).status_code == 401


def test_as_of_stage_and_warnings(api: TestClient, row: MakeRow, panel: Panel) -> None:
    earlier = (panel.info.last_day - timedelta(days=60)).isoformat()
    body = {"inputs": [row(1, DayOfWeek=1), row(2, DayOfWeek=1)], "as_of": earlier,
            "model_stage": "Staging"}  # fmt: skip
    result = explain(api, body)
    assert (result.as_of, result.model_stage, result.model_version) == (earlier, "Staging", 2)
    assert {w.type for w in result.warnings} == {"day_of_week", "horizon"}


def test_client_explain(
    make_app: MakeApp, row: MakeRow, live: Callable[[FastAPI], AbstractContextManager[str]]
) -> None:
    with live(make_app(explain_max_rows=2)) as url, Client(url) as client:
        result = client.explain([row()], stage="Staging", intervals=[0.8])
        assert result.model_version == 2 and result.intervals[0].level == 0.8
        assert result.explanations[0].forecast == result.predictions[0]
        assert np.prod([d.factor for d in result.explanations[0].drivers]) > 0
        with pytest.raises(PayloadTooLargeError):
            client.explain([row()] * 3)
        with pytest.raises(RequestError):
            client.explain([row(Store=4444)])


def test_openapi_example_is_accepted(api: TestClient) -> None:
    document = api.get("/openapi.json").json()
    operation = document["paths"]["/explain"]["post"]
    body = operation["requestBody"]["content"]["application/json"]
    explain(api, body["example"])
    schema = operation["responses"]["200"]["content"]["application/json"]["schema"]["$ref"]
    assert schema.rsplit("/", 1)[1] in document["components"]["schemas"]


def test_import_of_runtime_does_not_import_numba() -> None:
    code = "import sys, rossmann.serving.runtime; print('numba' in sys.modules)"
    process = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert process.stdout.strip() == "False"


@pytest.mark.parametrize(("timeout", "used_timeout"), [(5.0, EXPLAIN_TIMEOUT), (600.0, 600.0)])
def test_client_timeout_of_explain_is_longer(
    row: MakeRow, timeout: float, used_timeout: float
) -> None:
    timeouts: list[float] = []

    def time_out(request: httpx.Request) -> httpx.Response:
        timeouts.append(request.extensions["timeout"]["read"])
        raise httpx.ReadTimeout("slow")

    with Client("http://here", timeout=timeout, transport=httpx.MockTransport(time_out)) as client:
        for call in (client.explain, client.predict):
            with pytest.raises(ServiceError, match="in time"):
                call([row()])
    assert timeouts == [used_timeout, timeout]
