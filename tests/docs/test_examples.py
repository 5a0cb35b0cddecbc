"""The examples in the pages about drivers and objectives work as they stand there."""

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


def blocks(page: str) -> list[dict[str, Any]]:
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


def test_the_example_of_drivers(api: TestClient) -> None:
    request, shown = blocks("drivers.md")
    answer = api.post("/explain", json=request)
    assert answer.status_code == 200, answer.text
    (told,) = answer.json()["explanations"]
    assert set(shown) == set(told)
    assert [d["name"] for d in shown["drivers"]] == [d["name"] for d in told["drivers"]]
    assert {d["name"]: d["label"] for d in shown["drivers"]} == DRIVER_LABELS
    assert all(set(driver) == set(told["drivers"][0]) for driver in shown["drivers"])
    for one, digits in ((shown, 1e-3), (told, 1e-12)):
        factors = [driver["factor"] for driver in one["drivers"]]
        amounts = [driver["sales"] for driver in one["drivers"]]
        assert one["baseline"] * prod(factors) == pytest.approx(one["forecast"], rel=digits)
        assert one["baseline"] + sum(amounts) == pytest.approx(one["forecast"], rel=digits)


def test_the_example_of_objectives(api: TestClient) -> None:
    (request,) = blocks("objectives.md")
    answer = api.post("/predict", json=request)
    assert answer.status_code == 200, answer.text
    assert answer.json()["objective"] == "unbiased"
