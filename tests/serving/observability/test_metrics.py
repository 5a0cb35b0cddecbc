"""What is counted, in one process; with several workers: ``test_workers``."""

import time
from collections.abc import Callable
from datetime import date, timedelta
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families

from rossmann.serving.observability.gauges import StateCollector
from rossmann.serving.observability.metrics import Metrics
from rossmann.serving.runtime.service import Service

Told = dict[tuple[str, frozenset[tuple[str, str]]], float]


def parsed(text: str) -> Told:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(told: Told, name: str, **labels: str) -> float:
    return told[f"rossmann_{name}", frozenset(labels.items())]


def page(api: TestClient) -> Told:
    return parsed(api.get("/metrics").text)


def test_a_request_is_counted_once_under_its_route(api: TestClient, row: Any) -> None:
    for _ in range(3):
        api.post("/predict", json={"inputs": [row(), row(2)]})
    api.post("/predict", json={"inputs": [row(Store=-1)]})
    api.get("/stores/1/plan")
    told = page(api)
    predict = {"route": "/predict", "method": "POST"}
    assert value(told, "http_requests_total", **predict, code="200") == 3
    assert value(told, "http_requests_total", **predict, code="422") == 1
    assert value(told, "http_request_seconds_count", route="/predict") == 4
    assert value(told, "http_request_seconds_bucket", route="/predict", le="+Inf") == 4
    assert value(told, "rows_total", door="predict") == 6
    plan = {"route": "/stores/{store}/plan", "method": "GET", "code": "200"}
    assert value(told, "http_requests_total", **plan) == 1


def test_explained_rows_have_a_door_of_their_own() -> None:
    metrics = Metrics()
    metrics.rows_forecast("explain", 5)
    metrics.rows_forecast("explain", 2)
    told = parsed(metrics.render().decode())
    assert value(told, "rows_total", door="explain") == 7
    assert value(told, "rows_total", door="predict") == 0


def test_callers_cannot_make_new_series(api: TestClient) -> None:
    def series() -> set[Any]:
        return {name for name in page(api) if "http_" in name[0]}

    for path in ("/a", "/stores/x", "/stores/2/nothing"):
        api.get(path)
    for method in ("BREW", "PROPFIND"):
        api.request(method, "/predict")
        api.request(method, "/none")
    series()  # the page counts itself once it is sent
    before = series()
    for number in range(20):
        api.get(f"/a{number}")
        api.get(f"/stores/x{number}")
        api.request(f"BREW{number}", "/predict")
        api.request(f"BREW{number}", f"/none{number}")
    assert series() == before
    assert not any("BREW" in str(name) for name in before)


def test_the_state_of_the_model(api: TestClient, service: Service, registry: Any) -> None:
    told = page(api)
    assert value(told, "model_version", stage="Production") == 1
    assert value(told, "model_version", stage="Staging") == 2
    assert value(told, "model_reloads_total", outcome="taken_over") == 1
    assert value(told, "model_reloads_total", outcome="refused") == 0
    assert value(told, "degraded") == value(told, "registry_away") == 0
    registry.promote(3, "", "test")
    service.versions.poll()
    told = page(api)
    assert value(told, "model_version", stage="Production") == 3
    assert value(told, "model_version_lowest", stage="Production") == 3
    assert value(told, "model_reloads_total", outcome="taken_over") == 2
    registry.add(13)
    registry.promote(13, "does not load", "test")
    service.versions.poll()
    service.versions.poll()
    told = page(api)
    assert value(told, "model_reloads_total", outcome="refused") == 2
    assert value(told, "model_version", stage="Production") == 3
    assert value(told, "degraded") == 1
    registry.away = True
    service.versions.poll()
    assert value(page(api), "registry_away") == 1


def test_the_age_of_history_counts_days(service: Service) -> None:
    metrics = Metrics()
    last = service.panel.info.last_day
    for days in (0, 1, 40):
        day: date = last + timedelta(days=days)
        gauges = StateCollector(metrics, service, today=lambda day=day: day)
        told = parsed(gauges.render().decode())
        assert value(told, "history_age_days") == days


def test_the_state_of_the_prediction_log(service: Service) -> None:
    state = SimpleNamespace(
        queue_rows=3,
        spool_rows=40,
        spool_bytes=5000,
        written_rows=10,
        dropped_rows=0,
        rejected_rows=1,
        seconds_since_success=None,
    )
    gauges = StateCollector(Metrics(), service)
    assert value(parsed(gauges.render().decode()), "prediction_log_written_total") == 0
    gauges.track_prediction_log(lambda: state)

    def told() -> list[float]:
        found = parsed(gauges.render().decode())
        gauges_of_it = ("queue_rows", "spool_rows", "spool_bytes")
        totals = ("written_total", "dropped_total", "refused_total")
        return [value(found, f"prediction_log_{name}") for name in (*gauges_of_it, *totals)]

    assert told() == [3, 40, 5000, 10, 0, 1]
    assert told() == [3, 40, 5000, 10, 0, 1]  # totals are moved to, not added again
    state.queue_rows, state.written_rows, state.dropped_rows = 0, 53, 2
    assert told() == [0, 40, 5000, 53, 2, 1]
    success = "prediction_log_last_success_timestamp_seconds"
    assert value(parsed(gauges.render().decode()), success) == 0
    state.seconds_since_success = 90.0
    assert value(parsed(gauges.render().decode()), success) == pytest.approx(
        time.time() - 90, abs=30
    )


def test_a_log_that_cannot_tell_its_state_leaves_the_rest(service: Service) -> None:
    def broken() -> Any:
        raise OSError("the disk is gone")

    gauges = StateCollector(Metrics(), service)
    gauges.track_prediction_log(broken)
    assert value(parsed(gauges.render().decode()), "workers") == 1


def test_the_process_and_its_build(api: TestClient) -> None:
    told = page(api)
    assert value(told, "workers") == value(told, "worker_starts_total") == 1
    assert 2**20 < value(told, "process_resident_memory_bytes") < 2**36
    assert value(told, "process_resident_memory_bytes") == pytest.approx(
        psutil.Process().memory_info().rss, rel=0.5
    )
    assert value(told, "process_cpu_seconds_total") > 0
    builds = [dict(labels) for name, labels in told if name == "rossmann_build_info"]
    assert len(builds) == 1 and builds[0].keys() == {"version", "python"}


def test_what_is_being_answered_is_told(make_app: Callable[..., FastAPI]) -> None:
    with TestClient(make_app()) as api:
        # The page itself is being answered while it is written; nothing else is.
        assert value(page(api), "http_requests_in_flight") == 1
        assert value(page(api), "http_requests_in_flight") == 1


def test_no_metric_is_without_a_unit_or_a_text(api: TestClient) -> None:
    families = list(text_string_to_metric_families(api.get("/metrics").text))
    assert len(families) > 15
    for family in families:
        assert family.name.startswith("rossmann_") and family.documentation
        if family.type == "counter":
            assert not family.name.endswith("_created")
