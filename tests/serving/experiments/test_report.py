"""``GET /experiments/current``: comparison against manual computation, and missing parts."""

import json
import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from rossmann.data.panel.panel import Panel
from rossmann.epoch_days import format_iso_day
from rossmann.errors import AuthenticationError
from rossmann.models.ensemble.ensemble import Ensemble
from rossmann.models.evaluation.clustered_errors import (
    Clusters,
    Estimate,
    bias_estimate,
    find_clusters,
    rmspe_estimate,
    wape_estimate,
)
from rossmann.models.evaluation.paired_test import PairedRows, paired_test
from rossmann.models.evaluation.sequential_test import improvement_of_separate, sequential_test
from rossmann.models.inference.forecaster import Forecaster
from rossmann.prediction_log.queries.experiment_rows import DistinctRows
from rossmann.schema import STATE_HOLIDAYS
from rossmann.serving.client.client import Client
from rossmann.serving.experiments import report
from rossmann.serving.experiments.experiment import hash_fraction
from rossmann.serving.schemas.forecasts import PredictResponse
from rossmann.serving.schemas.models import ExperimentState
from tests.fixtures.experiments import current, predict, wait_for_rows
from tests.paths import ROOT

MakeRow = Callable[..., dict[str, Any]]
MakeForecaster = Callable[[Path], Forecaster]
Run = Callable[..., AbstractContextManager[TestClient]]
DAYS = 9
YESTERDAY = datetime.now(UTC) - timedelta(days=1)
ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n"


@pytest.fixture
def unseen_days(request: pytest.FixtureRequest) -> dict[int, int]:
    """Last days of history that a version, by its number, did not learn from; ``DAYS`` without."""
    days: dict[int, int] = getattr(request, "param", {})
    return days


@pytest.fixture
def make_forecaster(
    make_trained_pair: MakeForecaster, panel: Panel, unseen_days: dict[int, int]
) -> MakeForecaster:
    """The trained pair, as if they were trained before ``past_rows`` were known."""

    def make(folder: Path) -> Forecaster:
        ensemble = make_trained_pair(folder).ensemble
        unseen = unseen_days.get(int((folder / "model.txt").read_text()), DAYS)
        data = ensemble.card["data"] | {"last_day": format_iso_day(panel.last_day - unseen)}
        return Forecaster(panel, Ensemble(ensemble.members, ensemble.card | {"data": data}))

    return make


@pytest.fixture
def past_rows(panel: Panel) -> list[dict[str, Any]]:
    """Rows of the last days of history of every store."""
    days = np.arange(panel.last_day - DAYS + 1, panel.last_day + 1, dtype=np.int32)
    made_rows = []
    for store in panel.store_numbers:
        rows = panel.store_schedule(int(store), days)
        made_rows += [
            {
                "Store": int(store),
                "DayOfWeek": (int(rows.day[n]) + 3) % 7 + 1,
                "Date": format_iso_day(rows.day[n]),
                "Open": int(rows.open[n]),
                "Promo": int(rows.promo[n]),
                "StateHoliday": STATE_HOLIDAYS[rows.state_holiday[n]],
                "SchoolHoliday": int(rows.school_holiday[n]),
            }
            for n in range(DAYS)
        ]
    return made_rows


@pytest.fixture
def actual(panel: Panel, past_rows: list[dict[str, Any]]) -> np.ndarray:
    """Actual sales of each row of ``past_rows``; 0 where unknown."""
    rows, sales = panel.sales_rows()
    known = {
        (int(s), format_iso_day(d)): v for s, d, v in zip(rows.store, rows.day, sales, strict=True)
    }
    return np.array([known.get((row["Store"], row["Date"]), 0.0) for row in past_rows])


@pytest.fixture(autouse=True)
def _no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """Disables the cache of comparisons."""
    monkeypatch.setattr(report, "COMPARISON_TTL", 0.0)


def score(
    version: int, rows: list[dict[str, Any]], actual: np.ndarray, sales: Any
) -> dict[str, Any]:
    sales = np.asarray(sales)
    clusters = clusters_of(rows)
    return {
        "model_version": version,
        "rows": len(rows),
        "stores": len({row["Store"] for row in rows}),
        "wape": pytest.approx(np.abs(sales - actual).sum() / actual.sum()),
        "wape_error": pytest.approx(wape_estimate(actual, sales, clusters).error),
        "rmspe": pytest.approx(np.sqrt(np.mean((sales / actual - 1) ** 2))),
        "rmspe_error": pytest.approx(rmspe_estimate(actual, sales, clusters).error),
        "bias": pytest.approx(np.sum(sales) / np.sum(actual) - 1),
        "bias_error": pytest.approx(bias_estimate(actual, sales, clusters).error),
        "in_training": 0,
    }


def clusters_of(rows: list[dict[str, Any]]) -> Clusters:
    store = np.array([row["Store"] for row in rows])
    return find_clusters(store, np.array([np.datetime64(row["Date"]).astype(int) for row in rows]))


def test_shadow_comparison_equals_manual_computation(
    experiment: Run,
    past_rows: list[dict[str, Any]],
    actual: np.ndarray,
    panel: Panel,
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # The small trees differ by less than the default threshold.
    monkeypatch.setattr(report, "LARGE_DIFFERENCE", 0.01)
    origin = {"as_of": format_iso_day(panel.last_day - DAYS)}
    earlier_origin = {"as_of": format_iso_day(panel.last_day - 30)}
    other_plan = {**past_rows[0], "Promo": 1 - past_rows[0]["Promo"], "Open": 1}
    changes = {"experiment": "shadow", "database_url": database_url, "log_flush_seconds": 0.05}
    with experiment(**changes) as client:
        inputs = [*past_rows, other_plan]
        production = np.array(predict(client, inputs, **origin)["predictions"])
        predict(client, past_rows[:50], **origin)  # repeated rows are compared once
        earlier = np.array(predict(client, past_rows[:40], **earlier_origin)["predictions"])
        count = len(inputs) + 50 + 40
        state = wait_for_rows(client, 2 * count)
        challenger_predictions = [
            predict(client, rows, model_stage=2, **as_of)["predictions"]
            for rows, as_of in ((inputs, origin), (past_rows[:40], earlier_origin))
        ]
    assert (state.mode, state.reason, state.challenger) == ("shadow", "", "Staging")
    assert (state.production_version, state.challenger_version) == (1, 2)
    assert state.share is state.salt is state.stores is None
    assert state.queue is not None and state.queue.done == count
    comparison = state.comparison
    assert comparison is not None and comparison.reason == "" and comparison.since is not None
    assert [role_count.model_dump() for role_count in comparison.rows] == [
        {"role": "answer", "model_version": 1, "rows": count},
        {"role": "shadow", "model_version": 2, "rows": count},
    ]
    production, challenger = np.append(production, earlier), np.concatenate(challenger_predictions)
    all_inputs = [*inputs, *past_rows[:40]]
    open_rows = np.array([row["Open"] for row in all_inputs]) > 0
    ratio = challenger[open_rows] / production[open_rows]
    assert comparison.agreement is not None
    assert comparison.agreement.rows == open_rows.sum()
    assert comparison.agreement.mean_ratio == pytest.approx(ratio.mean())
    log = np.abs(np.log(challenger[open_rows]) - np.log(production[open_rows])).mean()
    assert comparison.agreement.mean_absolute_log_difference == pytest.approx(log)
    share_beyond = np.mean((ratio > 1.01) | (ratio < 0.99))
    assert 0 < share_beyond < 1
    assert comparison.agreement.beyond_10_percent == pytest.approx(share_beyond)
    actual_sales = np.concatenate([actual, [0.0], actual[:40]])  # unknown for the changed plan
    known = np.flatnonzero((actual_sales > 0) & open_rows)
    rows = [all_inputs[n] for n in known]
    store = np.array([row["Store"] for row in rows])
    day = np.array([np.datetime64(row["Date"]).astype(int) for row in rows])
    test = paired_test(
        PairedRows(0 * day, store, day, actual_sales[known], challenger[known], production[known])
    )
    assert comparison.known_sales is not None
    assert comparison.known_sales.model_dump() == {
        "paired": True,
        "challenger": score(2, rows, actual_sales[known], challenger[known]),
        "production": score(1, rows, actual_sales[known], production[known]),
        "verdict": "undecided",  # the days are less than four weeks
        "weeks": test.weeks,
        "improvement": pytest.approx(test.improvement),
        "improvement_error": pytest.approx(test.standard_error),
        "chance": pytest.approx(
            sequential_test(Estimate(test.improvement, test.standard_error), test.weeks).p_value
        ),
        "better_stores": pytest.approx(test.share_of_stores_better),
    }


def test_agreement_uses_open_days_with_positive_forecasts() -> None:
    challenger = np.array([105.0, 120.0, 85.0, 100.0, 0.0, 300.0])
    flags = np.array([1, 1, 1, 1, 1, 0], np.uint8)
    index = np.arange(6, dtype=np.int32)
    rows = DistinctRows(index, index, flags, flags, challenger, np.full(6, 100.0))
    agreement = report.agreement(rows)
    assert agreement is not None
    assert (agreement.rows, agreement.beyond_10_percent) == (4, 0.5)
    assert agreement.mean_ratio == pytest.approx(1.025)
    log_differences = np.log([1.05, 1.2, 1 / 0.85, 1.0])
    assert agreement.mean_absolute_log_difference == pytest.approx(log_differences.mean())


def test_ab_comparison_equals_manual_computation(
    experiment: Run,
    past_rows: list[dict[str, Any]],
    actual: np.ndarray,
    panel: Panel,
    database_url: str,
) -> None:
    origin = {"as_of": format_iso_day(panel.last_day - DAYS)}
    with experiment(database_url=database_url, log_flush_seconds=0.05) as client:
        sales = np.array(predict(client, past_rows, **origin)["predictions"])
        # Requests by number are not part of the experiment.
        predict(client, past_rows[:30], model_stage=1, **origin)
        state = wait_for_rows(client, len(past_rows) + 30)
    is_challenger = np.array([hash_fraction("1", row["Store"]) < 0.4 for row in past_rows])
    assert (state.mode, state.share, state.salt) == ("ab", 0.4, "1")
    assert state.stores == len({past_rows[n]["Store"] for n in np.flatnonzero(is_challenger)})
    assert state.queue is None
    comparison = state.comparison
    assert comparison is not None and comparison.agreement is None
    assert [(role_count.role, role_count.rows) for role_count in comparison.rows] == [
        ("answer", (~is_challenger).sum() + 30),
        ("challenger", is_challenger.sum()),
    ]
    scores, wapes, weeks = [], [], []
    for version, is_assigned in ((2, is_challenger), (1, ~is_challenger)):
        known = np.flatnonzero(is_assigned & (actual > 0))
        rows = [past_rows[n] for n in known]
        scores.append(score(version, rows, actual[known], sales[known]))
        wapes.append(wape_estimate(actual[known], sales[known], clusters_of(rows)))
        weeks.append(clusters_of(rows).weeks)
    test = sequential_test(improvement_of_separate(*wapes), min(weeks))
    assert comparison.known_sales is not None
    assert comparison.known_sales.model_dump() == {
        "paired": False,
        "challenger": scores[0],
        "production": scores[1],
        "verdict": "undecided",
        "weeks": test.weeks,
        "improvement": pytest.approx(test.improvement),
        "improvement_error": pytest.approx(test.standard_error),
        "chance": pytest.approx(test.p_value),
        "better_stores": None,
    }


@pytest.mark.parametrize("mode", ["shadow", "ab"])
@pytest.mark.parametrize("unseen_days", [{2: 4}, {1: 0, 2: 0}], indirect=True)
def test_rows_in_training_are_counted_and_not_scored(
    mode: str,
    unseen_days: dict[int, int],
    experiment: Run,
    past_rows: list[dict[str, Any]],
    actual: np.ndarray,
    panel: Panel,
) -> None:
    """Version 2 learned from all but 4 of the days, then both from all."""
    origin = {"as_of": format_iso_day(panel.last_day - DAYS)}
    with experiment(experiment=mode, log_flush_seconds=0.05) as client:
        sales = np.array(predict(client, past_rows, **origin)["predictions"])
        comparison = wait_for_rows(client, len(past_rows) * (1 + (mode == "shadow"))).comparison
    assert comparison is not None and comparison.known_sales is not None
    known = (actual > 0) & (np.array([row["Open"] for row in past_rows]) > 0)
    days_back = np.tile(np.arange(DAYS)[::-1], len(panel.store_numbers))
    is_challenger = np.array([hash_fraction("1", row["Store"]) < 0.4 for row in past_rows])
    scores = {1: comparison.known_sales.production, 2: comparison.known_sales.challenger}
    for version, answered in ((1, ~is_challenger), (2, is_challenger)):
        part = known if mode == "shadow" else known & answered
        unseen = [unseen_days.get(n, DAYS) for n in ((1, 2) if mode == "shadow" else (version,))]
        scored = part & (days_back < min(unseen))
        score_of_version = scores[version]
        assert score_of_version.rows == scored.sum()
        assert score_of_version.in_training == part.sum() - scored.sum()
        if mode == "ab" and scored.any():
            error = np.sqrt(np.mean((sales[scored] / actual[scored] - 1) ** 2))
            assert score_of_version.rmspe == pytest.approx(error)
    none_scored = not (scores[1].rows or scores[2].rows)
    assert (scores[1].rmspe is None) == none_scored == (unseen_days == {1: 0, 2: 0})
    assert ("learned from" in comparison.reason) == none_scored
    both_scored = scores[1].rows > 0 and scores[2].rows > 0
    assert (comparison.known_sales.chance is None) == (not both_scored)
    assert comparison.known_sales.verdict == "undecided"


def test_without_known_sales_only_agreement_is_reported(experiment: Run, row: MakeRow) -> None:
    with experiment(experiment="shadow", log_flush_seconds=0.05) as client:
        predict(client, [row(), row(2)])
        comparison = wait_for_rows(client, 4).comparison
    assert comparison is not None and comparison.agreement is not None
    assert comparison.agreement.rows == 2
    assert comparison.known_sales is None and comparison.reason == ""


def test_documented_example_matches_the_schema() -> None:
    page = ROOT / "docs" / "modelops" / "online-experiments.md"
    answer, example = re.findall(r"```json\n(.*?)```", page.read_text("utf-8"), re.DOTALL)
    assert json.loads(answer).keys() == PredictResponse.model_fields.keys()
    PredictResponse.model_validate_json(answer)
    state = ExperimentState.model_validate_json(example, strict=True)
    assert state.model_dump(exclude_unset=True) == state.model_dump()
    assert json.loads(example).keys() == ExperimentState.model_fields.keys()


def test_state_without_an_experiment(make_app: Callable[..., FastAPI]) -> None:
    with TestClient(make_app()) as client:
        state = current(client)
    assert state.mode == "off" and state.production_version == 1
    assert state.reason == "no experiment runs: ROSSMANN_EXPERIMENT is off"
    assert state.comparison is None


def test_reason_when_the_challenger_cannot_be_loaded(
    experiment: Run, registry: Any, row: MakeRow
) -> None:
    registry.add(13)
    with experiment(experiment_challenger="13", experiment_share=1.0) as client:
        state = current(client)
        assert state.reason == "the challenger (13) cannot be had: version 13 is damaged"
        assert state.challenger_version == 13
        response = predict(client, [row()])
        assert response["model_version"] == 1 and response["challenger"] is None
    with experiment(experiment_challenger="77") as client:
        state = current(client)
    assert "there is no version 77" in state.reason


def test_unavailable_log_omits_only_the_comparison(experiment: Run) -> None:
    for changes, reason in (
        ({}, " yet"),
        ({"database_url": "postgresql://nobody@127.0.0.1:1/log"}, "the prediction log's database"),
        ({"prediction_log": False}, "ROSSMANN_PREDICTION_LOG is off"),
    ):
        with experiment(**changes) as client:
            state = current(client)
        assert (state.mode, state.challenger_version, state.reason) == ("ab", 2, "")
        assert state.comparison is not None and reason in state.comparison.reason
        assert state.comparison.rows == []


def test_requests_share_a_cached_comparison(
    experiment: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    compare = report.ExperimentReport._compare

    def count(*arguments: Any) -> Any:
        calls.append(1)
        return compare(*arguments)

    monkeypatch.setattr(report, "COMPARISON_TTL", 3600.0)
    monkeypatch.setattr(report.ExperimentReport, "_compare", count)
    with experiment() as client:
        for _ in range(5):
            current(client)
    assert len(calls) == 1


def test_client_method_and_permission(
    live: Callable[[FastAPI], AbstractContextManager[str]], make_app: Callable[..., FastAPI]
) -> None:
    app = make_app(experiment="ab", api_keys=f"predict:{'0' * 64}:unused")
    with live(app) as url, Client(url) as client, pytest.raises(AuthenticationError):
        client.experiments_current()
    with live(make_app(experiment="ab")) as url, Client(url) as client:
        assert client.experiments_current().mode == "ab"
