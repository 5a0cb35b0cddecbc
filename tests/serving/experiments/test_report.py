"""``GET /experiments/current``: its numbers by hand, and what it cannot say."""

import json
import re
import threading
import time
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
from rossmann.errors import AuthenticationError, ServiceError
from rossmann.models.evaluation.metrics import permutation_test
from rossmann.models.inference.forecaster import Forecaster
from rossmann.prediction_log.queries.experiment_rows import DistinctRows, ExperimentLog
from rossmann.schema import STATE_HOLIDAYS
from rossmann.serving.client.client import Client
from rossmann.serving.experiments import report as experiment_report
from rossmann.serving.experiments import report as experiment_scores
from rossmann.serving.experiments.experiment import hash_fraction
from rossmann.serving.schemas.models import ExperimentState
from tests.paths import ROOT

MakeRow = Callable[..., dict[str, Any]]
MakeForecaster = Callable[[Path], Forecaster]
Run = Callable[..., AbstractContextManager[TestClient]]
DAYS = 9
YESTERDAY = datetime.now(UTC) - timedelta(days=1)
ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n"


@pytest.fixture
def make_forecaster(make_rivals: MakeForecaster) -> MakeForecaster:
    return make_rivals


@pytest.fixture
def past(panel: Panel) -> list[dict[str, Any]]:
    """The last days of history of every store, as they were."""
    days = np.arange(panel.last_day - DAYS + 1, panel.last_day + 1, dtype=np.int32)
    made = []
    for store in panel.store_numbers:
        rows = panel.store_schedule(int(store), days)
        made += [
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
    return made


@pytest.fixture
def sold(panel: Panel, past: list[dict[str, Any]]) -> np.ndarray:
    """What each of ``past`` sold; 0 where that is not known."""
    rows, sales = panel.sales_rows()
    known = {
        (int(s), format_iso_day(d)): v for s, d, v in zip(rows.store, rows.day, sales, strict=True)
    }
    return np.array([known.get((row["Store"], row["Date"]), 0.0) for row in past])


def ask(client: TestClient, rows: list[dict[str, Any]], **options: Any) -> dict[str, Any]:
    answer = client.post("/predict", json={"inputs": rows, **options})
    assert answer.status_code == 200, answer.text
    told: dict[str, Any] = answer.json()
    return told


def current(client: TestClient) -> ExperimentState:
    answer = client.get("/experiments/current")
    assert answer.status_code == 200, answer.text
    return ExperimentState.model_validate_json(answer.content)


def settled(client: TestClient, rows: int) -> ExperimentState:
    """The state once so many rows are in the database."""
    deadline = time.monotonic() + 60
    while True:
        told = current(client)
        assert told.comparison is not None
        if sum(one.rows for one in told.comparison.rows) >= rows:
            return told
        assert time.monotonic() < deadline, told
        time.sleep(0.02)


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """No comparison is told again."""
    monkeypatch.setattr(experiment_report, "COMPARISON_TTL", 0.0)


@pytest.fixture(params=["sqlite", "pg"])
def url(request: pytest.FixtureRequest) -> str:
    """Each database in turn, empty."""
    if request.param == "sqlite":
        return ""
    import sqlalchemy as sa

    server = str(request.getfixturevalue("database"))
    engine = sa.create_engine(server, isolation_level="AUTOCOMMIT")
    name = f"experiment_{time.time_ns()}"
    with engine.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
    engine.dispose()
    return server.rpartition("/")[0] + f"/{name}"


def score(version: int, rows: list[dict[str, Any]], sold: np.ndarray, sales: Any) -> dict[str, Any]:
    error = np.asarray(sales) / sold - 1
    return {
        "model_version": version,
        "rows": len(rows),
        "stores": len({row["Store"] for row in rows}),
        "rmspe": pytest.approx(np.sqrt(np.mean(error**2))),
        "bias": pytest.approx(np.sum(sales) / np.sum(sold) - 1),
    }


def test_the_shadow_by_hand(
    experiment: Run,
    past: list[dict[str, Any]],
    sold: np.ndarray,
    panel: Panel,
    url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        experiment_scores, "LARGE_DIFFERENCE", 0.01
    )  # small trees are not further apart
    origin = {"as_of": format_iso_day(panel.last_day - DAYS)}
    other_plan = {**past[0], "Promo": 1 - past[0]["Promo"], "Open": 1}
    changes = {"experiment": "shadow", "database_url": url, "log_flush_seconds": 0.05}
    with experiment(**changes) as client:
        whole = [*past, other_plan]
        mine = np.array(ask(client, whole, **origin)["predictions"])
        ask(client, past[:50], **origin)  # rows that were asked before are none more
        early = np.array(
            ask(client, past[:40], as_of=format_iso_day(panel.last_day - 30))["predictions"]
        )
        count = len(whole) + 50 + 40
        told = settled(client, 2 * count)
        later = format_iso_day(panel.last_day - 30)
        named = [
            ask(client, rows, model_stage=2, as_of=as_of)["predictions"]
            for rows, as_of in ((whole, origin["as_of"]), (past[:40], later))
        ]
    assert (told.mode, told.reason, told.challenger) == ("shadow", "", "Staging")
    assert (told.production_version, told.challenger_version) == (1, 2)
    assert told.share is told.salt is told.stores is None
    assert told.queue is not None and told.queue.done == count
    found = told.comparison
    assert found is not None and found.reason == "" and found.since is not None
    assert [one.model_dump() for one in found.rows] == [
        {"role": "answer", "model_version": 1, "rows": count},
        {"role": "shadow", "model_version": 2, "rows": count},
    ]
    mine, theirs = np.append(mine, early), np.concatenate(named)
    asked = [*whole, *past[:40]]
    open_rows = np.array([row["Open"] for row in asked]) > 0
    ratio = theirs[open_rows] / mine[open_rows]
    assert found.agreement is not None
    assert found.agreement.rows == open_rows.sum()
    assert found.agreement.mean_ratio == pytest.approx(ratio.mean())
    log = np.abs(np.log(theirs[open_rows]) - np.log(mine[open_rows])).mean()
    assert found.agreement.mean_absolute_log_difference == pytest.approx(log)
    far = np.mean((ratio > 1.01) | (ratio < 0.99))
    assert 0 < far < 1 and found.agreement.beyond_10_percent == pytest.approx(far)
    real = np.concatenate([sold, [0.0], sold[:40]])  # nobody knows what the other plan sells
    known = np.flatnonzero((real > 0) & open_rows)
    rows = [asked[n] for n in known]
    store = np.array([row["Store"] for row in rows])
    day = np.array([np.datetime64(row["Date"]).astype(int) for row in rows])
    test = permutation_test(store, day, real[known], theirs[known], mine[known])
    assert found.known_sales is not None
    assert found.known_sales.model_dump() == {
        "paired": True,
        "challenger": score(2, rows, real[known], theirs[known]),
        "production": score(1, rows, real[known], mine[known]),
        "chance": pytest.approx(test.p_value, abs=0.02),
        "better_stores": pytest.approx(test.share_of_stores_better),
    }


def test_the_agreement_is_of_open_days_with_sales() -> None:
    theirs = np.array([105.0, 120.0, 85.0, 100.0, 0.0, 300.0])
    flags = np.array([1, 1, 1, 1, 1, 0], np.uint8)
    place = np.arange(6, dtype=np.int32)
    found = experiment_scores.agreement(
        DistinctRows(place, place, flags, flags, theirs, np.full(6, 100.0))
    )
    assert found is not None
    assert (found.rows, found.beyond_10_percent) == (4, 0.5)
    assert found.mean_ratio == pytest.approx(1.025)
    logs = np.log([1.05, 1.2, 1 / 0.85, 1.0])
    assert found.mean_absolute_log_difference == pytest.approx(logs.mean())


def test_a_share_by_hand(
    experiment: Run, past: list[dict[str, Any]], sold: np.ndarray, panel: Panel, url: str
) -> None:
    origin = {"as_of": format_iso_day(panel.last_day - DAYS)}
    with experiment(database_url=url, log_flush_seconds=0.05) as client:
        sales = np.array(ask(client, past, **origin)["predictions"])
        ask(client, past[:30], model_stage=1, **origin)  # by number: no part of it
        told = settled(client, len(past) + 30)
    theirs = np.array([hash_fraction("1", row["Store"]) < 0.4 for row in past])
    assert (told.mode, told.share, told.salt) == ("ab", 0.4, "1")
    assert told.stores == len({row["Store"] for row, its in zip(past, theirs, strict=True) if its})
    assert told.queue is None
    found = told.comparison
    assert found is not None and found.agreement is None
    assert [(one.role, one.rows) for one in found.rows] == [
        ("answer", (~theirs).sum() + 30),
        ("challenger", theirs.sum()),
    ]
    sides = []
    for version, its in ((2, theirs), (1, ~theirs)):
        known = np.flatnonzero(its & (sold > 0))
        sides.append(score(version, [past[n] for n in known], sold[known], sales[known]))
    assert found.known_sales is not None
    assert found.known_sales.model_dump() == {
        "paired": False,
        "challenger": sides[0],
        "production": sides[1],
        "chance": None,
        "better_stores": None,
    }


def test_without_known_sales_there_is_the_agreement_alone(experiment: Run, row: MakeRow) -> None:
    with experiment(experiment="shadow", log_flush_seconds=0.05) as client:
        ask(client, [row(), row(2)])
        found = settled(client, 4).comparison
    assert found is not None and found.agreement is not None and found.agreement.rows == 2
    assert found.known_sales is None and found.reason == ""


def test_the_page_shows_what_is_answered() -> None:
    page = ROOT / "docs" / "serving" / "experiments.md"
    *_, shown = re.findall(r"```json\n(.*?)```", page.read_text("utf-8"), re.DOTALL)
    told = ExperimentState.model_validate_json(shown, strict=True)
    assert told.model_dump(exclude_unset=True) == told.model_dump()
    assert json.loads(shown).keys() == ExperimentState.model_fields.keys()


def test_off_says_so(make_app: Callable[..., FastAPI]) -> None:
    with TestClient(make_app()) as client:
        told = current(client)
    assert told.mode == "off" and told.production_version == 1
    assert told.reason == "no experiment runs: ROSSMANN_EXPERIMENT is off"
    assert told.comparison is None


def test_why_no_challenger_answers(experiment: Run, registry: Any, row: MakeRow) -> None:
    registry.add(13)
    with experiment(experiment_challenger="13", experiment_share=1.0) as client:
        told = current(client)
        assert told.reason == "the challenger (13) cannot be had: thirteen never loads"
        assert told.challenger_version == 13
        answered = ask(client, [row()])
        assert answered["model_version"] == 1 and answered["challenger"] is None
    with experiment(experiment_challenger="77") as client:
        told = current(client)
    assert "there is no version 77" in told.reason


def test_a_log_that_is_away_costs_the_comparison_only(experiment: Run) -> None:
    for changes, reason in (
        ({}, " yet"),
        ({"database_url": "postgresql://nobody@127.0.0.1:1/log"}, "the prediction log's database"),
        ({"prediction_log": False}, "ROSSMANN_PREDICTION_LOG is off"),
    ):
        with experiment(**changes) as client:
            told = current(client)
        assert (told.mode, told.challenger_version, told.reason) == ("ab", 2, "")
        assert told.comparison is not None and reason in told.comparison.reason
        assert told.comparison.rows == []


def test_no_look_at_the_log_takes_longer_than_it_may(url: str, tmp_path: Path, experiment: Run,
                                                     row: MakeRow) -> None:  # fmt: skip
    with experiment(database_url=url, log_flush_seconds=0.05) as client:
        ask(client, [row()])
        settled(client, 1)
    address = url or f"sqlite:///{tmp_path / 'prediction_log' / 'log.db'}"
    log = ExperimentLog(address, seconds=0.3)
    with (
        pytest.raises(ServiceError, match=r"took longer than 0\.3 s"),
        log._connect() as connection,
    ):
        connection.exec_driver_sql(ENDLESS)
    # The connection goes on to be of use, without the limit of the one before.
    _, counts = log.counts(YESTERDAY)
    assert sum(one.rows for one in counts) == 1
    log.close()


def test_a_look_at_the_log_is_broken_off_when_the_service_ends(
    url: str, tmp_path: Path, experiment: Run, row: MakeRow
) -> None:
    with experiment(database_url=url, log_flush_seconds=0.05) as client:
        ask(client, [row()])
        settled(client, 1)
    address = url or f"sqlite:///{tmp_path / 'prediction_log' / 'log.db'}"
    log = ExperimentLog(address, seconds=600)
    failures: list[ServiceError] = []

    def look() -> None:
        with pytest.raises(ServiceError) as caught, log._connect() as connection:
            connection.exec_driver_sql(ENDLESS)
        failures.append(caught.value)

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    deadline = time.monotonic() + 60
    while thread.is_alive():
        assert time.monotonic() < deadline
        log.cancel()
        thread.join(0.05)
    assert len(failures) == 1
    with pytest.raises(ServiceError, match="the service ends"):
        log.counts(YESTERDAY)
    log.close()


def test_older_answers_are_not_looked_at(experiment: Run, row: MakeRow, tmp_path: Path) -> None:
    with experiment(log_flush_seconds=0.05) as client:
        ask(client, [row()])
        settled(client, 1)
    log = ExperimentLog(f"sqlite:///{tmp_path / 'prediction_log' / 'log.db'}")
    assert log.counts(YESTERDAY)[1]
    assert log.counts(datetime.now(UTC) + timedelta(hours=1))[1] == []
    log.close()


def test_calls_share_one_comparison(experiment: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    compared = experiment_report.ExperimentReport._compare

    def count(*given: Any) -> Any:
        made.append(1)
        return compared(*given)

    monkeypatch.setattr(experiment_report, "COMPARISON_TTL", 3600.0)
    monkeypatch.setattr(experiment_report.ExperimentReport, "_compare", count)
    with experiment() as client:
        for _ in range(5):
            current(client)
    assert len(made) == 1


def test_the_client_and_who_may(
    live: Callable[[FastAPI], AbstractContextManager[str]],
    make_app: Callable[..., FastAPI],
) -> None:
    app = make_app(experiment="ab", api_keys=f"predict:{'0' * 64}:nobody")
    with live(app) as url, Client(url) as client, pytest.raises(AuthenticationError):
        client.experiments_current()
    with live(make_app(experiment="ab")) as url, Client(url) as client:
        assert client.experiments_current().mode == "ab"
