"""Concurrent promotions by real processes: one wins, the others fail, no lock stays."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rossmann.errors import PromotionConflictError
from rossmann.filesystem import process_identity
from rossmann.models.registry import promotion
from rossmann.models.registry.promotion import Promotion, new_promotion
from rossmann.models.registry.registry import Registry

API = "/api/2.0/mlflow"
PROMOTE = """
import sys, time
from pathlib import Path
from rossmann.errors import PromotionConflictError
from rossmann.models.registry.mlflow_rest import MlflowRest
from rossmann.models.registry.registry import Registry

uri, name, version, pause_at, folder = sys.argv[1:]
real, marker = MlflowRest.call, Path(folder) / version

def call(self, method, path, **fields):
    if pause_at and (method, path) == tuple(pause_at.split()):
        marker.with_suffix(".waits").touch()
        while not marker.with_suffix(".go").exists():
            time.sleep(0.01)
    return real(self, method, path, **fields)

MlflowRest.call = call
try:
    with Registry(uri, name, timeout=30) as registry:
        registry.promote(version, "race", version)
except PromotionConflictError as error:
    print(error)
    sys.exit(7)
"""
BEFORE_THE_LOCK = "POST registered-models/create"
BEFORE_THE_ALIAS = "POST registered-models/alias"


class Race:
    """A model with three versions; 1 is Production."""

    def __init__(self, uri: str, folder: Path) -> None:
        self.uri, self.name, self.folder = uri, f"race-{time.time_ns()}", folder
        self.client = httpx.Client(base_url=uri + API, timeout=30, trust_env=False)
        self.client.post("/registered-models/create", json={"name": self.name})
        for _ in range(3):
            fields = {"name": self.name, "source": "s3://none/model"}
            self.client.post("/model-versions/create", json=fields).raise_for_status()
        self.registry = Registry(uri, self.name, timeout=30)
        self.registry.promote(1, "first", "me")
        self.started: list[subprocess.Popen[str]] = []

    def promote(self, version: int, pause_at: str = "") -> subprocess.Popen[str]:
        values = [self.uri, self.name, str(version), pause_at, str(self.folder)]
        command = [sys.executable, "-c", PROMOTE, *values]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.started.append(process)
        if pause_at:
            while not (self.folder / f"{version}.waits").exists():
                assert process.poll() is None
                time.sleep(0.01)
        return process

    def resume(self, version: int) -> None:
        (self.folder / f"{version}.go").touch()

    def production(self) -> int:
        return self.registry.find("Production").version

    def promotions(self) -> list[tuple[int | None, int]]:
        return [(p.replaced, p.version) for p in self.registry.history()[::-1]]

    def locks(self) -> list[str]:
        fields = {"filter": f"name LIKE '{self.name}.%'", "max_results": 100}
        response = self.client.get("/registered-models/search", params=fields).json()
        return [model["name"] for model in response.get("registered_models", [])]


@pytest.fixture(scope="module", params=["mlflow_server", "postgres_server"], ids=["sqlite", "pg"])
def each_server(request: pytest.FixtureRequest) -> str:
    """On both by day, too: the databases differ in what runs at the same time."""
    return str(request.getfixturevalue(request.param))


@pytest.fixture
def race(each_server: str, tmp_path: Path) -> Iterator[Race]:
    race = Race(each_server, tmp_path)
    yield race
    for process in race.started:
        if process.poll() is None:
            process.kill()
        process.communicate()
    race.registry.close()


def test_promotion_during_another_one_fails(race: Race) -> None:
    winner = race.promote(2, BEFORE_THE_ALIAS)
    second = race.promote(3)
    output = second.communicate(timeout=60)[0]
    assert second.returncode == 7
    assert f"process {winner.pid} on " in output
    assert race.production() == 1
    race.resume(2)
    assert winner.wait(60) == 0
    assert race.production() == 2
    assert race.promotions() == [(None, 1), (1, 2)]
    assert race.locks() == []


def test_promotion_overtaken_before_its_lock_fails(race: Race) -> None:
    slow = race.promote(2, BEFORE_THE_LOCK)
    race.registry.promote(3, "quicker", "anna")
    race.resume(2)
    output = slow.communicate(timeout=60)[0]
    assert slow.returncode == 7
    assert "version 3 became Production meanwhile (promote by anna" in output
    assert race.production() == 3
    assert race.promotions() == [(None, 1), (1, 3)]
    assert race.locks() == []


@pytest.mark.parametrize("pause_at", [BEFORE_THE_LOCK, BEFORE_THE_ALIAS])
def test_killed_promotion_does_not_block_the_next(race: Race, pause_at: str) -> None:
    killed = race.promote(2, pause_at)
    killed.send_signal(signal.SIGKILL)
    killed.wait(30)
    assert race.production() == 1
    race.registry.promote(3, "on", "me")
    assert race.production() == 3
    assert race.promotions() == [(None, 1), (1, 3)]
    assert race.locks() == []


def test_lock_of_another_machine_expires(race: Race, monkeypatch: pytest.MonkeyPatch) -> None:
    killed = race.promote(2, BEFORE_THE_ALIAS)
    killed.send_signal(signal.SIGKILL)
    killed.wait(30)
    monkeypatch.setattr(process_identity.socket, "gethostname", lambda: "elsewhere")
    with pytest.raises(PromotionConflictError, match="at this moment"):
        race.registry.promote(3, "too early", "me")
    assert race.production() == 1
    monkeypatch.setattr(promotion, "LEASE_SECONDS", 0.0)
    # The lock is taken over, but half of a lease of 0 s has passed already.
    with pytest.raises(PromotionConflictError, match="held up"):
        race.registry.promote(3, "too late", "me")
    monkeypatch.setattr(promotion, "LEASE_SECONDS", 120.0)
    race.registry.promote(3, "in time", "me")
    assert race.production() == 3
    assert race.locks() == []


def test_promotion_keeps_its_stored_keys() -> None:
    first = new_promotion(1, None, None, "me", "first")
    second = new_promotion(2, 1, first, "me", "second")
    stored = json.loads(second.to_json())
    assert list(stored) == ["id", "action", "version", "left", "at", "who", "why", "below"]
    assert (stored["left"], stored["below"]) == (1, [1])
    assert Promotion.from_json(second.to_json()) == second


def test_history_of_concurrent_promotions_is_one_chain(race: Race) -> None:
    for _ in range(3):
        processes = [race.promote(version) for version in (2, 3)]
        codes = [process.wait(60) for process in processes]
        assert 0 in codes
        assert set(codes) <= {0, 7}
        promotions = race.promotions()
        assert all(after[0] == before[1] for before, after in pairwise(promotions))
        assert race.production() == promotions[-1][1]
        assert race.locks() == []


@given(st.text())
def test_arbitrary_tag_text_is_no_promotion(text: str) -> None:
    assert Promotion.from_json(text) is None
