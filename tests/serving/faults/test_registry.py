"""MLflow or its artifact store fails: forecasts go on, health says why, and all comes back."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Any_ = Callable[..., Any]


@pytest.fixture
def rows(row: Any_) -> list[dict[str, Any]]:
    """More rows than are answered without a thread."""
    return [row(ahead) for ahead in range(1, 41)]


@pytest.mark.parametrize("mode", ["silent", "broken"])
def test_starts_while_mlflow_fails_and_recovers(
    mode: str, between: Any, run_door: Any_, registered: list[int], promote: Any_, ask: Any_,
    health: Any_, until: Any_, rows: list[dict[str, Any]],
) -> None:  # fmt: skip
    promote(registered[0])
    between.mode = mode
    door = run_door(mlflow_tracking_uri=between.url, reload_seconds=0.2)
    told = health(door.url)
    assert (told["status"], told["registry"], told["model_version"]) == ("degraded", "away", 1)
    assert "the registry is away" in told["reason"]
    assert ask(door.url, {"inputs": rows}).json()["model_version"] == 1
    between.mode = ""
    until("recovery", lambda: health(door.url)["status"] == "healthy")
    assert ask(door.url, {"inputs": rows}).json()["model_version"] == registered[0]
    assert "Traceback" not in door.stop()


def test_mlflow_fails_later(
    between: Any, run_door: Any_, registered: list[int], promote: Any_, ask: Any_,
    health: Any_, until: Any_, rows: list[dict[str, Any]], under_load: Any_,
) -> None:  # fmt: skip
    promote(registered[0])
    door = run_door(mlflow_tracking_uri=between.url, reload_seconds=0.2)
    truth = ask(door.url, {"inputs": rows}).json()["predictions"]
    with under_load(door.url, {"inputs": rows}) as load:
        for mode in ("away", "broken", "half", "silent"):
            between.mode = mode
            until(mode, lambda: health(door.url)["registry"] == "away")
            unknown = ask(door.url, {"inputs": rows, "model_stage": 10_000})
            assert unknown.status_code == 503
            assert "the registry is away" in str(unknown.json()) or "MLflow" in unknown.text
            between.mode = ""
            between.ended.set()
            between.ended.clear()
            until("recovery", lambda: health(door.url)["status"] == "healthy")
    assert not load.faults and load.answered > 20
    assert all(body["predictions"] == truth for body in load.bodies)
    assert "Traceback" not in door.stop()


def test_many_who_ask_for_what_is_not_there_hold_up_nobody(
    between: Any, run_door: Any_, registered: list[int], promote: Any_, ask: Any_,
    health: Any_, until: Any_, rows: list[dict[str, Any]], under_load: Any_,
) -> None:  # fmt: skip
    """The registry is silent, and clients want a version that only it could name."""
    promote(registered[0])
    door = run_door(mlflow_tracking_uri=between.url, reload_seconds=0.2)
    between.mode = "silent"
    wanted = {"inputs": rows, "model_stage": 10_000}
    with under_load(door.url, wanted, clients=12):
        asked = between.asked
        with under_load(door.url, {"inputs": rows}, clients=2) as load:
            until("answers beside them", lambda: load.answered >= 40)
        assert not load.faults
        assert between.asked - asked < 40
        assert health(door.url)["model_version"] == registered[0]
    between.mode = ""
    between.ended.set()
    until("recovery", lambda: health(door.url)["status"] == "healthy")


@pytest.mark.parametrize("mode", ["silent", "broken", "damaged"])
def test_artifact_store_fails(
    mode: str, between: Any, run_door: Any_, registered: list[int], promote: Any_, ask: Any_,
    health: Any_, until: Any_, rows: list[dict[str, Any]], under_load: Any_, cache: Path,
) -> None:  # fmt: skip
    """A version is promoted that cannot be fetched, or comes damaged: the one before goes on."""
    promote(registered[0])
    door = run_door(mlflow_tracking_uri=between.url, reload_seconds=0.2)
    between.only, between.mode = "mlflow-artifacts", mode
    asked = between.asked
    promote(registered[1])
    with under_load(door.url, {"inputs": rows}, clients=2) as load:
        if mode == "silent":
            until("the service asks for it", lambda: between.asked > asked + 3)
        else:
            until("told so", lambda: "cannot be had" in health(door.url)["reason"])
            refused = ask(door.url, {"inputs": rows, "model_stage": registered[1]})
            assert refused.status_code == 503
        until("answers beside it", lambda: load.answered >= 20)
    assert not load.faults
    assert {body["model_version"] for body in load.bodies} == {registered[0]}
    assert not (cache / str(registered[1])).exists()
    between.mode = ""
    between.ended.set()
    until("recovery", lambda: health(door.url)["model_version"] == registered[1])
    assert health(door.url)["status"] == "healthy"
    assert "Traceback" not in door.stop()
