"""A base path: every route with it and without it, and addresses in answers that hold it."""

from collections.abc import Callable
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from rossmann.errors import SettingsError
from rossmann.serving.middleware import DEFAULT_HEADERS

BASE = "/shop/forecasts"
PATHS = [
    *("/health", "/health/live", "/docs", "/openapi.json", "/stores", "/stores/1", "/metrics"),
    *("/docs/assets/swagger-ui.css", "/model/info", "/"),
]


@pytest.fixture
def make_client(make_app: Callable[..., FastAPI]) -> Callable[[str], TestClient]:
    return lambda base: TestClient(make_app(api_base_path=base), follow_redirects=False)


@pytest.mark.parametrize("path", PATHS)
def test_routes_answer_with_and_without_the_base_path(
    path: str, make_client: Callable[[str], TestClient]
) -> None:
    with make_client("") as client:
        plain = client.get(path)
    with make_client(BASE) as client:
        stripped, whole = client.get(path), client.get(f"{BASE}{path}")
    assert plain.status_code == stripped.status_code == whole.status_code == 200
    for name in (*DEFAULT_HEADERS, "content-type"):
        if path != "/docs" or name != "content-security-policy":
            assert stripped.headers.get(name) == whole.headers.get(name) == plain.headers.get(name)


def test_base_path_without_a_slash_is_the_root(make_client: Callable[[str], TestClient]) -> None:
    with make_client(BASE) as client:
        assert client.get(BASE).json() == client.get("/").json()


def test_other_paths_are_404(make_client: Callable[[str], TestClient]) -> None:
    with make_client(BASE) as client:
        for path in ("/shop", "/shop/forecast", f"{BASE}x/health", f"{BASE}{BASE}/health"):
            assert client.get(path).status_code == 404, path


def test_addresses_in_answers_hold_the_base_path(
    make_client: Callable[[str], TestClient], row: Callable[..., dict[str, Any]]
) -> None:
    with make_client(BASE) as client:
        places = client.get("/").json()
        document = client.get(places["openapi"]).json()
        page = client.get(places["docs"]).text
        answer = client.post(f"{BASE}/predict", json={"inputs": [row()]})
    assert document["servers"] == [{"url": BASE}]
    assert "/predict" in document["paths"]
    for asset in ("openapi.json", "docs/assets/swagger-ui-bundle.js", "docs/assets/favicon.png"):
        assert f"{BASE}/{asset}" in page
    assert answer.status_code == 200 and answer.json()["count"] == 1


def test_without_a_base_path_the_document_names_no_server(
    make_client: Callable[[str], TestClient],
) -> None:
    with make_client("") as client:
        assert "servers" not in client.get("/openapi.json").json()


@pytest.mark.parametrize(
    "base", ["/predict", "/models/x", "/health", "/docs", "/stores", "/metrics"]
)
def test_base_path_that_a_route_begins_with_is_refused(
    base: str, make_app: Callable[..., FastAPI]
) -> None:
    with pytest.raises(SettingsError, match="ROSSMANN_API_BASE_PATH"):
        make_app(api_base_path=base)


def test_metrics_and_log_count_by_route_whatever_the_base_path(
    make_client: Callable[[str], TestClient],
) -> None:
    with make_client(BASE) as client:
        client.get(f"{BASE}/stores/1")
        client.get("/stores/1")
        metrics = client.get("/metrics").text
    lines = [line for line in metrics.splitlines() if "/stores/{" in line and "_total" in line]
    assert lines and all(BASE not in line for line in lines)
    assert any(line.endswith(" 2.0") for line in lines), lines
