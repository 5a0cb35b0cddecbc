"""A service over the real panel, with a model that is a simple function of the matrix."""

import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import hypothesis
import numpy as np
import pytest
import uvicorn
from fastapi import FastAPI
from fastapi.testclient import TestClient
from hypothesis import HealthCheck

from rossmann.data.panel import Panel
from rossmann.errors import DamagedModel, GateFailed, ServiceError, UnknownVersion
from rossmann.models.ensemble import Ensemble
from rossmann.models.model_cache import new_copy, remember_production
from rossmann.models.train import Trained, train
from rossmann.schema import FloatArray, Matrix, Stage
from rossmann.serving.api import create_app
from rossmann.serving.forecaster import Forecaster
from rossmann.serving.runtime import Service
from rossmann.serving.server import bind, server_config
from rossmann.serving.versions import Versions
from rossmann.settings import Settings, load_settings


class PlainModel:
    """Sales from the whole row of the matrix, so that a wrong cell changes the answer."""

    def __init__(self, version: int, panel: Panel) -> None:
        self.version = version
        info = panel.info
        self.card: dict[str, Any] = {
            "profile": "plain",
            "weights": {"plain": 1.0},
            "metrics": {"rmspe": 0.1},
            "intervals": {"levels": [0.5, 0.8, 0.95, 0.99]},
            "data": {
                "dataset": str(info.dataset),
                "version": info.version,
                "first_day": info.first_day.isoformat(),
                "last_day": info.last_day.isoformat(),
                "rows": info.rows,
            },
        }

    def predict(self, matrix: Matrix, threads: int = 1) -> FloatArray:
        weights = np.arange(1, matrix.shape[1] + 1) * self.version
        return np.abs(np.nan_to_num(matrix.astype(np.float64))) @ weights

    def bounds(
        self, matrix: Matrix, sales: FloatArray, levels: Sequence[float]
    ) -> list[tuple[FloatArray, FloatArray]]:
        return [(sales * (1 - level / 2), sales * (1 + level / 2)) for level in levels]


@dataclass(frozen=True)
class Listed:
    """A version as a registry lists it."""

    version: int
    stage: Stage
    run_id: str
    created: datetime = datetime(2026, 1, 1, tzinfo=UTC)
    tags: dict[str, str] = field(default_factory=dict)


class ShelfRegistry:
    """A registry on a shelf: as many versions as wanted, away or damaged when told so."""

    def __init__(self, production: int | None = 1, staging: int | None = 2, count: int = 3) -> None:
        self.shelf = {
            n: Listed(n, self._stage(n, production, staging), f"run-{n}")
            for n in range(1, count + 1)
        }
        self.left: list[int] = []
        self.away = False
        self.calls = 0
        self.expected: int | str | None = None

    @staticmethod
    def _stage(number: int, production: int | None, staging: int | None) -> Stage:
        stages = {production: Stage.PRODUCTION, staging: Stage.STAGING}
        return stages.get(number, Stage.NONE)

    def add(self, version: int, stage: Stage = Stage.NONE, run_id: str = "") -> None:
        self.shelf[version] = Listed(version, stage, run_id or f"run-{version}")

    def versions(self) -> list[Listed]:
        self.calls += 1
        if self.away:
            raise ServiceError("no server answers")
        return sorted(self.shelf.values(), key=lambda v: -v.version)

    def fetch(self, version: int, cache: Path) -> Path:
        if self.away:
            raise ServiceError("no server answers")
        found = self.shelf[version]
        with new_copy(cache, version, found.run_id) as folder:
            (folder / "model.txt").write_text(str(version))
            digest = hashlib.sha256(str(version).encode()).hexdigest()
            card = {"files": {"model.txt": digest}}
            (folder / "ensemble.json").write_text(json.dumps(card))
        return cache / str(version)

    def promote(
        self, version: int, reason: str, who: str, expected: int | str | None = "any"
    ) -> Listed:
        if version not in self.shelf:
            raise UnknownVersion(f"there is no version {version}")
        self.expected = expected
        for number, found in self.shelf.items():
            if found.stage is Stage.PRODUCTION and number != version:
                self.shelf[number] = replace(found, stage=Stage.ARCHIVED)
                self.left.append(number)
        tags = {"reason": reason, "who": who}
        self.shelf[version] = replace(self.shelf[version], stage=Stage.PRODUCTION, tags=tags)
        return self.shelf[version]

    def rollback(self, reason: str, who: str) -> Listed:
        if not self.left:
            raise UnknownVersion("nothing served before")
        before = self.left.pop()
        rest = list(self.left)
        found = self.promote(before, reason, who)
        self.left = rest
        return found


def refuse_thirteen(version: int) -> int | None:
    if version == 13:
        raise GateFailed("version 13 did not pass the gate")
    return 1  # what it was compared with


def plain_maker(panel: Panel) -> Callable[[Path], Forecaster]:
    """Makes a forecaster from what ``ShelfRegistry.fetch`` wrote."""

    def make(folder: Path) -> Forecaster:
        number = int((folder / "model.txt").read_text())
        if number == 13:
            raise DamagedModel("thirteen never loads")
        return Forecaster(panel, PlainModel(number, panel))

    return make


# How many cases a fuzz test tries: some thousand in all, or by night some ten thousand.
_FUZZ: dict[str, Any] = {
    "deadline": None,
    "suppress_health_check": [
        HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.filter_too_much,
        HealthCheck.data_too_large,
    ],
}  # fmt: skip
hypothesis.settings.register_profile("fuzz", max_examples=150, **_FUZZ)
hypothesis.settings.register_profile("nightly", max_examples=3_000, **_FUZZ)


@pytest.fixture
def registry() -> ShelfRegistry:
    return ShelfRegistry()


@pytest.fixture
def serving_settings(tmp_path: Path) -> Settings:
    # Polls are made by the tests themselves, not by the clock.
    return load_settings(data_dir=tmp_path, threads=2, reload_seconds=3600, max_rows=5000)


@pytest.fixture
def make_forecaster(panel: Panel) -> Callable[[Path], Forecaster]:
    return plain_maker(panel)


@pytest.fixture
def ensemble(trained: Trained) -> Ensemble:
    """The trained version, read back."""
    return Ensemble.load(trained.folder)


@pytest.fixture
def make_trained(panel: Panel, ensemble: Ensemble) -> Callable[[Path], Forecaster]:
    """Instead of a plain model the trained version; a module takes it as ``make_forecaster``."""
    return lambda _: Forecaster(panel, ensemble, threads=2)


@pytest.fixture(scope="session")
def rival(chain_settings: Settings) -> Trained:
    """Another real version: other trees, of which one member alone is heard."""
    weights = {"lightgbm": 0.0, "xgboost": 0.0, "catboost": 1.0}
    other = chain_settings.profile("quick").model_copy(update={"weights": weights})
    changes = {"profiles": {"quick": other}, "seed": 7}
    return train(chain_settings.model_copy(update=changes), "quick")


@pytest.fixture
def make_rivals(panel: Panel, ensemble: Ensemble, rival: Trained) -> Callable[[Path], Forecaster]:
    """Version 2, which is in Staging, is the rival; the others but 13 are the trained one."""
    other = Ensemble.load(rival.folder)

    def make(folder: Path) -> Forecaster:
        number = int((folder / "model.txt").read_text())
        if number == 13:
            raise DamagedModel("thirteen never loads")
        return Forecaster(panel, other if number == 2 else ensemble, threads=2)

    return make


@pytest.fixture
def experiment(
    make_app: Callable[..., FastAPI], service: Service
) -> Callable[..., AbstractContextManager[TestClient]]:
    """Runs the service with an experiment whose challenger is loaded; takes settings."""

    @contextmanager
    def run(**changes: Any) -> Iterator[TestClient]:
        settings = {"experiment": "ab", "experiment_share": 0.4, **changes}
        with TestClient(make_app(**settings), raise_server_exceptions=False) as client:
            service.versions.poll()
            yield client

    return run


@pytest.fixture
def service(
    panel: Panel,
    registry: ShelfRegistry,
    serving_settings: Settings,
    make_forecaster: Callable[[Path], Forecaster],
) -> Service:
    versions = Versions(registry, serving_settings.model_cache_dir, make_forecaster)
    versions.start()
    return Service(panel, versions, registry, refuse_thirteen)


@pytest.fixture
def make_app(service: Service, serving_settings: Settings) -> Callable[..., FastAPI]:
    """Builds the application; keyword arguments change settings."""

    def make(**changes: Any) -> FastAPI:
        settings = serving_settings.model_copy(update=changes)
        return create_app(settings, service)

    return make


@pytest.fixture
def api(make_app: Callable[..., FastAPI]) -> Iterator[TestClient]:
    with TestClient(make_app(), raise_server_exceptions=False) as client:
        yield client


@contextmanager
def run_live(app: FastAPI, trusted_proxies: str = "") -> Iterator[str]:
    """Serve ``app`` on a free port, with the loop and parser that the service uses."""
    with bind("127.0.0.1", 0) as listener:
        server = uvicorn.Server(server_config(app, trusted_proxies=trusted_proxies))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            while not server.started:
                assert thread.is_alive(), "the server ended while starting"
                time.sleep(0.01)
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(30)


@pytest.fixture
def live() -> Callable[..., AbstractContextManager[str]]:
    return run_live


@dataclass(frozen=True)
class RunningDoor:
    """The service as processes of its own: where it answers, and what it said on stderr."""

    process: subprocess.Popen[bytes]
    url: str
    log: Path

    def stop(self) -> str:
        """End it as an orchestrator does; gives all that it said."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)
        return self.log.read_text()


@pytest.fixture
def run_door(
    chain_settings: Settings, trained: Trained, tmp_path: Path
) -> Iterator[Callable[..., RunningDoor]]:
    """Starts the service from a local copy of the trained version, without a registry.

    Settings are keyword arguments; ``environment`` adds other variables.
    """
    for name in ("demo", "processed"):
        (tmp_path / name).symlink_to(chain_settings.data_dir / name)
    with new_copy(tmp_path / "models", 1, "run-1") as copy:
        shutil.copytree(trained.folder, copy, dirs_exist_ok=True)
    remember_production(tmp_path / "models", 1)
    started: list[RunningDoor] = []

    def run(environment: dict[str, str] | None = None, **values: Any) -> RunningDoor:
        with socket.socket() as probe, socket.socket() as nobody:
            probe.bind(("127.0.0.1", 0))
            nobody.bind(("127.0.0.1", 0))
            port, away = probe.getsockname()[1], nobody.getsockname()[1]
        told = {"data_dir": tmp_path, "api_port": port, "threads": 1, **values}
        told.setdefault("mlflow_tracking_uri", f"http://127.0.0.1:{away}")
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("ROSSMANN_", "OTEL_"))}
        named = {f"ROSSMANN_{name.upper()}": str(value) for name, value in told.items()}
        log = tmp_path / f"door-{len(started)}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "rossmann.cli", "serve"],
                env={**clean, **named, **(environment or {})},
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        door = RunningDoor(process, f"http://127.0.0.1:{port}", log)
        started.append(door)
        _wait_until_ready(door)
        return door

    yield run
    for door in started:
        if door.process.poll() is None:
            door.process.terminate()
        door.process.wait(60)


def _wait_until_ready(door: RunningDoor) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert door.process.poll() is None, door.log.read_text()
        try:
            if httpx.get(f"{door.url}/health/ready", timeout=5, trust_env=False).is_success:
                return
        except httpx.HTTPError:
            time.sleep(0.05)
    raise AssertionError(f"{door.url} was never ready:\n{door.log.read_text()}")


@pytest.fixture
def row(panel: Panel) -> Callable[..., dict[str, Any]]:
    """A valid row some days after history; keyword arguments change or, with ``...``, drop."""

    def make(ahead: int = 1, **changes: Any) -> dict[str, Any]:
        day = panel.info.last_day + timedelta(days=ahead)
        made = {
            "Store": int(panel.store_numbers[0]),
            "DayOfWeek": day.isoweekday(),
            "Date": day.isoformat(),
            "Open": 1,
            "Promo": 1,
            "StateHoliday": "0",
            "SchoolHoliday": 0,
        } | changes
        return {name: value for name, value in made.items() if value is not ...}

    return make
