"""Both objectives through every entry point: API, explain, client and forecaster."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from rossmann.data.panel.panel import Panel
from rossmann.errors import RequestError
from rossmann.models.ensemble.ensemble import Ensemble
from rossmann.models.inference.forecaster import Forecaster, ForecastRequest
from rossmann.serving.client.client import Client
from rossmann.serving.schemas.errors import ErrorResponse
from rossmann.serving.schemas.forecasts import ExplainResponse

MakeRow = Callable[..., dict[str, Any]]
MakeApp = Callable[..., FastAPI]
MakeForecaster = Callable[[Path], Forecaster]


@pytest.fixture
def make_forecaster(make_trained: MakeForecaster) -> MakeForecaster:
    return make_trained


def predict(api: TestClient, row: MakeRow, **options: Any) -> dict[str, Any]:
    rows = [row(1), row(2, Promo=0), row(3, Open=0)]
    response = api.post("/predict", json={"inputs": rows, **options})
    assert response.status_code == 200, response.text
    result: dict[str, Any] = response.json()
    return result


def test_unbiased_forecast_is_the_accurate_one_times_the_correction(
    api: TestClient, row: MakeRow, ensemble: Ensemble
) -> None:
    options = {"intervals": [0.8], "quantiles": [0.1, 0.5]}
    default = predict(api, row, **options)
    accuracy = predict(api, row, **options, objective="accuracy")
    unbiased = predict(api, row, **options, objective="unbiased")
    assert default["objective"] == accuracy["objective"] == "accuracy"
    assert default["predictions"] == accuracy["predictions"]
    assert unbiased["objective"] == "unbiased"
    without, with_promo = ensemble.card["unbiased"]["factors"]
    expected = np.array(default["predictions"]) * [with_promo, without, 1]
    assert unbiased["predictions"] == pytest.approx(expected, rel=1e-12)
    assert unbiased["predictions"][2] == 0
    assert unbiased["intervals"] == default["intervals"]
    assert unbiased["quantiles"] == default["quantiles"]
    assert default["quantiles"][1]["sales"] == default["predictions"]


def test_objective_setting_is_the_default_of_requests(make_app: MakeApp, row: MakeRow) -> None:
    with TestClient(make_app(objective="unbiased")) as api:
        assert predict(api, row)["objective"] == "unbiased"
        assert predict(api, row, objective=None)["objective"] == "unbiased"
        assert predict(api, row, objective="accuracy")["objective"] == "accuracy"


def test_unbiased_correction_is_a_driver(api: TestClient, row: MakeRow, ensemble: Ensemble) -> None:
    body = {"inputs": [row(1), row(2, Open=0)], "objective": "unbiased"}
    result = ExplainResponse.model_validate_json(api.post("/explain", json=body).content)
    opened, closed = result.explanations
    *_, last = opened.drivers
    assert (last.name, last.label) == ("totals", "Correction to unbiased totals")
    assert last.factor == ensemble.card["unbiased"]["factors"][1]
    product = opened.baseline * np.prod([driver.factor for driver in opened.drivers])
    assert product == pytest.approx(opened.forecast, rel=1e-12)
    assert opened.forecast == result.predictions[0]
    assert [driver.name for driver in closed.drivers] == ["closed"]


@pytest.mark.parametrize("invalid", ["best", "", 1, True, ["unbiased"], "UNBIASED"])
def test_unknown_objective_is_rejected_with_422(
    api: TestClient, row: MakeRow, invalid: Any
) -> None:
    response = api.post("/predict", json={"inputs": [row()], "objective": invalid})
    assert response.status_code == 422
    (error,) = ErrorResponse.model_validate_json(response.content).detail
    assert error.loc == ["objective"]
    assert error.msg.startswith("objective must be one of accuracy, unbiased (got ")


def test_unbiased_is_rejected_when_the_version_has_no_correction(
    api: TestClient, ensemble: Ensemble, row: MakeRow, panel: Panel
) -> None:
    del ensemble.card["unbiased"]
    assert predict(api, row)["objective"] == "accuracy"
    for path in ("/predict", "/explain"):
        response = api.post(path, json={"inputs": [row()], "objective": "unbiased"})
        assert response.status_code == 422
        (error,) = ErrorResponse.model_validate_json(response.content).detail
        assert (error.loc, error.type) == (["objective"], "no_correction")
        assert "rossmann train" in error.msg
    days = np.arange(panel.last_day + 1, panel.last_day + 4, dtype=np.int32)
    with pytest.raises(RequestError, match="before there were unbiased totals"):
        Forecaster(panel, ensemble).forecast(
            ForecastRequest(panel.store_schedule(1, days), objective="unbiased")
        )


def test_client_passes_the_objective(
    make_app: MakeApp, row: MakeRow, live: Callable[[FastAPI], AbstractContextManager[str]]
) -> None:
    with live(make_app()) as url, Client(url) as client:
        assert client.predict([row()]).objective == "accuracy"
        result = client.predict([row()], objective="unbiased")
        assert result.objective == "unbiased"
        assert client.explain([row()], objective="unbiased").predictions == result.predictions
