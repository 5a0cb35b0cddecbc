"""The JSON examples of drivers.md and objectives.md, sent to the API."""

import json
import re
from collections.abc import Iterator
from math import prod
from typing import Any

import pytest
from fastapi.testclient import TestClient

from rossmann.data.panel.panel import Panel
from rossmann.models.ensemble.ensemble import Ensemble
from rossmann.models.inference.attributions import DRIVER_LABELS
from rossmann.models.inference.forecaster import Forecaster
from rossmann.models.publishing.trained_model import TrainedModel
from rossmann.serving.app import create_app
from rossmann.serving.runtime.service import Service
from rossmann.serving.runtime.version_manager import VersionManager
from rossmann.settings import Settings
from tests.paths import ROOT

PAGES = ROOT / "docs" / "modelops"


def json_blocks(page: str) -> list[dict[str, Any]]:
    text = (PAGES / page).read_text("utf-8")
    return [json.loads(block) for block in re.findall(r"```json\n(.*?)```", text, re.DOTALL)]


@pytest.fixture
def api(
    panel: Panel, trained: TrainedModel, registry: Any, serving_settings: Settings
) -> Iterator[TestClient]:
    ensemble = Ensemble.load(trained.folder)
    versions = VersionManager(
        registry, serving_settings.model_cache_dir, lambda _: Forecaster(panel, ensemble)
    )
    versions.start()
    service = Service(panel, versions, registry, lambda _: None)
    with TestClient(create_app(serving_settings, service)) as client:
        yield client


def test_drivers_example_has_the_fields_of_the_response(api: TestClient) -> None:
    request, example = json_blocks("drivers.md")
    response = api.post("/explain", json=request)
    assert response.status_code == 200, response.text
    (actual,) = response.json()["explanations"]
    assert set(example) == set(actual)
    assert [d["name"] for d in example["drivers"]] == [d["name"] for d in actual["drivers"]]
    assert {d["name"]: d["label"] for d in example["drivers"]} == DRIVER_LABELS
    assert all(set(driver) == set(actual["drivers"][0]) for driver in example["drivers"])
    for explanation, tolerance in ((example, 1e-3), (actual, 1e-12)):
        factors = [driver["factor"] for driver in explanation["drivers"]]
        amounts = [driver["sales"] for driver in explanation["drivers"]]
        forecast = pytest.approx(explanation["forecast"], rel=tolerance)
        assert explanation["baseline"] * prod(factors) == forecast
        assert explanation["baseline"] + sum(amounts) == forecast


def test_objectives_example_is_accepted(api: TestClient) -> None:
    (request,) = json_blocks("objectives.md")
    response = api.post("/predict", json=request)
    assert response.status_code == 200, response.text
    assert response.json()["objective"] == "unbiased"
