"""A share of the stores is answered by a challenger: which, by whom, and what is said of it."""

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
def make_forecaster(make_rivals: MakeForecaster) -> MakeForecaster:
    return make_rivals


@pytest.fixture
def rows(row: MakeRow, panel: Panel) -> list[dict[str, Any]]:
    """Two days of every store, one of them closed, shuffled."""
    made = [
        row(ahead, Store=int(store), Promo=int(store) % 2, Open=int(store != 3))
        for store in panel.store_numbers
        for ahead in (1, 9)
    ]
    return [made[place] for place in np.random.default_rng(3).permutation(len(made))]


def ask(client: TestClient, rows: list[dict[str, Any]], **options: Any) -> PredictResponse:
    answer = client.post("/predict", json={"inputs": rows, **options})
    assert answer.status_code == 200, answer.text
    return PredictResponse.model_validate_json(answer.content, strict=True)


def dealt(rows: list[dict[str, Any]], share: float = 0.4, salt: str = "1") -> list[int]:
    return [n for n, row in enumerate(rows) if hash_fraction(salt, row["Store"]) < share]


def test_the_share_is_about_right_and_grows_without_dealing_anew() -> None:
    before = np.zeros(len(STORES), bool)
    for share in (0.0, 0.05, 0.1, 0.3, 0.5, 0.9, 1.0):
        now = StoreAssigner("autumn", share).is_challenger(STORES)
        spread = 4 * np.sqrt(share * (1 - share) / len(STORES))
        assert abs(now.mean() - share) <= spread
        assert not (before & ~now).any()
        before = now
    assert before.all()


def test_another_salt_deals_anew() -> None:
    one, other = (StoreAssigner(salt, 0.5).is_challenger(STORES) for salt in ("1", "2"))
    assert 0.4 < np.mean(one == other) < 0.6


@hypothesis_settings(max_examples=30, deadline=None)
@given(stores=st.lists(st.integers(1, 1115), min_size=1, max_size=80))
def test_a_store_is_dealt_by_its_number_alone(stores: list[int]) -> None:
    together = StoreAssigner("1", 0.3).is_challenger(np.array(stores, np.int32))
    alone = [
        bool(StoreAssigner("1", 0.3).is_challenger(np.array([s], np.int32))[0]) for s in stores
    ]
    assert together.tolist() == alone


def test_a_store_is_dealt_alike_in_every_process_and_release() -> None:
    # Written down once: what changes it deals the stores of running experiments anew.
    code = (
        "import numpy as np\n"
        "from rossmann.serving.experiments.experiment import StoreAssigner\n"
        "flags = StoreAssigner('1', 0.1).is_challenger(np.arange(1, 61, dtype=np.int32))\n"
        "print(*(np.flatnonzero(flags) + 1))"
    )
    told = {
        subprocess.check_output([sys.executable, "-c", code], env={"PYTHONHASHSEED": seed})
        for seed in ("1", "2")
    }
    assert told == {b"6 8 26 33 44 51 54\n"}


def test_each_row_is_its_versions_own_to_the_bit(
    experiment: Run, rows: list[dict[str, Any]]
) -> None:
    with experiment() as client:
        mixed = ask(client, rows, intervals=[0.8])
        first, second = (ask(client, rows, model_stage=n, intervals=[0.8]) for n in (3, 2))
    theirs = set(dealt(rows))
    assert 0 < len(theirs) < len(rows)
    assert mixed.challenger is not None
    assert (mixed.model_version, mixed.challenger.model_version) == (1, 2)
    assert mixed.challenger.rows == sorted(theirs)
    assert first.challenger is second.challenger is None
    assert first.predictions != second.predictions
    for n in range(len(rows)):
        source = second if n in theirs else first
        assert mixed.predictions[n] == source.predictions[n]
        for side in ("lower", "upper"):
            mine, own = (getattr(told.intervals[0], side)[n] for told in (mixed, source))
            assert mine == own
    assert mixed.warnings == first.warnings


def test_a_row_gets_the_same_in_every_batch_and_order(
    experiment: Run, rows: list[dict[str, Any]]
) -> None:
    with experiment() as client:
        as_of = ask(client, rows).as_of
        whole = ask(client, rows, as_of=as_of).predictions
        turned = ask(client, rows[::-1], as_of=as_of).predictions[::-1]
        alone = [ask(client, [one], as_of=as_of).predictions[0] for one in rows[:20]]
    assert turned == whole
    assert alone == whole[:20]


def test_one_origin_for_both(experiment: Run, rows: Any, panel: Panel) -> None:
    theirs, mine = dealt(rows)[0], next(n for n in range(len(rows)) if n not in dealt(rows))
    early = panel.info.last_day.replace(day=1).isoformat()
    past = {**rows[mine], "Date": early}
    with experiment() as client:
        both = ask(client, [past, rows[theirs]])
        named = ask(client, [rows[theirs]], as_of=both.as_of, model_stage=2)
        freely = ask(client, [rows[theirs]], model_stage=2)
    assert both.as_of < early
    assert both.predictions[1] == named.predictions[0] != freely.predictions[0]


def test_only_requests_for_production_take_part(
    experiment: Run, rows: list[dict[str, Any]]
) -> None:
    with experiment(experiment_share=1.0) as client:
        assert ask(client, rows[:3]).challenger is not None
        for named in (1, "1", "Staging", 3):
            assert ask(client, rows[:3], model_stage=named).challenger is None


def test_drivers_are_those_of_the_version_that_answers(
    experiment: Run, rows: list[dict[str, Any]]
) -> None:
    with experiment() as client:

        def explain(**options: Any) -> ExplainResponse:
            answer = client.post("/explain", json={"inputs": rows[:20], **options})
            return ExplainResponse.model_validate_json(answer.content, strict=True)

        served, mixed = ask(client, rows[:20]), explain()
        first, second = explain(model_stage=3), explain(model_stage=2)
    theirs = dealt(rows[:20])
    assert mixed.predictions == served.predictions and mixed.challenger == served.challenger
    for n, told in enumerate(mixed.explanations):
        assert told == (second if n in theirs else first).explanations[n]


def test_totals_are_productions(experiment: Run, rows: list[dict[str, Any]]) -> None:
    with experiment() as client:
        totals = ask(client, rows, totals=["chain"])
        first = ask(client, rows, totals=["chain"], model_stage=3)
    assert totals.challenger is None and totals.totals == first.totals
    assert totals.predictions == first.predictions
    (warning,) = [w for w in totals.warnings if w.type == "experiment"]
    assert (warning.count, warning.rows) == (len(dealt(rows)), dealt(rows)[:10])
    assert all(warning.type != "experiment" for warning in first.warnings)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_none_and_all(experiment: Run, rows: list[dict[str, Any]], share: float) -> None:
    with experiment(experiment_share=share) as client:
        told = ask(client, rows)
        wanted = ask(client, rows, model_stage=2 if share else 3)
    assert told.predictions == wanted.predictions
    assert (told.challenger is None) == (share == 0)


def test_what_the_challenger_cannot_do_production_does(
    experiment: Run, service: Service, rows: list[dict[str, Any]]
) -> None:
    with experiment() as client:
        card = service.versions.load(2).served.forecaster.ensemble.card
        correction = card.pop("unbiased")
        assert ask(client, rows, objective="unbiased").challenger is None
        assert ask(client, rows).challenger is not None
        card["unbiased"] = correction
        calibrated = card["intervals"]
        card["intervals"] = {**calibrated, "levels": [0.8]}
        assert ask(client, rows, intervals=[0.95]).challenger is None
        card["intervals"] = calibrated
        assert ask(client, rows, intervals=[0.95]).challenger is not None


@pytest.mark.parametrize("surprise", [CorruptModelError("torn"), KeyError("gone")], ids=repr)
def test_a_challenger_that_fails_costs_no_answer_and_is_set_aside(
    experiment: Run,
    service: Service,
    rows: list[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    surprise: Exception,
) -> None:
    calls = []

    def fail(matrix: FeatureMatrix, threads: int = 1) -> FloatArray:
        calls.append(len(matrix))
        raise surprise

    with experiment() as client:
        assert ask(client, rows).challenger is not None
        monkeypatch.setattr(service.versions.load(2).served.forecaster.ensemble, "predict", fail)
        told = ask(client, rows)
        assert told.challenger is None
        assert told.predictions == ask(client, rows, model_stage=3).predictions
        assert ask(client, rows[:5]).challenger is None
        service.versions.poll()
        assert ask(client, rows).challenger is None
        assert len(calls) == 1


def test_the_challenger_follows_staging(
    serving_settings: Settings, service: Service, registry: Any, panel: Panel
) -> None:
    experiment = Experiment(
        serving_settings.model_copy(update={"experiment": "ab"}), service.versions
    )
    service.versions.on_poll(experiment.refresh_challenger)

    def now() -> int | None:
        found = experiment.challenger(panel)
        return None if found is None else found.served.version

    assert now() is None and "not loaded yet" in experiment.reason
    service.versions.poll()
    assert now() == 2 and not experiment.reason
    registry.add(2)
    registry.add(3, Stage.STAGING)
    service.versions.poll()
    assert now() == 3
    registry.away = True
    service.versions.poll()
    assert now() == 3
    registry.away = False
    registry.promote(3, "", "")
    service.versions.poll()
    assert now() is None and "no version is in Staging" in experiment.reason


def test_a_challenger_by_number_that_is_production_is_none(
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


def test_a_challenger_that_is_production_answers_no_store(
    experiment: Run, registry: Any, service: Service
) -> None:
    with experiment(experiment_challenger="2", experiment_share=0.5) as client:
        told = client.get("/experiments/current").json()
        assert told["reason"] == "" and told["stores"] > 0
        registry.promote(2, "", "")
        service.versions.poll()
        told = client.get("/experiments/current").json()
        assert told["reason"] == "version 2 is Production itself" and told["stores"] == 0


def test_other_versions_do_not_push_the_challenger_out(
    experiment: Run, service: Service, registry: Any
) -> None:
    for number in range(4, 12):
        registry.add(number)
    with experiment():
        for number in range(4, 12):
            service.versions.load(number)
        assert {1, 2} <= set(service.versions.loaded)


def test_new_data_is_seen_by_both_in_one_request(
    service: Service, chain_settings: Settings, panel: Panel
) -> None:
    other = copy(panel)
    experiment = Experiment(chain_settings, service.versions)
    experiment.refresh_challenger()
    found = experiment.challenger(other)
    assert found is not None and found.served.forecaster.panel is other


def test_looking_takes_place_by_itself(make_app: MakeApp, rows: list[dict[str, Any]]) -> None:
    with TestClient(make_app(experiment="ab", experiment_share=1.0)) as client:
        deadline = time.monotonic() + 30
        while ask(client, rows[:2]).challenger is None:
            assert time.monotonic() < deadline, "the challenger was never loaded"
            time.sleep(0.01)
