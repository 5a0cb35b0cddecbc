"""A/B experiment: assignment of stores, split requests, fallback to Production."""

import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from copy import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from rossmann.data.panel.panel import Panel
from rossmann.errors import CorruptModelError
from rossmann.models.inference.forecaster import Forecaster
from rossmann.schema import FeatureMatrix, FloatArray, Stage
from rossmann.serving.experiments.experiment import Experiment, StoreAssigner, hash_fraction
from rossmann.serving.runtime.service import Service
from rossmann.serving.schemas.forecasts import ExplainResponse, PredictResponse
from rossmann.settings import Settings

MakeRow = Callable[..., dict[str, Any]]
MakeApp = Callable[..., FastAPI]
Run = Callable[..., AbstractContextManager[TestClient]]
MakeForecaster = Callable[[Path], Forecaster]
STORES = np.arange(1, 1116, dtype=np.int32)


@pytest.fixture
def make_forecaster(make_trained_pair: MakeForecaster) -> MakeForecaster:
    return make_trained_pair


@pytest.fixture
def rows(row: MakeRow, panel: Panel) -> list[dict[str, Any]]:
    """Two days of every store, one of them closed, shuffled."""
    ordered = [
        row(ahead, Store=int(store), Promo=int(store) % 2, Open=int(store != 3))
        for store in panel.store_numbers
        for ahead in (1, 9)
    ]
    return [ordered[index] for index in np.random.default_rng(3).permutation(len(ordered))]


def predict(client: TestClient, rows: list[dict[str, Any]], **options: Any) -> PredictResponse:
    response = client.post("/predict", json={"inputs": rows, **options})
    assert response.status_code == 200, response.text
    return PredictResponse.model_validate_json(response.content, strict=True)


def challenger_rows(rows: list[dict[str, Any]], share: float = 0.4, salt: str = "1") -> list[int]:
    return [n for n, row in enumerate(rows) if hash_fraction(salt, row["Store"]) < share]


def test_share_is_approximate_and_a_larger_share_keeps_its_stores() -> None:
    before = np.zeros(len(STORES), bool)
    for share in (0.0, 0.05, 0.1, 0.3, 0.5, 0.9, 1.0):
        assigned = StoreAssigner("autumn", share).is_challenger(STORES)
        spread = 4 * np.sqrt(share * (1 - share) / len(STORES))
        assert abs(assigned.mean() - share) <= spread
        assert not (before & ~assigned).any()
        before = assigned
    assert before.all()


def test_another_salt_changes_the_assignment() -> None:
    one, other = (StoreAssigner(salt, 0.5).is_challenger(STORES) for salt in ("1", "2"))
    assert 0.4 < np.mean(one == other) < 0.6


@hypothesis_settings(max_examples=30, deadline=None)
@given(stores=st.lists(st.integers(1, 1115), min_size=1, max_size=80))
def test_assignment_depends_on_the_store_number_only(stores: list[int]) -> None:
    batched = StoreAssigner("1", 0.3).is_challenger(np.array(stores, np.int32))
    single = [
        bool(StoreAssigner("1", 0.3).is_challenger(np.array([s], np.int32))[0]) for s in stores
    ]
    assert batched.tolist() == single


def test_assignment_is_stable_between_processes_and_releases() -> None:
    # A fixed expectation: a change would reassign the stores of running experiments.
    code = (
        "import numpy as np\n"
        "from rossmann.serving.experiments.experiment import StoreAssigner\n"
        "flags = StoreAssigner('1', 0.1).is_challenger(np.arange(1, 61, dtype=np.int32))\n"
        "print(*(np.flatnonzero(flags) + 1))"
    )
    outputs = {
        subprocess.check_output([sys.executable, "-c", code], env={"PYTHONHASHSEED": seed})
        for seed in ("1", "2")
    }
    assert outputs == {b"6 8 26 33 44 51 54\n"}


def test_each_row_equals_its_own_version_exactly(
    experiment: Run, rows: list[dict[str, Any]]
) -> None:
    with experiment() as client:
        options = {"intervals": [0.8], "quantiles": [0.3, 0.9]}
        mixed = predict(client, rows, **options)
        first, second = (predict(client, rows, model_stage=n, **options) for n in (3, 2))
    challenger_indices = set(challenger_rows(rows))
    assert 0 < len(challenger_indices) < len(rows)
    assert mixed.challenger is not None
    assert (mixed.model_version, mixed.challenger.model_version) == (1, 2)
    assert mixed.challenger.rows == sorted(challenger_indices)
    assert first.challenger is second.challenger is None
    assert first.predictions != second.predictions
    for n in range(len(rows)):
        source = second if n in challenger_indices else first
        assert mixed.predictions[n] == source.predictions[n]
        for side in ("lower", "upper"):
            bound, expected = (getattr(r.intervals[0], side)[n] for r in (mixed, source))
            assert bound == expected
        for own, other in zip(mixed.quantiles, source.quantiles, strict=True):
            assert (own.quantile, own.sales[n]) == (other.quantile, other.sales[n])
    assert mixed.warnings == first.warnings


def test_forecast_does_not_depend_on_batch_or_order(
    experiment: Run, rows: list[dict[str, Any]]
) -> None:
    with experiment() as client:
        as_of = predict(client, rows).as_of
        batched = predict(client, rows, as_of=as_of).predictions
        reversed_order = predict(client, rows[::-1], as_of=as_of).predictions[::-1]
        single = [predict(client, [r], as_of=as_of).predictions[0] for r in rows[:20]]
    assert reversed_order == batched
    assert single == batched[:20]


def test_both_versions_use_one_origin(experiment: Run, rows: Any, panel: Panel) -> None:
    challenger_index = challenger_rows(rows)[0]
    production_index = next(n for n in range(len(rows)) if n not in challenger_rows(rows))
    early = panel.info.last_day.replace(day=1).isoformat()
    past = {**rows[production_index], "Date": early}
    with experiment() as client:
        both = predict(client, [past, rows[challenger_index]])
        requested = predict(client, [rows[challenger_index]], as_of=both.as_of, model_stage=2)
        by_default_origin = predict(client, [rows[challenger_index]], model_stage=2)
    assert both.as_of < early
    assert both.predictions[1] == requested.predictions[0] != by_default_origin.predictions[0]


def test_only_requests_for_production_are_split(
    experiment: Run, rows: list[dict[str, Any]]
) -> None:
    with experiment(experiment_share=1.0) as client:
        assert predict(client, rows[:3]).challenger is not None
        for requested in (1, "1", "Staging", 3):
            assert predict(client, rows[:3], model_stage=requested).challenger is None


def test_drivers_come_from_the_version_of_each_row(
    experiment: Run, rows: list[dict[str, Any]]
) -> None:
    with experiment() as client:

        def explain(**options: Any) -> ExplainResponse:
            response = client.post("/explain", json={"inputs": rows[:20], **options})
            return ExplainResponse.model_validate_json(response.content, strict=True)

        served, mixed = predict(client, rows[:20]), explain()
        first, second = explain(model_stage=3), explain(model_stage=2)
    challenger_indices = challenger_rows(rows[:20])
    assert mixed.predictions == served.predictions and mixed.challenger == served.challenger
    for n, explanation in enumerate(mixed.explanations):
        assert explanation == (second if n in challenger_indices else first).explanations[n]


def test_totals_use_production_with_a_warning(experiment: Run, rows: list[dict[str, Any]]) -> None:
    with experiment() as client:
        totals = predict(client, rows, totals=["chain"])
        first = predict(client, rows, totals=["chain"], model_stage=3)
    assert totals.challenger is None and totals.totals == first.totals
    assert totals.predictions == first.predictions
    (warning,) = [w for w in totals.warnings if w.type == "experiment"]
    assert (warning.count, warning.rows) == (len(challenger_rows(rows)), challenger_rows(rows)[:10])
    assert all(warning.type != "experiment" for warning in first.warnings)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_share_of_0_and_1(experiment: Run, rows: list[dict[str, Any]], share: float) -> None:
    with experiment(experiment_share=share) as client:
        result = predict(client, rows)
        expected = predict(client, rows, model_stage=2 if share else 3)
    assert result.predictions == expected.predictions
    assert (result.challenger is None) == (share == 0)


def test_production_handles_what_the_challenger_does_not_support(
    experiment: Run, service: Service, rows: list[dict[str, Any]]
) -> None:
    with experiment() as client:
        card = service.versions.load(2).served.forecaster.ensemble.card
        correction = card.pop("unbiased")
        assert predict(client, rows, objective="unbiased").challenger is None
        assert predict(client, rows).challenger is not None
        card["unbiased"] = correction
        calibrated = card["intervals"]
        card["intervals"] = {**calibrated, "levels": [0.8]}
        assert predict(client, rows, intervals=[0.95]).challenger is None
        card["intervals"] = calibrated
        assert predict(client, rows, intervals=[0.95]).challenger is not None


@pytest.mark.parametrize("error", [CorruptModelError("damaged"), KeyError("missing")], ids=repr)
def test_failing_challenger_is_disabled_and_production_responds(
    experiment: Run,
    service: Service,
    rows: list[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
) -> None:
    calls = []

    def fail(matrix: FeatureMatrix, threads: int = 1) -> FloatArray:
        calls.append(len(matrix))
        raise error

    with experiment() as client:
        assert predict(client, rows).challenger is not None
        monkeypatch.setattr(service.versions.load(2).served.forecaster.ensemble, "predict", fail)
        result = predict(client, rows)
        assert result.challenger is None
        assert result.predictions == predict(client, rows, model_stage=3).predictions
        assert predict(client, rows[:5]).challenger is None
        service.versions.poll()
        assert predict(client, rows).challenger is None
        assert len(calls) == 1


def test_challenger_follows_staging(
    serving_settings: Settings, service: Service, registry: Any, panel: Panel
) -> None:
    experiment = Experiment(
        serving_settings.model_copy(update={"experiment": "ab"}), service.versions
    )
    service.versions.on_poll(experiment.refresh_challenger)

    def challenger_version() -> int | None:
        challenger = experiment.challenger(panel)
        return None if challenger is None else challenger.served.version

    assert challenger_version() is None and "not loaded yet" in experiment.reason
    service.versions.poll()
    assert challenger_version() == 2 and not experiment.reason
    registry.add(2)
    registry.add(3, Stage.STAGING)
    service.versions.poll()
    assert challenger_version() == 3
    registry.unavailable = True
    service.versions.poll()
    assert challenger_version() == 3
    registry.unavailable = False
    registry.promote(3, "", "")
    service.versions.poll()
    assert challenger_version() is None and "no version is in Staging" in experiment.reason


def test_challenger_by_number_is_disabled_while_it_is_production(
    serving_settings: Settings, service: Service, registry: Any, panel: Panel
) -> None:
    changes = {"experiment": "ab", "experiment_challenger": "2"}
    experiment = Experiment(serving_settings.model_copy(update=changes), service.versions)
    service.versions.on_poll(experiment.refresh_challenger)
    registry.promote(2, "", "")
    service.versions.poll()
    assert experiment.challenger(panel) is None
    assert experiment.reason == "version 2 is Production itself"
    registry.promote(1, "", "")
    service.versions.poll()
    assert experiment.challenger(panel) is not None and experiment.reason == ""


def test_challenger_that_is_production_has_no_stores(
    experiment: Run, registry: Any, service: Service
) -> None:
    with experiment(experiment_challenger="2", experiment_share=0.5) as client:
        state = client.get("/experiments/current").json()
        assert state["reason"] == "" and state["stores"] > 0
        registry.promote(2, "", "")
        service.versions.poll()
        state = client.get("/experiments/current").json()
        assert state["reason"] == "version 2 is Production itself" and state["stores"] == 0


def test_challenger_is_not_evicted_by_other_versions(
    experiment: Run, service: Service, registry: Any
) -> None:
    for number in range(4, 12):
        registry.add(number)
    with experiment():
        for number in range(4, 12):
            service.versions.load(number)
        assert {1, 2} <= set(service.versions.loaded)


def test_challenger_uses_the_panel_of_the_request(
    service: Service, chain_settings: Settings, panel: Panel
) -> None:
    other = copy(panel)
    experiment = Experiment(chain_settings, service.versions)
    experiment.refresh_challenger()
    challenger = experiment.challenger(other)
    assert challenger is not None and challenger.served.forecaster.panel is other


def test_challenger_is_loaded_in_the_background(
    make_app: MakeApp, rows: list[dict[str, Any]]
) -> None:
    with TestClient(make_app(experiment="ab", experiment_share=1.0)) as client:
        deadline = time.monotonic() + 30
        while predict(client, rows[:2]).challenger is None:
            assert time.monotonic() < deadline, "the challenger was never loaded"
            time.sleep(0.01)
