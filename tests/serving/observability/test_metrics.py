"""Metrics of one process; several workers are tested in ``test_server_workers.py``."""

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

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def parse_metrics(text: str) -> Samples:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(samples: Samples, name: str, **labels: str) -> float:
    return samples[f"rossmann_{name}", frozenset(labels.items())]


def scrape(api: TestClient) -> Samples:
    return parse_metrics(api.get("/metrics").text)


def test_request_is_counted_once_under_its_route(api: TestClient, row: Any) -> None:
    for _ in range(3):
        api.post("/predict", json={"inputs": [row(), row(2)]})
    api.post("/predict", json={"inputs": [row(Store=-1)]})
    api.get("/stores/1/plan")
    samples = scrape(api)
    predict = {"route": "/predict", "method": "POST"}
    assert value(samples, "http_requests_total", **predict, code="200") == 3
    assert value(samples, "http_requests_total", **predict, code="422") == 1
    assert value(samples, "http_request_seconds_count", route="/predict") == 4
    assert value(samples, "http_request_seconds_bucket", route="/predict", le="+Inf") == 4
    assert value(samples, "rows_total", door="predict") == 6
    plan = {"route": "/stores/{store}/plan", "method": "GET", "code": "200"}
    assert value(samples, "http_requests_total", **plan) == 1


def test_explained_rows_are_counted_separately() -> None:
    metrics = Metrics()
    metrics.rows_forecast("explain", 5)
    metrics.rows_forecast("explain", 2)
    samples = parse_metrics(metrics.render().decode())
    assert value(samples, "rows_total", door="explain") == 7
    assert value(samples, "rows_total", door="predict") == 0


def test_unknown_paths_and_methods_create_no_series(api: TestClient) -> None:
    def series() -> set[Any]:
        return {name for name in scrape(api) if "http_" in name[0]}

    for path in ("/a", "/stores/x", "/stores/2/nothing"):
        api.get(path)
    for method in ("BREW", "PROPFIND"):
        api.request(method, "/predict")
        api.request(method, "/none")
    series()  # a scrape counts itself after its response
    before = series()
    for number in range(20):
        api.get(f"/a{number}")
        api.get(f"/stores/x{number}")
        api.request(f"BREW{number}", "/predict")
        api.request(f"BREW{number}", f"/none{number}")
    assert series() == before
    assert not any("BREW" in str(name) for name in before)


def test_model_and_registry_state_metrics(api: TestClient, service: Service, registry: Any) -> None:
    samples = scrape(api)
    assert value(samples, "model_version", stage="Production") == 1
    assert value(samples, "model_version", stage="Staging") == 2
    assert value(samples, "model_reloads_total", outcome="taken_over") == 1
    assert value(samples, "model_reloads_total", outcome="refused") == 0
    assert value(samples, "degraded") == value(samples, "registry_away") == 0
    registry.promote(3, "", "test")
    service.versions.poll()
    samples = scrape(api)
    assert value(samples, "model_version", stage="Production") == 3
    assert value(samples, "model_version_lowest", stage="Production") == 3
    assert value(samples, "model_reloads_total", outcome="taken_over") == 2
    registry.add(13)
    registry.promote(13, "does not load", "test")
    service.versions.poll()
    service.versions.poll()
    samples = scrape(api)
    assert value(samples, "model_reloads_total", outcome="refused") == 2
    assert value(samples, "model_version", stage="Production") == 3
    assert value(samples, "degraded") == 1
    registry.unavailable = True
    service.versions.poll()
    assert value(scrape(api), "registry_away") == 1


def test_history_age_is_in_days(service: Service) -> None:
    metrics = Metrics()
    last = service.panel.info.last_day
    for days in (0, 1, 40):
        day: date = last + timedelta(days=days)
        gauges = StateCollector(metrics, service, today=lambda day=day: day)
        samples = parse_metrics(gauges.render().decode())
        assert value(samples, "history_age_days") == days


def test_prediction_log_metrics(service: Service) -> None:
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
    assert value(parse_metrics(gauges.render().decode()), "prediction_log_written_total") == 0
    gauges.track_prediction_log(lambda: state)

    gauge_names = ("queue_rows", "spool_rows", "spool_bytes")
    names = (*gauge_names, "written_total", "dropped_total", "refused_total")

    def log_metrics() -> list[float]:
        samples = parse_metrics(gauges.render().decode())
        return [value(samples, f"prediction_log_{name}") for name in names]

    assert log_metrics() == [3, 40, 5000, 10, 0, 1]
    assert log_metrics() == [3, 40, 5000, 10, 0, 1]  # totals are set, not added
    state.queue_rows, state.written_rows, state.dropped_rows = 0, 53, 2
    assert log_metrics() == [0, 40, 5000, 53, 2, 1]
    success = "prediction_log_last_success_timestamp_seconds"
    assert value(parse_metrics(gauges.render().decode()), success) == 0
    state.seconds_since_success = 90.0
    assert value(parse_metrics(gauges.render().decode()), success) == pytest.approx(
        time.time() - 90, abs=30
    )


def test_failing_prediction_log_state_keeps_the_other_metrics(service: Service) -> None:
    def broken() -> Any:
        raise OSError("the disk is gone")

    gauges = StateCollector(Metrics(), service)
    gauges.track_prediction_log(broken)
    assert value(parse_metrics(gauges.render().decode()), "workers") == 1


def test_process_and_build_metrics(api: TestClient) -> None:
    samples = scrape(api)
    assert value(samples, "workers") == value(samples, "worker_starts_total") == 1
    assert 2**20 < value(samples, "process_resident_memory_bytes") < 2**36
    assert value(samples, "process_resident_memory_bytes") == pytest.approx(
        psutil.Process().memory_info().rss, rel=0.5
    )
    assert value(samples, "process_cpu_seconds_total") > 0
    builds = [dict(labels) for name, labels in samples if name == "rossmann_build_info"]
    assert len(builds) == 1 and builds[0].keys() == {"version", "python"}


def test_requests_in_flight_include_the_scrape_itself(make_app: Callable[..., FastAPI]) -> None:
    with TestClient(make_app()) as api:
        assert value(scrape(api), "http_requests_in_flight") == 1
        assert value(scrape(api), "http_requests_in_flight") == 1


def test_every_metric_has_prefix_and_documentation(api: TestClient) -> None:
    families = list(text_string_to_metric_families(api.get("/metrics").text))
    assert len(families) > 15
    for family in families:
        assert family.name.startswith("rossmann_") and family.documentation
        if family.type == "counter":
            assert not family.name.endswith("_created")
