"""Who may call what, over HTTP; and what every answer tells browsers."""

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
SEE, ACT = {"X-API-Key": "see"}, {"Authorization": "Bearer act"}
FOR_ANYONE = {"/", "/health", "/health/live", "/health/ready", "/metrics"}
PAGES = {"/docs", "/docs/oauth2-redirect", "/openapi.json"}


def kind(answer: Any, code: int) -> str:
    assert answer.status_code == code, answer.text
    return ErrorResponse.model_validate_json(answer.content, strict=True).detail[0].type


def leaves(routes: Any) -> Iterator[str]:
    """The path of every route, those of routers too."""
    for route in routes:
        included = getattr(route, "original_router", None)
        if included is None:
            yield route.path
        else:
            yield from leaves(included.routes)


def calls(app: FastAPI) -> list[tuple[str, str]]:
    """Method and path of each call that the OpenAPI text tells of, with numbers put in."""
    return [
        (method.upper(), re.sub(r"{\w+}", "1", path))
        for path, methods in app.openapi()["paths"].items()
        for method in methods
    ]


@pytest.fixture
def guarded(make_app: App) -> Iterator[TestClient]:
    app = make_app(api_keys=KEYS, stores_for_anyone=False)
    with TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False) as client:
        yield client


def test_every_call_needs_a_key_but_those_for_anyone(make_app: App, guarded: TestClient) -> None:
    app = make_app()
    told = calls(app)
    assert len(told) > 12
    open_to_all = {
        path for method, path in told if guarded.request(method, path).status_code != 401
    }
    assert open_to_all == FOR_ANYONE
    assert all(guarded.get(path).status_code == 200 for path in PAGES)
    # What the text leaves out is no back door: each of them is known.
    known = {path for _, path in told}
    found = {re.sub(r"{\w+}", "1", path) for path in leaves(app.routes)}
    assert known < found and found - known <= PAGES | {"/docs/assets"}


def test_rights(guarded: TestClient, row: Any) -> None:
    body = {"inputs": [row()]}
    for path in ("/model/info", "/stores", "/stores/1/plan"):
        answer = guarded.get(path)
        assert kind(answer, 401) == "no_key" and answer.headers["WWW-Authenticate"] == "Bearer"
        assert guarded.get(path, headers=SEE).status_code == 200
    wrong = ({"X-API-Key": "sea"}, {"Authorization": "Basic act"}, {"X-API-Key": ""})
    for headers in ({}, *wrong, {"X-API-Key": "sé€".encode()}, {"Authorization": "Bearer"}):
        assert kind(guarded.post("/predict", json=body, headers=headers), 401) == "no_key"
    for headers in (SEE, ACT, {"Authorization": "bearer see"}):
        assert guarded.post("/predict", json=body, headers=headers).status_code == 200
    for path in ("/model/load", "/models/2/promote", "/models/rollback"):
        assert kind(guarded.post(path, headers=SEE), 403) == "no_right"
    assert kind(guarded.get("/models", headers=SEE), 403) == "no_right"
    assert guarded.post("/models/2/promote", headers=ACT).status_code == 200


def test_stores_are_for_anyone_unless_told_otherwise(make_app: App) -> None:
    with TestClient(make_app(api_keys=KEYS)) as client:
        for path in ("/stores", "/stores/1", "/stores/1/history", "/stores/1/plan"):
            assert client.get(path).status_code == 200
            assert client.get(path, headers={"X-API-Key": "sea"}).status_code == 401
        assert client.get("/model/info").status_code == 401


def test_records_hold_who_it_was(make_app: App, registry: Any) -> None:
    named = f"operate:{hashlib.sha256(b'boss').hexdigest()}:night-shift"
    with TestClient(make_app(api_keys=f"{KEYS},{named}")) as client:
        client.post("/models/2/promote", headers={"X-API-Key": "boss"})
        assert registry.shelf[2].tags["who"] == "key night-shift"
        client.post("/models/3/promote", headers=ACT)
        assert registry.shelf[3].tags["who"] == f"key {hashlib.sha256(b'act').hexdigest()[:8]}"
        client.post("/models/rollback", headers={"X-API-Key": "boss"})
        assert registry.shelf[2].tags["who"] == "key night-shift"


@pytest.mark.parametrize(
    ("base", "origin", "code"),
    [
        ("http://127.0.0.1:8000", "https://evil.example", 403),
        ("http://127.0.0.1:8000", "http://127.0.0.1:8501", 403),
        ("http://127.0.0.1:8000", "null", 403),
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000", 200),
        ("http://[::1]:8000", "http://[::1]:8000", 200),
        ("http://localhost:8000", "http://localhost:8000", 200),
        # a name that its owner has pointed to this machine
        ("http://evil.example:8000", "http://evil.example:8000", 403),
        ("http://good.example", "https://good.example", 200),
    ],
)
def test_pages_of_other_sites_order_nothing(
    make_app: App, base: str, origin: str, code: int
) -> None:
    app = make_app(cors_origins=("https://good.example",))
    with TestClient(app, base_url=base) as client:
        answer = client.post("/models/2/promote", headers={"Origin": origin})
        assert answer.status_code == code, answer.text
        assert client.post("/models/2/promote").status_code == 200  # no page, a program


async def _endless(app: FastAPI, method: str, path: str, told: bool) -> tuple[int, int]:
    """The answer's code and the bytes read, for a body that never ends."""
    read, codes = 0, []
    chunk = b"[" * 65_536

    async def receive() -> dict[str, Any]:
        nonlocal read
        read += len(chunk)
        assert read < 64 * 2**20, f"{method} {path} reads on"
        return {"type": "http.request", "body": chunk, "more_body": True}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            codes.append(message["status"])

    headers = [
        (b"content-type", b"application/json"),
        (b"x-api-key", b"act"),
    ]
    headers += [(b"content-length", b"9999999999")] if told else []
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method,
        "scheme": "http", "path": path, "raw_path": path.encode(), "query_string": b"",
        "root_path": "", "headers": headers, "client": ("127.0.0.1", 1), "server": ("x", 80),
    }  # fmt: skip
    await app(scope, receive, send)
    return codes[0], read


@pytest.mark.parametrize("told", [True, False], ids=["told", "chunked"])
def test_no_route_reads_an_endless_body(make_app: App, told: bool) -> None:
    app = make_app(api_keys=KEYS, max_body_mb=1, max_file_mb=1)
    asked = [*calls(app), ("POST", "/no/such"), ("POST", "/docs"), ("POST", "/docs/assets/x")]
    for method, path in asked:
        code, read = anyio.run(_endless, app, method, path, told)
        most = 2**20 if path in {"/predict", "/explain", "/predict/file"} else 16_384
        assert read <= most + 2 * 65_536, (method, path)
        if method == "POST" and (method, path) in calls(app):
            assert code == 413, (method, path)
        if told:
            assert read == 0, (method, path)


def test_every_answer_is_dressed(api: TestClient, row: Any) -> None:
    answers = [
        api.get("/"), api.get("/health"), api.get("/metrics"), api.get("/no/such"),
        api.post("/predict", json={"inputs": [row()]}), api.post("/predict", content=b"no"),
        api.get("/openapi.json"), api.get("/docs"), api.get("/docs/assets/swagger-ui.css"),
    ]  # fmt: skip
    for answer in answers:
        told = answer.headers
        assert told["X-Content-Type-Options"] == "nosniff", answer.url
        assert told["X-Frame-Options"] == "DENY" and told["Referrer-Policy"] == "no-referrer"
        assert "default-src 'none'" in told["Content-Security-Policy"]
        assert "frame-ancestors 'none'" in told["Content-Security-Policy"]
        assert told["Cross-Origin-Resource-Policy"] == "same-origin"
        assert "Strict-Transport-Security" not in told
        assert not {name for name in told if name.startswith("access-control")}
        assert "server" not in told
    assert all(answer.headers["Cache-Control"] == "no-store" for answer in answers[:-1])


def test_a_fault_of_ours_is_dressed_too(
    api: TestClient, service: Any, row: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> Any:
        raise ZeroDivisionError

    monkeypatch.setattr(type(service.versions), "get_loaded", broken)
    answer = api.post("/predict", json={"inputs": [row()]})
    assert answer.status_code == 500 and answer.headers["Cache-Control"] == "no-store"
    assert "default-src 'none'" in answer.headers["Content-Security-Policy"]


def test_tls_is_only_promised_where_it_is(make_app: App) -> None:
    with TestClient(make_app(tls_in_front=True)) as client:
        assert client.get("/health").headers["Strict-Transport-Security"] == "max-age=31536000"


def test_the_page_of_docs_may_run_its_own_script_and_no_other(api: TestClient) -> None:
    page = api.get("/docs")
    scripts = re.findall(r"<script>(.*?)</script>", page.text, re.DOTALL)
    assert scripts
    policy = page.headers["Content-Security-Policy"]
    rules = dict(rule.partition(" ")[::2] for rule in policy.split("; "))
    digests = {base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in scripts}
    assert rules["script-src"].split() == ["'self'", *(f"'sha256-{d}'" for d in digests)]
    assert rules["connect-src"] == "'self'"


def test_no_other_site_may_read_unless_it_is_named(make_app: App, row: Any) -> None:
    good, evil = {"Origin": "https://good.example"}, {"Origin": "https://evil.example"}
    asks = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "x-api-key"}
    body = {"inputs": [row()]}
    with TestClient(make_app(api_keys=KEYS)) as client:
        assert client.options("/predict", headers=good | asks).status_code == 405
        answer = client.post("/predict", json=body, headers=good | SEE)
        assert "Access-Control-Allow-Origin" not in answer.headers
    app = make_app(api_keys=KEYS, cors_origins=("https://good.example",))
    with TestClient(app) as client:
        told = client.options("/predict", headers=good | asks)
        assert told.status_code == 200
        assert told.headers["Access-Control-Allow-Origin"] == "https://good.example"
        assert client.options("/predict", headers=evil | asks).status_code == 400
        for headers, code in ((good | SEE, 200), (good, 401)):
            answer = client.post("/predict", json=body, headers=headers)
            assert answer.status_code == code
            assert answer.headers["Access-Control-Allow-Origin"] == "https://good.example"
            assert "Access-Control-Allow-Credentials" not in answer.headers
        answer = client.post("/predict", json=body, headers=evil | SEE)
        assert "Access-Control-Allow-Origin" not in answer.headers
