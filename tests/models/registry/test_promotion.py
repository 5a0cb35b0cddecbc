"""Two promotions at once, by real processes: one wins, the other is told, nothing is left over."""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import httpx
import pytest

from rossmann.errors import PromotionConflictError
from rossmann.filesystem import process_identity as owner
from rossmann.models.registry import promotion as promotion_claims
from rossmann.models.registry.registry import Registry

API = "/api/2.0/mlflow"
PROMOTE = """
import sys, time
from pathlib import Path
from rossmann.errors import LostRace
from rossmann.models.registry.mlflow_rest import MlflowRest
from rossmann.models.registry.registry import Registry

uri, name, version, pause_at, folder = sys.argv[1:]
real, here = MlflowRest.call, Path(folder) / version

def call(self, method, path, **fields):
    if pause_at and (method, path) == tuple(pause_at.split()):
        here.with_suffix(".waits").touch()
        while not here.with_suffix(".go").exists():
            time.sleep(0.01)
    return real(self, method, path, **fields)

MlflowRest.call = call
try:
    with Registry(uri, name, timeout=30) as registry:
        registry.promote(version, "race", version)
except LostRace as error:
    print(error)
    sys.exit(7)
"""
BEFORE_THE_CLAIM = "POST registered-models/create"
BEFORE_THE_MOVE = "POST registered-models/alias"


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

    def let_go(self, version: int) -> None:
        (self.folder / f"{version}.go").touch()

    def serving(self) -> int:
        return self.registry.find("Production").version

    def moves(self) -> list[tuple[int | None, int]]:
        return [(step.replaced, step.version) for step in self.registry.history()[::-1]]

    def claims(self) -> list[str]:
        fields = {"filter": f"name LIKE '{self.name}.%'", "max_results": 100}
        found = self.client.get("/registered-models/search", params=fields).json()
        return [model["name"] for model in found.get("registered_models", [])]


@pytest.fixture
def race(each_server: str, tmp_path: Path) -> Iterator[Race]:
    race = Race(each_server, tmp_path)
    yield race
    for process in race.started:
        if process.poll() is None:
            process.kill()
        process.communicate()
    race.registry.close()


def test_who_comes_while_another_moves_is_told(race: Race) -> None:
    winner = race.promote(2, BEFORE_THE_MOVE)
    second = race.promote(3)
    said = second.communicate(timeout=60)[0]
    assert second.returncode == 7
    assert f"process {winner.pid} on " in said
    assert race.serving() == 1
    race.let_go(2)
    assert winner.wait(60) == 0
    assert race.serving() == 2
    assert race.moves() == [(None, 1), (1, 2)]
    assert race.claims() == []


def test_who_was_overtaken_before_the_claim_is_told(race: Race) -> None:
    slow = race.promote(2, BEFORE_THE_CLAIM)
    race.registry.promote(3, "quicker", "anna")
    race.let_go(2)
    said = slow.communicate(timeout=60)[0]
    assert slow.returncode == 7
    assert "version 3 became Production meanwhile (promote by anna" in said
    assert race.serving() == 3
    assert race.moves() == [(None, 1), (1, 3)]
    assert race.claims() == []


@pytest.mark.parametrize("pause_at", [BEFORE_THE_CLAIM, BEFORE_THE_MOVE])
def test_a_killed_process_holds_nobody_up(race: Race, pause_at: str) -> None:
    killed = race.promote(2, pause_at)
    killed.send_signal(signal.SIGKILL)
    killed.wait(30)
    assert race.serving() == 1
    race.registry.promote(3, "on", "me")
    assert race.serving() == 3
    assert race.moves() == [(None, 1), (1, 3)]
    assert race.claims() == []


def test_a_claim_of_another_machine_lapses(race: Race, monkeypatch: pytest.MonkeyPatch) -> None:
    killed = race.promote(2, BEFORE_THE_MOVE)
    killed.send_signal(signal.SIGKILL)
    killed.wait(30)
    monkeypatch.setattr(owner.socket, "gethostname", lambda: "elsewhere")
    with pytest.raises(PromotionConflictError, match="at this moment"):
        race.registry.promote(3, "too early", "me")
    assert race.serving() == 1
    monkeypatch.setattr(promotion_claims, "LEASE_SECONDS", 0.0)
    with pytest.raises(
        PromotionConflictError, match="held up"
    ):  # it was taken over, and half of no lease is over at once
        race.registry.promote(3, "too late", "me")
    monkeypatch.setattr(promotion_claims, "LEASE_SECONDS", 120.0)
    race.registry.promote(3, "in time", "me")
    assert race.serving() == 3
    assert race.claims() == []


def test_however_they_meet_the_history_is_one_chain(race: Race) -> None:
    for _ in range(3):
        both = [race.promote(version) for version in (2, 3)]
        codes = [process.wait(60) for process in both]
        assert 0 in codes
        assert set(codes) <= {0, 7}
        moves = race.moves()
        assert all(after[0] == before[1] for before, after in pairwise(moves))
        assert race.serving() == moves[-1][1]
        assert race.claims() == []
