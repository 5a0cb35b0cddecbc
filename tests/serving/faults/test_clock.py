"""The machine's clock is set to another time while the service runs."""

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from rossmann.models.registry.model_cache import write_version

Call = Callable[..., Any]
YEARS = 10 * 365 * 86_400
REAL = time.time


@pytest.fixture(params=[YEARS, -YEARS], ids=["ahead", "back"])
def set_clock(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Call:
    """Moves the clock by ten years when it is called."""
    return lambda: monkeypatch.setattr(time, "time", lambda: REAL() + request.param)


def test_everything_goes_on(
    set_clock: Call, make_app: Call, registry: Any, row: Call, until: Call
) -> None:
    """Answers, promotions, loads and limits take their times from a clock that nobody sets."""
    app = make_app(reload_seconds=0.05, rate_limit="1000/second")
    with TestClient(app, raise_server_exceptions=False) as client:
        body = {"inputs": [row()]}
        before = client.post("/predict", json=body)
        assert before.status_code == 200
        up = client.get("/health").json()["uptime_seconds"]
        set_clock()
        after = client.post("/predict", json=body)
        assert after.status_code == 200
        assert after.json()["predictions"] == before.json()["predictions"]
        assert 0 <= client.get("/health").json()["uptime_seconds"] - up < 3_600
        registry.promote(2, "", "")
        until("taken over", lambda: client.get("/health").json()["model_version"] == 2)
        registry.add(7)
        until(
            "a version that is new",
            lambda: client.post("/predict", json={**body, "model_stage": 7}).status_code == 200,
        )
        told = client.get("/metrics").text
        assert 'rossmann_requests_total{code="200"' in told or "rossmann_" in told


def test_a_download_under_way_is_not_swept(set_clock: Call, tmp_path: Path) -> None:
    """What a killed download left is swept after an hour, by whatever clock; one at work never."""
    left = tmp_path / "8.left.tmp"
    left.mkdir()
    with write_version(tmp_path, 1, "run-1") as at_work:
        (at_work / "ensemble.json").write_text('{"files": {}}')
        set_clock()
        with write_version(tmp_path, 2, "run-2") as other:
            (other / "ensemble.json").write_text('{"files": {}}')
        assert at_work.is_dir()
        assert left.exists() == (time.time() < REAL())
    assert (tmp_path / "1").is_dir() and (tmp_path / "2").is_dir()
    shutil.rmtree(left, ignore_errors=True)
