"""Either objective by every door: one version, two answers."""

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


def ask(api: TestClient, row: MakeRow, **options: Any) -> dict[str, Any]:
    rows = [row(1), row(2, Promo=0), row(3, Open=0)]
    answer = api.post("/predict", json={"inputs": rows, **options})
    assert answer.status_code == 200, answer.text
    told: dict[str, Any] = answer.json()
    return told


def test_unbiased_is_the_accurate_forecast_times_its_factor(
    api: TestClient, row: MakeRow, ensemble: Ensemble
) -> None:
    plain = ask(api, row, intervals=[0.8])
    named = ask(api, row, intervals=[0.8], objective="accuracy")
    raised = ask(api, row, intervals=[0.8], objective="unbiased")
    assert plain["objective"] == named["objective"] == "accuracy"
    assert plain["predictions"] == named["predictions"]
    assert raised["objective"] == "unbiased"
    without, with_promo = ensemble.card["unbiased"]["factors"]
    expected = np.array(plain["predictions"]) * [with_promo, without, 1]
    assert raised["predictions"] == pytest.approx(expected, rel=1e-12)
    assert raised["predictions"][2] == 0
    assert raised["intervals"] == plain["intervals"]


def test_the_setting_decides_where_the_request_does_not(make_app: MakeApp, row: MakeRow) -> None:
    with TestClient(make_app(objective="unbiased")) as api:
        assert ask(api, row)["objective"] == "unbiased"
        assert ask(api, row, objective=None)["objective"] == "unbiased"
        assert ask(api, row, objective="accuracy")["objective"] == "accuracy"


def test_the_correction_is_a_driver(api: TestClient, row: MakeRow, ensemble: Ensemble) -> None:
    body = {"inputs": [row(1), row(2, Open=0)], "objective": "unbiased"}
    told = ExplainResponse.model_validate_json(api.post("/explain", json=body).content)
    opened, closed = told.explanations
    *_, last = opened.drivers
    assert (last.name, last.label) == ("totals", "Correction to unbiased totals")
    assert last.factor == ensemble.card["unbiased"]["factors"][1]
    product = opened.baseline * np.prod([driver.factor for driver in opened.drivers])
    assert product == pytest.approx(opened.forecast, rel=1e-12)
    assert opened.forecast == told.predictions[0]
    assert [driver.name for driver in closed.drivers] == ["closed"]


@pytest.mark.parametrize("wrong", ["best", "", 1, True, ["unbiased"], "UNBIASED"])
def test_an_unknown_objective_is_refused_by_name(api: TestClient, row: MakeRow, wrong: Any) -> None:
    answer = api.post("/predict", json={"inputs": [row()], "objective": wrong})
    assert answer.status_code == 422
    (fault,) = ErrorResponse.model_validate_json(answer.content).detail
    assert fault.loc == ["objective"]
    assert fault.msg.startswith("objective must be one of accuracy, unbiased (got ")


def test_a_version_without_a_correction_says_so(
    api: TestClient, ensemble: Ensemble, row: MakeRow, panel: Panel
) -> None:
    del ensemble.card["unbiased"]
    assert ask(api, row)["objective"] == "accuracy"
    for path in ("/predict", "/explain"):
        answer = api.post(path, json={"inputs": [row()], "objective": "unbiased"})
        assert answer.status_code == 422
        (fault,) = ErrorResponse.model_validate_json(answer.content).detail
        assert (fault.loc, fault.type) == (["objective"], "no_correction")
        assert "rossmann train" in fault.msg
    days = np.arange(panel.last_day + 1, panel.last_day + 4, dtype=np.int32)
    with pytest.raises(RequestError, match="before there were unbiased totals"):
        Forecaster(panel, ensemble).forecast(
            ForecastRequest(panel.store_schedule(1, days), objective="unbiased")
        )


def test_the_client_asks_for_either(
    make_app: MakeApp, row: MakeRow, live: Callable[[FastAPI], AbstractContextManager[str]]
) -> None:
    with live(make_app()) as url, Client(url) as client:
        assert client.predict([row()]).objective == "accuracy"
        told = client.predict([row()], objective="unbiased")
        assert told.objective == "unbiased"
        assert client.explain([row()], objective="unbiased").predictions == told.predictions
