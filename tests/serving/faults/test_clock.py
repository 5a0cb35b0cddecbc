"""Jumps of the system clock while the service runs."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from rossmann.filesystem.atomic_write import PREFIX
from rossmann.models.registry.model_cache import write_version

Call = Callable[..., Any]
TEN_YEARS = 10 * 365 * 86_400
REAL_TIME = time.time


@pytest.fixture(params=[TEN_YEARS, -TEN_YEARS], ids=["ahead", "back"])
def set_clock(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Call:
    """Shifts the clock by ten years when it is called."""
    return lambda: monkeypatch.setattr(time, "time", lambda: REAL_TIME() + request.param)


def test_service_is_unaffected_by_a_clock_jump(
    set_clock: Call, make_app: Call, registry: Any, row: Call, wait_until: Call
) -> None:
    """Forecasts, uptime, promotions, loads and rate limits."""
    app = make_app(reload_seconds=0.05, rate_limit="1000/second")
    with TestClient(app, raise_server_exceptions=False) as client:
        body = {"inputs": [row()]}
        before = client.post("/predict", json=body)
        assert before.status_code == 200
        uptime = client.get("/health").json()["uptime_seconds"]
        set_clock()
        after = client.post("/predict", json=body)
        assert after.status_code == 200
        assert after.json()["predictions"] == before.json()["predictions"]
        assert 0 <= client.get("/health").json()["uptime_seconds"] - uptime < 3_600
        registry.promote(2, "", "")
        wait_until("version 2", lambda: client.get("/health").json()["model_version"] == 2)
        registry.add(7)
        wait_until(
            "a new version",
            lambda: client.post("/predict", json={**body, "model_stage": 7}).status_code == 200,
        )
        metrics = client.get("/metrics").text
        assert 'rossmann_requests_total{code="200"' in metrics or "rossmann_" in metrics


def test_only_abandoned_downloads_are_removed(set_clock: Call, tmp_path: Path) -> None:
    """Whatever the clock says: only the lock decides."""
    abandoned = tmp_path / f"{PREFIX}abandoned"
    with write_version(tmp_path, 1, "run-1") as in_progress:
        (in_progress / "ensemble.json").write_text('{"files": {}}')
        set_clock()
        abandoned.mkdir()
        with write_version(tmp_path, 2, "run-2") as other:
            (other / "ensemble.json").write_text('{"files": {}}')
        assert in_progress.is_dir()
        assert not abandoned.exists()
    assert (tmp_path / "1").is_dir() and (tmp_path / "2").is_dir()
