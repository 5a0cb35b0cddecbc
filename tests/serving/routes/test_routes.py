"""All routes but the forecasts: bodies, status codes and effects."""

import re
import sys
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from rossmann.data.panel.panel import Panel
from rossmann.errors import ServiceError
from rossmann.installation import shell_command
from rossmann.models.registry.mlflow_rest import MlflowRest
from rossmann.serving.access.api_keys import Permission, generate_key
from rossmann.serving.schemas.errors import STATUS_BY_ERROR, ErrorResponse
from rossmann.serving.schemas.models import Health, ModelInfo

App = Callable[..., FastAPI]


def error_type(response: Any, code: int) -> str:
    assert response.status_code == code, response.text
    return ErrorResponse.model_validate_json(response.content, strict=True).detail[0].type


def test_root_lists_working_paths(api: TestClient) -> None:
    body = api.get("/").json()
    assert body["name"] and body["version"]
    for name in ("docs", "openapi", "health", "model", "stores", "metrics"):
        assert api.get(body[name]).status_code == 200


def test_health(api: TestClient, registry: Any, service: Any) -> None:
    body = api.get("/health").json()
    assert body.items() >= {
        "status": "healthy", "model_loaded": True, "model_version": 1,
        "model_stage": "Production", "reason": "",
    }.items()  # fmt: skip
    Health.model_validate(body)
    registry.unavailable = True
    service.versions.poll()
    body = api.get("/health").json()
    assert body["status"] == "degraded" and "server is unreachable" in body["reason"]
    assert api.get("/health/live").status_code == api.get("/health/ready").status_code == 200
    registry.unavailable = False
    service.versions.poll()
    assert api.get("/health").json()["status"] == "healthy"


def test_responses_name_no_address_of_mlflow(
    api: TestClient, registry: Any, service: Any, row: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Callers may be outside, and anyone may ask for /health. The registry's client raises it."""
    client = MlflowRest("http://user:secret@127.0.0.1:9/mlflow", timeout=1)
    monkeypatch.setattr(registry, "versions", lambda: client.call("GET", "runs/get"))
    service.versions.poll()
    assert "http://127.0.0.1:9/mlflow" in service.degraded_reason
    reason = api.get("/health").json()["reason"]
    assert "MLflow at its address does not answer" in reason
    forecast = api.post("/predict", json={"inputs": [row()], "model_stage": 77})
    listed = api.get("/models")
    assert (forecast.status_code, listed.status_code) == (503, 503)
    for text in (reason, forecast.text, listed.text):
        assert "its address" in text
        assert not re.search(r"://|127\.0|:9\b|secret", text), text


def test_responses_name_no_folder_of_the_machine(
    api: TestClient, registry: Any, service: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command that mends it stays, without the program's path and this machine's settings."""
    monkeypatch.setenv("ROSSMANN_DATA_DIR", "/secret/folder")

    def fail() -> None:
        raise ServiceError(f"MLflow does not answer; start it with: {shell_command('mlflow')}")

    monkeypatch.setattr(registry, "versions", fail)
    service.versions.poll()
    assert "/secret/folder" in service.degraded_reason
    for text in (api.get("/health").json()["reason"], api.get("/models").text):
        assert "start it with: rossmann mlflow" in text
        assert "secret" not in text and sys.prefix not in text


def test_documentation_is_named_by_the_root_and_counted_by_its_name(api: TestClient) -> None:
    path = api.get("/").json()["documentation"]
    response = api.get(f"{path}deployment/overview/")
    assert response.status_code == 404
    assert "rossmann docs --build" in response.text  # it is not built in the tests' data folder
    assert response.headers["content-security-policy"]
    assert 'code="404",method="GET",route="/documentation"' in api.get("/metrics").text


@pytest.mark.parametrize("path", ["/health/", "/docs/", "/stores/"])
def test_redirects_do_not_repeat_the_host(api: TestClient, make_app: Any, path: str) -> None:
    _, record = generate_key(Permission.PREDICT, "shop")
    with TestClient(make_app(api_keys=record.file_line), base_url="http://evil.example") as keyed:
        for client in (api, keyed):
            response = client.request("GET", client.base_url.join(path), follow_redirects=False)
            if response.status_code == 404:
                continue
            assert response.status_code == 307
            assert response.headers["Location"] == path.rstrip("/")
    assert api.get("/health/").status_code == 200


def test_health_is_degraded_for_a_model_of_another_dataset(api: TestClient, service: Any) -> None:
    service.versions.production.forecaster.ensemble.card["data"]["dataset"] = "rossmann"
    body = api.get("/health").json()
    assert body["status"] == "degraded"
    assert "the real Rossmann tables" in body["reason"] and "demo data" in body["reason"]


def test_model_info(api: TestClient, panel: Panel) -> None:
    response = api.get("/model/info")
    info = ModelInfo.model_validate_json(response.content)
    assert (info.production_version, info.staging_version) == (1, 2)
    assert info.registered_models == ["rossmann-ensemble"]
    for data in (info.data.model, info.data.panel):
        assert (data.dataset, data.version) == ("demo", panel.info.version)
        assert data.label == "demo data (a synthetic chain)"
        assert data.last_day == panel.info.last_day and data.rows == panel.info.rows


def test_load(api: TestClient) -> None:
    body = api.post("/model/load", json={"model_stage": "Staging"}).json()
    assert body == {"model_version": 2, "model_stage": "Staging", "model_loaded": True}
    assert api.post("/model/load").json()["model_version"] == 1
    assert api.get("/model/info").json()["loaded_versions"] == [1, 2]
    response = api.post("/model/load", json={"model_stage": 99})
    assert error_type(response, 404) == "unknown_version"
    assert error_type(api.post("/model/load", json={"stage": 1}), 422) == "extra_forbidden"


OPERATIONS = ("/model/load", "/models/2/promote", "/models/rollback")


@pytest.mark.parametrize("path", OPERATIONS)
@pytest.mark.parametrize(
    ("body", "code", "expected"),
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
def test_invalid_body_of_a_model_operation_is_rejected(
    api: TestClient, registry: Any, path: str, body: bytes, code: int, expected: str
) -> None:
    before = {version: listed.stage for version, listed in registry.by_version.items()}
    assert error_type(api.post(path, content=body), code) == expected
    without_length = api.post(path, content=iter([body]))
    assert error_type(without_length, code) == expected
    assert {version: listed.stage for version, listed in registry.by_version.items()} == before


def test_body_that_is_no_object_names_the_expected_fields(api: TestClient) -> None:
    (error,) = api.post("/model/load", content=b"[1]").json()["detail"]
    assert error["msg"] == "the body must be an object with model_stage (got a list)"


@pytest.mark.parametrize("number", ["1.0", "+1", "1_0", "%201", "1%0A", "x"])
def test_numbers_in_urls_must_be_digits(api: TestClient, number: str) -> None:
    for path in (f"/stores/{number}", f"/stores/1/plan?days={number.replace('+', '%2B')}"):
        assert error_type(api.get(path), 422) == "int_parsing"
    assert error_type(api.post(f"/models/{number}/promote"), 422) == "int_parsing"


@pytest.mark.parametrize(
    ("url", "known_options"),
    [
        ("/stores/1/plan?days=3&strat=2015-08-01", "there are: days, start"),
        ("/stores/1/history?Until=2015-08-01", "there are: days, until"),
        ("/stores?limit=1", "there are none"),
        ("/model/info?model_stage=Staging", "there are none"),
        ("/models?stage=Staging", "there are none"),
        ("/experiments/current?version=2", "there are none"),
    ],
)
def test_unknown_query_parameter_is_rejected(api: TestClient, url: str, known_options: str) -> None:
    response = api.get(url)
    assert error_type(response, 422) == "extra_forbidden"
    (error,) = response.json()["detail"]
    assert error["msg"] == f"{error['loc'][1]} is not an option; {known_options}"
    assert api.get(url.partition("?")[0]).status_code == 200


@pytest.mark.parametrize("url", ["/models/2/promote?force=true", "/models/rollback?version=2"])
def test_options_of_a_promotion_are_not_read_from_the_url(
    api: TestClient, registry: Any, url: str
) -> None:
    before = registry.by_version[2].stage
    assert error_type(api.post(url, json={"reason": "x"}), 422) == "extra_forbidden"
    assert registry.by_version[2].stage == before


@pytest.mark.parametrize(
    ("url", "content"),
    [
        ("/stores/1/history?days=3&days=5", None),
        ("/predict/file?format=csv&format=xlsx", b"Store\n"),
        ("/predict/file?model_stage=&model_stage=Staging", b"Store\n"),
    ],
)
def test_a_query_parameter_given_twice_is_rejected(
    api: TestClient, url: str, content: bytes | None
) -> None:
    response = api.get(url) if content is None else api.post(url, content=content)
    assert "repeated_key" in {error["type"] for error in response.json()["detail"]}


def test_promote_and_rollback_take_effect_immediately(api: TestClient, registry: Any) -> None:
    body = api.post("/models/2/promote", json={"reason": "better"}).json()
    assert (body["version"], body["stage"]) == (2, "Production")
    assert registry.by_version[2].tags == {"reason": "better", "who": "anyone"}
    assert api.get("/health").json()["model_version"] == 2
    assert api.post("/models/rollback").json()["version"] == 1
    assert api.get("/health").json()["model_version"] == 1
    assert error_type(api.post("/models/rollback"), 404) == "unknown_version"
    assert error_type(api.post("/models/77/promote"), 404) == "unknown_version"
    assert [v["version"] for v in api.get("/models").json()] == [3, 2, 1]


def test_promotion_needs_the_gate_unless_forced(api: TestClient, registry: Any) -> None:
    registry.add(13)
    assert error_type(api.post("/models/13/promote"), 409) == "gate_failed"
    assert api.get("/health").json()["model_version"] == 1
    response = api.post("/models/13/promote", json={"force": True})
    assert response.json()["stage"] == "Production"
    assert registry.expected == "any"
    api.post("/models/3/promote")
    assert registry.expected == 1  # the version that the gate compared with


def test_unavailable_registry_is_503(api: TestClient, registry: Any) -> None:
    registry.unavailable = True
    for response in (api.get("/models"), api.post("/model/load", json={"model_stage": 3})):
        assert error_type(response, 503) == "away"


def test_unknown_path_is_404_and_unknown_method_405(api: TestClient) -> None:
    assert error_type(api.get("/nope"), 404) == "not_found"
    response = api.get("/predict")
    assert error_type(response, 405) == "method_not_allowed" and response.headers["Allow"] == "POST"


def test_internal_error_is_500_without_its_message(
    api: TestClient, service: Any, row: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> Any:
        raise ZeroDivisionError("secret")

    monkeypatch.setattr(type(service.versions), "get_loaded", fail)
    response = api.post("/predict", json={"inputs": [row()]})
    assert error_type(response, 500) == "internal" and "secret" not in response.text


def test_no_error_class_is_hidden_by_an_earlier_one() -> None:
    for index, (error, _, _) in enumerate(STATUS_BY_ERROR):
        assert not any(issubclass(error, earlier) for earlier, _, _ in STATUS_BY_ERROR[:index])


def test_stores(api: TestClient, panel: Panel) -> None:
    stores = api.get("/stores").json()
    assert [store["store"] for store in stores] == panel.store_numbers.tolist()
    assert api.get(f"/stores/{stores[3]['store']}").json() == stores[3]
    for path in ("/stores/4444", "/stores/0", "/stores/-1", f"/stores/{10**30}"):
        assert error_type(api.get(path), 422) == "unknown_store"
    assert error_type(api.get("/stores/one"), 422) == "int_parsing"


def test_history_equals_the_panel(api: TestClient, panel: Panel) -> None:
    store = int(panel.store_numbers[5])
    until = panel.info.last_day - timedelta(days=100)
    path = f"/stores/{store}/history"
    body = api.get(path, params={"days": 30, "until": until.isoformat()}).json()
    expected = panel.history(store, panel.last_day - 100, 30)
    assert body["until"] == body["days"][-1]["Date"] == until.isoformat()
    assert [day["Sales"] for day in body["days"]] == expected.sales.tolist()
    assert [day["Open"] for day in body["days"]] == expected.open.tolist()
    assert len(api.get(path).json()["days"]) == 90
    for invalid in ({"days": 0}, {"days": "x"}, {"until": "1999-01-01"}, {"until": "31.12.2014"}):
        error_type(api.get(path, params=invalid), 422)


def test_plan_rows_are_valid_inputs(api: TestClient, panel: Panel) -> None:
    store = int(panel.store_numbers[2])
    plan = api.get(f"/stores/{store}/plan").json()
    assert plan["start"] == (panel.info.last_day + timedelta(days=1)).isoformat()
    assert len(plan["rows"]) == 48 and all(row["scheduled"] for row in plan["rows"])
    rows = [{k: v for k, v in row.items() if k != "scheduled"} for row in plan["rows"]]
    forecast = api.post("/predict", json={"inputs": rows}).json()
    assert forecast["warnings"] == []
    open_flags = [row["Open"] for row in rows]
    assert [sales > 0 for sales in forecast["predictions"]] == [bool(o) for o in open_flags]
    later = api.get(f"/stores/{store}/plan", params={"days": 60}).json()["rows"]
    assert [row["scheduled"] for row in later] == [True] * 48 + [False] * 12


def test_metrics_contain_counts_and_no_text_of_callers(api: TestClient, row: Any) -> None:
    api.post("/predict", json={"inputs": [row(60), row(61), row()]})
    api.get("/no/such/path")
    api.get("/stores/4444")
    text = api.get("/metrics").text
    assert 'rossmann_rows_total{door="predict"} 3.0' in text
    assert 'rossmann_warnings_total{type="horizon"} 2.0' in text
    assert 'rossmann_model_version{stage="Production"} 1.0' in text
    assert 'rossmann_http_requests_total{code="200",method="POST",route="/predict"} 1.0' in text
    assert "no/such" not in text and "4444" not in text


def test_openapi_examples_are_accepted(api: TestClient) -> None:
    document = api.get("/openapi.json").json()
    body = document["paths"]["/predict"]["post"]["requestBody"]["content"]["application/json"]
    response = api.post("/predict", json=body["example"])
    assert response.status_code == 200 and response.json()["warnings"] == []
    assert body["schema"]["$ref"].rsplit("/", 1)[1] in document["components"]["schemas"]
    for path in OPERATIONS:
        operation = document["paths"][path.replace("2", "{version}")]["post"]
        example = operation["requestBody"]["content"]["application/json"]["example"]
        assert api.post(path, json=example).status_code == 200, path
        assert {"key": []} in operation["security"]
    assert "security" not in document["paths"]["/health"]["get"]
    names = [ref.rsplit("/", 1)[1] for ref in _refs(document)]
    assert names and set(names) <= set(document["components"]["schemas"])


def _refs(node: Any) -> list[str]:
    if isinstance(node, dict):
        own = [node["$ref"]] if isinstance(node.get("$ref"), str) else []
        return own + [ref for value in node.values() for ref in _refs(value)]
    return [ref for value in node for ref in _refs(value)] if isinstance(node, list) else []


def test_docs_page_loads_no_external_resources(api: TestClient) -> None:
    page = api.get("/docs")
    assert page.status_code == 200
    assert "//" not in re.sub(r"<!--.*?-->", "", page.text)  # neither https:// nor //host
    assets = re.findall(r"(?:src|href)=\"([^\"]+)\"", page.text)
    media_types = {api.get(path).headers["content-type"].partition(";")[0] for path in assets}
    assert media_types == {"text/javascript", "text/css", "image/png"}
    assert all(api.get(path).status_code == 200 for path in assets)
    assert api.get("/openapi.json").json()["paths"].keys() >= {"/predict", "/explain"}
