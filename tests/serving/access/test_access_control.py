"""Access control over HTTP: keys, permissions, origins, body limits, security headers."""

import base64
import hashlib
import re
from collections.abc import Callable, Iterator
from typing import Any

import anyio
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from rossmann.serving.schemas.errors import ErrorResponse

App = Callable[..., FastAPI]
KEYS = ",".join(
    f"{right}:{hashlib.sha256(key.encode()).hexdigest()}{name}"
    for right, key, name in (("predict", "see", ":shop"), ("operate", "act", ""))
)
PREDICT_KEY, OPERATE_KEY = {"X-API-Key": "see"}, {"Authorization": "Bearer act"}
PUBLIC_PATHS = {"/", "/health", "/health/live", "/health/ready", "/metrics"}
PAGES = {"/docs", "/docs/oauth2-redirect", "/openapi.json"}


def error_type(response: Any, code: int) -> str:
    assert response.status_code == code, response.text
    return ErrorResponse.model_validate_json(response.content, strict=True).detail[0].type


def route_paths(routes: Any) -> Iterator[str]:
    """The path of every route, including those of routers."""
    for route in routes:
        included = getattr(route, "original_router", None)
        if included is None:
            yield route.path
        else:
            yield from route_paths(included.routes)


def documented_calls(app: FastAPI) -> list[tuple[str, str]]:
    """Method and path of each operation in the OpenAPI document, with parameters set to 1."""
    return [
        (method.upper(), re.sub(r"{\w+}", "1", path))
        for path, methods in app.openapi()["paths"].items()
        for method in methods
    ]


@pytest.fixture
def protected_api(make_app: App) -> Iterator[TestClient]:
    app = make_app(api_keys=KEYS, stores_for_anyone=False)
    with TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False) as client:
        yield client


def test_every_route_but_the_public_ones_needs_a_key(
    make_app: App, protected_api: TestClient
) -> None:
    app = make_app()
    operations = documented_calls(app)
    assert len(operations) > 12
    public = {
        path
        for method, path in operations
        if protected_api.request(method, path).status_code != 401
    }
    assert public == PUBLIC_PATHS
    assert all(protected_api.get(path).status_code == 200 for path in PAGES)
    # Undocumented routes are limited to the known pages.
    documented = {path for _, path in operations}
    registered = {re.sub(r"{\w+}", "1", path) for path in route_paths(app.routes)}
    assert documented < registered and registered - documented <= PAGES | {
        "/docs/assets",
        "/documentation",
    }


def test_permissions_of_each_key(protected_api: TestClient, row: Any) -> None:
    body = {"inputs": [row()]}
    for path in ("/model/info", "/stores", "/stores/1/plan"):
        response = protected_api.get(path)
        assert (
            error_type(response, 401) == "no_key"
            and response.headers["WWW-Authenticate"] == "Bearer"
        )
        assert protected_api.get(path, headers=PREDICT_KEY).status_code == 200
    wrong = ({"X-API-Key": "sea"}, {"Authorization": "Basic act"}, {"X-API-Key": ""})
    for headers in ({}, *wrong, {"X-API-Key": "sé€".encode()}, {"Authorization": "Bearer"}):
        assert (
            error_type(protected_api.post("/predict", json=body, headers=headers), 401) == "no_key"
        )
    for headers in (PREDICT_KEY, OPERATE_KEY, {"Authorization": "bearer see"}):
        assert protected_api.post("/predict", json=body, headers=headers).status_code == 200
    for path in ("/model/load", "/models/2/promote", "/models/rollback"):
        assert error_type(protected_api.post(path, headers=PREDICT_KEY), 403) == "no_right"
    assert error_type(protected_api.get("/models", headers=PREDICT_KEY), 403) == "no_right"
    assert protected_api.post("/models/2/promote", headers=OPERATE_KEY).status_code == 200


def test_store_routes_are_public_by_default(make_app: App) -> None:
    with TestClient(make_app(api_keys=KEYS)) as client:
        for path in ("/stores", "/stores/1", "/stores/1/history", "/stores/1/plan"):
            assert client.get(path).status_code == 200
            assert client.get(path, headers={"X-API-Key": "sea"}).status_code == 401
        assert client.get("/model/info").status_code == 401


def test_promotion_tags_name_the_caller(make_app: App, registry: Any) -> None:
    record = f"operate:{hashlib.sha256(b'boss').hexdigest()}:night-shift"
    with TestClient(make_app(api_keys=f"{KEYS},{record}")) as client:
        client.post("/models/2/promote", headers={"X-API-Key": "boss"})
        assert registry.by_version[2].tags["who"] == "key night-shift"
        client.post("/models/3/promote", headers=OPERATE_KEY)
        assert registry.by_version[3].tags["who"] == f"key {hashlib.sha256(b'act').hexdigest()[:8]}"
        client.post("/models/rollback", headers={"X-API-Key": "boss"})
        assert registry.by_version[2].tags["who"] == "key night-shift"


@pytest.mark.parametrize(
    ("base", "origin", "code"),
    [
        ("http://127.0.0.1:8000", "https://evil.example", 403),
        ("http://127.0.0.1:8000", "http://127.0.0.1:8501", 403),
        ("http://127.0.0.1:8000", "null", 403),
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000", 200),
        ("http://[::1]:8000", "http://[::1]:8000", 200),
        ("http://localhost:8000", "http://localhost:8000", 200),
        # DNS rebinding: a foreign name that resolves to this machine
        ("http://evil.example:8000", "http://evil.example:8000", 403),
        ("http://good.example", "https://good.example", 200),
    ],
)
def test_requests_of_other_origins_are_rejected(
    make_app: App, base: str, origin: str, code: int
) -> None:
    app = make_app(cors_origins=("https://good.example",))
    with TestClient(app, base_url=base) as client:
        response = client.post("/models/2/promote", headers={"Origin": origin})
        assert response.status_code == code, response.text
        # No browser, but a foreign name is refused all the same.
        expected = 403 if "evil" in base else 200
        assert client.post("/models/2/promote").status_code == expected


async def _send_endless_body(
    app: FastAPI, method: str, path: str, with_length: bool
) -> tuple[int, int]:
    """Status code and bytes read of a request whose body never ends."""
    read, codes = 0, []
    chunk = b"[" * 65_536

    async def receive() -> dict[str, Any]:
        nonlocal read
        read += len(chunk)
        assert read < 64 * 2**20, f"{method} {path} reads without limit"
        return {"type": "http.request", "body": chunk, "more_body": True}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            codes.append(message["status"])

    headers = [(b"content-type", b"application/json"), (b"x-api-key", b"act")]
    headers += [(b"content-length", b"9999999999")] if with_length else []
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method,
        "scheme": "http", "path": path, "raw_path": path.encode(), "query_string": b"",
        "root_path": "", "headers": headers, "client": ("127.0.0.1", 1), "server": ("x", 80),
    }  # fmt: skip
    await app(scope, receive, send)
    return codes[0], read


@pytest.mark.parametrize("with_length", [True, False], ids=["length", "chunked"])
def test_every_route_limits_the_bytes_read(make_app: App, with_length: bool) -> None:
    app = make_app(api_keys=KEYS, max_body_mb=1, max_file_mb=1)
    requests = [
        *documented_calls(app),
        ("POST", "/no/such"),
        ("POST", "/docs"),
        ("POST", "/docs/assets/x"),
    ]
    for method, path in requests:
        code, read = anyio.run(_send_endless_body, app, method, path, with_length)
        max_bytes = 2**20 if path in {"/predict", "/explain", "/predict/file"} else 16_384
        assert read <= max_bytes + 2 * 65_536, (method, path)
        if method == "POST" and (method, path) in documented_calls(app):
            assert code == 413, (method, path)
        if with_length:
            assert read == 0, (method, path)


def test_every_response_has_security_headers(api: TestClient, row: Any) -> None:
    responses = [
        api.get("/"), api.get("/health"), api.get("/metrics"), api.get("/no/such"),
        api.post("/predict", json={"inputs": [row()]}), api.post("/predict", content=b"no"),
        api.get("/openapi.json"), api.get("/docs"), api.get("/docs/assets/swagger-ui.css"),
    ]  # fmt: skip
    for response in responses:
        headers = response.headers
        assert headers["X-Content-Type-Options"] == "nosniff", response.url
        assert headers["X-Frame-Options"] == "DENY" and headers["Referrer-Policy"] == "no-referrer"
        assert "default-src 'none'" in headers["Content-Security-Policy"]
        assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
        assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
        assert "Strict-Transport-Security" not in headers
        assert not {name for name in headers if name.startswith("access-control")}
        assert "server" not in headers
    assert all(response.headers["Cache-Control"] == "no-store" for response in responses[:-1])


def test_internal_error_has_security_headers(
    api: TestClient, service: Any, row: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> Any:
        raise ZeroDivisionError

    monkeypatch.setattr(type(service.versions), "get_loaded", broken)
    response = api.post("/predict", json={"inputs": [row()]})
    assert response.status_code == 500 and response.headers["Cache-Control"] == "no-store"
    assert "default-src 'none'" in response.headers["Content-Security-Policy"]


def test_hsts_header_only_behind_tls(make_app: App) -> None:
    with TestClient(make_app(tls_in_front=True)) as client:
        assert client.get("/health").headers["Strict-Transport-Security"] == "max-age=31536000"


def test_docs_page_policy_allows_only_its_own_script(api: TestClient) -> None:
    page = api.get("/docs")
    scripts = re.findall(r"<script>(.*?)</script>", page.text, re.DOTALL)
    assert scripts
    policy = page.headers["Content-Security-Policy"]
    rules = dict(rule.partition(" ")[::2] for rule in policy.split("; "))
    digests = {base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in scripts}
    assert rules["script-src"].split() == ["'self'", *(f"'sha256-{d}'" for d in digests)]
    assert rules["connect-src"] == "'self'"


def test_cors_allows_only_configured_origins(make_app: App, row: Any) -> None:
    allowed, foreign = {"Origin": "https://good.example"}, {"Origin": "https://evil.example"}
    preflight = {
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "x-api-key",
    }
    body = {"inputs": [row()]}
    with TestClient(make_app(api_keys=KEYS)) as client:
        assert client.options("/predict", headers=allowed | preflight).status_code == 405
        response = client.post("/predict", json=body, headers=allowed | PREDICT_KEY)
        assert "Access-Control-Allow-Origin" not in response.headers
    app = make_app(api_keys=KEYS, cors_origins=("https://good.example",))
    with TestClient(app) as client:
        response = client.options("/predict", headers=allowed | preflight)
        assert response.status_code == 200
        assert response.headers["Access-Control-Allow-Origin"] == "https://good.example"
        assert client.options("/predict", headers=foreign | preflight).status_code == 400
        for headers, code in ((allowed | PREDICT_KEY, 200), (allowed, 401)):
            response = client.post("/predict", json=body, headers=headers)
            assert response.status_code == code
            assert response.headers["Access-Control-Allow-Origin"] == "https://good.example"
            assert "Access-Control-Allow-Credentials" not in response.headers
        response = client.post("/predict", json=body, headers=foreign | PREDICT_KEY)
        assert "Access-Control-Allow-Origin" not in response.headers
