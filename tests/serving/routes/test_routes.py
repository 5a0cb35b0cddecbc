"""Every call but the forecast: shapes, codes and who may."""

import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from rossmann.data.panel.panel import Panel
from rossmann.serving.schemas.errors import STATUS_BY_ERROR, ErrorResponse
from rossmann.serving.schemas.models import Health, ModelInfo

App = Callable[..., FastAPI]


def kind(answer: Any, code: int) -> str:
    assert answer.status_code == code, answer.text
    return ErrorResponse.model_validate_json(answer.content, strict=True).detail[0].type


def test_root_tells_where_things_are(api: TestClient) -> None:
    told = api.get("/").json()
    assert told["name"] and told["version"]
    for name in ("docs", "openapi", "health", "model", "stores", "metrics"):
        assert api.get(told[name]).status_code == 200


def test_health(api: TestClient, registry: Any, service: Any) -> None:
    told = api.get("/health").json()
    assert told.items() >= {
        "status": "healthy", "model_loaded": True, "model_version": 1,
        "model_stage": "Production", "reason": "",
    }.items()  # fmt: skip
    Health.model_validate(told)
    registry.away = True
    service.versions.poll()
    told = api.get("/health").json()
    assert told["status"] == "degraded" and "no server answers" in told["reason"]
    assert api.get("/health/live").status_code == api.get("/health/ready").status_code == 200
    registry.away = False
    service.versions.poll()
    assert api.get("/health").json()["status"] == "healthy"


def test_a_model_of_other_data_is_told(api: TestClient, service: Any) -> None:
    service.versions.production.forecaster.ensemble.card["data"]["dataset"] = "rossmann"
    told = api.get("/health").json()
    assert told["status"] == "degraded"
    assert "the real Rossmann tables" in told["reason"] and "demo data" in told["reason"]


def test_model_info(api: TestClient, panel: Panel) -> None:
    answer = api.get("/model/info")
    told = ModelInfo.model_validate_json(answer.content)
    assert (told.production_version, told.staging_version) == (1, 2)
    assert told.registered_models == ["rossmann-ensemble"]
    for data in (told.data.model, told.data.panel):
        assert (data.dataset, data.version) == ("demo", panel.info.version)
        assert data.label == "demo data (a synthetic chain)"
        assert data.last_day == panel.info.last_day and data.rows == panel.info.rows


def test_load(api: TestClient) -> None:
    told = api.post("/model/load", json={"model_stage": "Staging"}).json()
    assert told == {"model_version": 2, "model_stage": "Staging", "model_loaded": True}
    assert api.post("/model/load").json()["model_version"] == 1
    assert api.get("/model/info").json()["loaded_versions"] == [1, 2]
    answer = api.post("/model/load", json={"model_stage": 99})
    assert kind(answer, 404) == "unknown_version"
    assert kind(api.post("/model/load", json={"stage": 1}), 422) == "extra_forbidden"


ORDERS = ("/model/load", "/models/2/promote", "/models/rollback")


@pytest.mark.parametrize("path", ORDERS)
@pytest.mark.parametrize(
    ("body", "code", "word"),
    [
        (b"[" * 9_000, 422, "json_invalid"),
        (b"{", 422, "json_invalid"),
        (b"\xff\xfe", 400, "not_utf8"),
        ('{"reason": ""}'.encode("utf-16"), 400, "not_utf8"),
        (b'"' + b"x" * 20_000 + b'"', 413, "too_many_bytes"),
        (b'{"other": 1}', 422, "extra_forbidden"),
        (b"[]", 422, "model_type"),
        (b"null", 422, "model_type"),
    ],
)
def test_an_order_is_read_as_other_bodies_are(
    api: TestClient, registry: Any, path: str, body: bytes, code: int, word: str
) -> None:
    before = {version: found.stage for version, found in registry.shelf.items()}
    assert kind(api.post(path, content=body), code) == word
    assert kind(api.post(path, content=iter([body])), code) == word  # of no told length
    assert {version: found.stage for version, found in registry.shelf.items()} == before


def test_an_order_that_is_no_object_hears_what_it_must_hold(api: TestClient) -> None:
    (fault,) = api.post("/model/load", content=b"[1]").json()["detail"]
    assert fault["msg"] == "the body must be an object with model_stage (got a list)"


@pytest.mark.parametrize("number", ["1.0", "+1", "1_0", "%201", "1%0A", "x"])
def test_numbers_in_addresses_are_digits(api: TestClient, number: str) -> None:
    for path in (f"/stores/{number}", f"/stores/1/plan?days={number.replace('+', '%2B')}"):
        assert kind(api.get(path), 422) == "int_parsing"
    assert kind(api.post(f"/models/{number}/promote"), 422) == "int_parsing"


@pytest.mark.parametrize(
    ("call", "there"),
    [
        ("/stores/1/plan?days=3&strat=2015-08-01", "there are: days, start"),
        ("/stores/1/history?Until=2015-08-01", "there are: days, until"),
        ("/stores?limit=1", "there are none"),
    ],
)
def test_an_option_that_there_is_not_is_not_left_out(
    api: TestClient, call: str, there: str
) -> None:
    answer = api.get(call)
    assert kind(answer, 422) == "extra_forbidden"
    (fault,) = answer.json()["detail"]
    assert fault["msg"] == f"{fault['loc'][1]} is not an option; {there}"
    assert api.get(call.partition("?")[0]).status_code == 200


def test_promote_and_rollback_take_effect_at_once(api: TestClient, registry: Any) -> None:
    told = api.post("/models/2/promote", json={"reason": "better"}).json()
    assert (told["version"], told["stage"]) == (2, "Production")
    assert registry.shelf[2].tags == {"reason": "better", "who": "anyone"}
    assert api.get("/health").json()["model_version"] == 2
    assert api.post("/models/rollback").json()["version"] == 1
    assert api.get("/health").json()["model_version"] == 1
    assert kind(api.post("/models/rollback"), 404) == "unknown_version"
    assert kind(api.post("/models/77/promote"), 404) == "unknown_version"
    assert [v["version"] for v in api.get("/models").json()] == [3, 2, 1]


def test_the_gate_decides_unless_forced(api: TestClient, registry: Any) -> None:
    registry.add(13)
    assert kind(api.post("/models/13/promote"), 409) == "gate_failed"
    assert api.get("/health").json()["model_version"] == 1
    answer = api.post("/models/13/promote", json={"force": True})
    assert answer.json()["stage"] == "Production"
    assert registry.expected == "any"
    api.post("/models/3/promote")
    assert registry.expected == 1  # the version that the gate compared it with, or nothing moves


def test_registry_away_is_503(api: TestClient, registry: Any) -> None:
    registry.away = True
    for answer in (api.get("/models"), api.post("/model/load", json={"model_stage": 3})):
        assert kind(answer, 503) == "away"


def test_unknown_path_and_method(api: TestClient) -> None:
    assert kind(api.get("/nope"), 404) == "not_found"
    answer = api.get("/predict")
    assert kind(answer, 405) == "method_not_allowed" and answer.headers["Allow"] == "POST"


def test_a_fault_of_ours_is_500_without_its_text(
    api: TestClient, service: Any, row: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> Any:
        raise ZeroDivisionError("secret")

    monkeypatch.setattr(type(service.versions), "get_loaded", broken)
    answer = api.post("/predict", json={"inputs": [row()]})
    assert kind(answer, 500) == "internal" and "secret" not in answer.text


def test_each_error_has_its_own_code() -> None:
    for place, (error, _, _) in enumerate(STATUS_BY_ERROR):
        assert not any(issubclass(error, earlier) for earlier, _, _ in STATUS_BY_ERROR[:place])


def test_stores(api: TestClient, panel: Panel) -> None:
    told = api.get("/stores").json()
    assert [store["store"] for store in told] == panel.store_numbers.tolist()
    assert api.get(f"/stores/{told[3]['store']}").json() == told[3]
    for path in ("/stores/4444", "/stores/0", "/stores/-1", f"/stores/{10**30}"):
        assert kind(api.get(path), 422) == "unknown_store"
    assert kind(api.get("/stores/one"), 422) == "int_parsing"


def test_history_is_the_panels(api: TestClient, panel: Panel) -> None:
    store = int(panel.store_numbers[5])
    until = panel.info.last_day - timedelta(days=100)
    path = f"/stores/{store}/history"
    told = api.get(path, params={"days": 30, "until": until.isoformat()}).json()
    past = panel.history(store, panel.last_day - 100, 30)
    assert told["until"] == told["days"][-1]["Date"] == until.isoformat()
    assert [day["Sales"] for day in told["days"]] == past.sales.tolist()
    assert [day["Open"] for day in told["days"]] == past.open.tolist()
    assert len(api.get(path).json()["days"]) == 90
    for wrong in ({"days": 0}, {"days": "x"}, {"until": "1999-01-01"}, {"until": "31.12.2014"}):
        kind(api.get(path, params=wrong), 422)


def test_plan_can_be_sent_back_as_it_is(api: TestClient, panel: Panel) -> None:
    store = int(panel.store_numbers[2])
    told = api.get(f"/stores/{store}/plan").json()
    assert told["start"] == (panel.info.last_day + timedelta(days=1)).isoformat()
    assert len(told["rows"]) == 48 and all(row["scheduled"] for row in told["rows"])
    rows = [{k: v for k, v in row.items() if k != "scheduled"} for row in told["rows"]]
    answer = api.post("/predict", json={"inputs": rows}).json()
    assert answer["warnings"] == []
    opened = [row["Open"] for row in rows]
    assert [sales > 0 for sales in answer["predictions"]] == [bool(o) for o in opened]
    later = api.get(f"/stores/{store}/plan", params={"days": 60}).json()["rows"]
    assert [row["scheduled"] for row in later] == [True] * 48 + [False] * 12


def test_metrics_count_and_hold_no_text_of_callers(api: TestClient, row: Any) -> None:
    api.post("/predict", json={"inputs": [row(60), row(61), row()]})
    api.get("/no/such/path")
    api.get("/stores/4444")
    text = api.get("/metrics").text
    assert 'rossmann_rows_total{door="predict"} 3.0' in text
    assert 'rossmann_warnings_total{type="horizon"} 2.0' in text
    assert 'rossmann_model_version{stage="Production"} 1.0' in text
    assert 'rossmann_http_requests_total{code="200",method="POST",route="/predict"} 1.0' in text
    assert "no/such" not in text and "4444" not in text


def test_examples_of_the_openapi_text_work(api: TestClient) -> None:
    text = api.get("/openapi.json").json()
    body = text["paths"]["/predict"]["post"]["requestBody"]["content"]["application/json"]
    answer = api.post("/predict", json=body["example"])
    assert answer.status_code == 200 and answer.json()["warnings"] == []
    assert body["schema"]["$ref"].rsplit("/", 1)[1] in text["components"]["schemas"]
    for path in ORDERS:
        call = text["paths"][path.replace("2", "{version}")]["post"]
        order = call["requestBody"]["content"]["application/json"]["example"]
        assert api.post(path, json=order).status_code == 200, path
        assert {"key": []} in call["security"]
    assert "security" not in text["paths"]["/health"]["get"]
    names = [ref.rsplit("/", 1)[1] for ref in _refs(text)]
    assert names and set(names) <= set(text["components"]["schemas"])


def _refs(node: Any) -> list[str]:
    if isinstance(node, dict):
        own = [node["$ref"]] if isinstance(node.get("$ref"), str) else []
        return own + [ref for value in node.values() for ref in _refs(value)]
    return [ref for value in node for ref in _refs(value)] if isinstance(node, list) else []


def test_the_page_of_docs_fetches_nothing_from_elsewhere(api: TestClient) -> None:
    page = api.get("/docs")
    assert page.status_code == 200
    assert "//" not in re.sub(r"<!--.*?-->", "", page.text)  # neither https:// nor //host
    needed = re.findall(r"(?:src|href)=\"([^\"]+)\"", page.text)
    kinds = {api.get(path).headers["content-type"].partition(";")[0] for path in needed}
    assert kinds == {"text/javascript", "text/css", "image/png"}
    assert all(api.get(path).status_code == 200 for path in needed)
    assert api.get("/openapi.json").json()["paths"].keys() >= {"/predict", "/explain"}
