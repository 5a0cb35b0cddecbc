"""Tokens of an OpenID Connect provider, against a local provider over HTTP."""

import base64
import http.server
import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from fastapi import FastAPI
from fastapi.testclient import TestClient

from rossmann.serving.access import oidc_tokens

App = Callable[..., FastAPI]


class Provider:
    """Signs tokens and publishes its keys unless ``unavailable``; counts ``requests``."""

    def __init__(self) -> None:
        self.keys: dict[str, Any] = {}
        self.unavailable = False
        self.hanging = threading.Event()
        self.requests = 0
        self.issuer = ""
        self.document_issuer: str | None = None
        self.add("first", rsa.generate_private_key(65537, 2048))

    def add(self, kid: str, key: Any) -> None:
        self.keys[kid] = key

    def document(self, path: str) -> Any:
        self.requests += 1
        if path.endswith("/openid-configuration"):
            issuer = self.document_issuer or self.issuer
            return {"issuer": issuer, "jwks_uri": f"{self.issuer}/keys"}
        algorithms = {
            rsa.RSAPrivateKey: jwt.algorithms.RSAAlgorithm,
            ec.EllipticCurvePrivateKey: None,
        }
        jwks = []
        for kid, key in self.keys.items():
            algorithm = next(a for key_class, a in algorithms.items() if isinstance(key, key_class))
            algorithm = algorithm or jwt.algorithms.ECAlgorithm
            jwks.append({**algorithm.to_jwk(key.public_key(), as_dict=True), "kid": kid})
        # Keys that must not verify signatures: a shared secret, and an encryption key.
        secret = base64.urlsafe_b64encode(b"x" * 32).decode().rstrip("=")
        jwks.append({"kty": "oct", "kid": "shared", "k": secret})
        jwks.append({**jwks[0], "kid": "sealing", "use": "enc"})
        return {"keys": jwks}

    def token(self, kid: str = "first", algorithm: str = "RS256", **claims: Any) -> str:
        now = int(time.time())
        payload = {
            "iss": self.issuer, "aud": "rossmann", "sub": "alice", "iat": now,
            "exp": now + 600, "scope": "openid predict",
        } | claims  # fmt: skip
        payload = {name: value for name, value in payload.items() if value is not ...}
        key = self.keys.get(kid, self.keys["first"])
        return jwt.encode(payload, key, algorithm, headers={"kid": kid})


@pytest.fixture(scope="module")
def shared_provider() -> Provider:
    """One provider for all tests, because keys are slow to generate; ``provider`` resets it."""
    return Provider()


@pytest.fixture
def provider(shared_provider: Provider, monkeypatch: pytest.MonkeyPatch) -> Iterator[Provider]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            while shared_provider.hanging.is_set():
                time.sleep(0.01)
            body = json.dumps(shared_provider.document(self.path)).encode()
            self.send_response(500 if shared_provider.unavailable else 200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    shared_provider.keys = {"first": shared_provider.keys["first"]}
    shared_provider.unavailable, shared_provider.requests, shared_provider.document_issuer = (
        False,
        0,
        None,
    )
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        shared_provider.issuer = f"http://127.0.0.1:{server.server_address[1]}/realm"
        yield shared_provider
        shared_provider.hanging.clear()
        server.shutdown()
        thread.join()


@pytest.fixture
def client(make_app: App, provider: Provider) -> Iterator[TestClient]:
    app = make_app(oidc_issuer=provider.issuer, oidc_audience="rossmann")
    with TestClient(app, base_url="http://127.0.0.1") as client:
        yield client


def call(client: TestClient, token: str, path: str = "/model/info") -> tuple[int, str]:
    """Status code and error message of a request with ``token``."""
    response = client.get(path, headers={"Authorization": f"Bearer {token}"})
    message = "" if response.status_code == 200 else response.json()["detail"][0]["msg"]
    return response.status_code, message


def test_valid_token_is_accepted_with_the_permission_of_its_scope(
    client: TestClient, provider: Provider
) -> None:
    assert client.get("/model/info").status_code == 401
    assert call(client, provider.token())[0] == 200
    assert call(client, provider.token(), "/models")[0] == 403
    assert call(client, provider.token(scope="rossmann:operate"), "/models")[0] == 200
    assert call(client, provider.token(scope=["predict"]))[0] == 200
    for scope in ("openid", "predictor", "", ["xpredict", 7], {"predict": 1}, ...):
        assert call(client, provider.token(scope=scope))[0] == 403
    assert provider.requests == 2  # the discovery document and the keys, once
    # A token is not accepted as an API key.
    response = client.get("/model/info", headers={"X-API-Key": provider.token()})
    assert response.status_code == 401


def test_invalid_or_forged_token_is_rejected_with_401(
    client: TestClient, provider: Provider
) -> None:
    now = int(time.time())
    for claims in (
        {"exp": now - 60}, {"exp": ...}, {"nbf": now + 600}, {"aud": "another"}, {"aud": ...},
        {"iss": "http://127.0.0.1/other"}, {"iss": ...}, {"sub": ...}, {"sub": 7},
        # Beyond what a float, a date or the reader of JSON can hold.
        {"exp": 10**400}, {"exp": float("inf")}, {"exp": float("nan")}, {"nbf": float("inf")},
        {"iat": float("inf")}, {"iat": 10**400}, {"exp": [1]}, {"exp": {"a": 1}},
    ):  # fmt: skip
        code, message = call(client, provider.token(**claims))
        assert code == 401 and "not good" in message, claims
    deep = base64.urlsafe_b64encode(b'{"alg":' + b"[" * 4_000).decode().rstrip("=")
    assert call(client, f"{deep}.e30.e30") == (401, "this is no token")
    good = provider.token()
    header, payload, signature = good.split(".")
    claims = json.loads(base64.urlsafe_b64decode(payload + "=="))
    forged = base64.urlsafe_b64encode(json.dumps(claims | {"scope": "operate"}).encode())
    unsigned = jwt.encode(claims | {"scope": "operate"}, None, "none", headers={"kid": "first"})
    shared = jwt.encode(claims, b"x" * 32, "HS256", headers={"kid": "shared"})
    public = provider.keys["first"].public_key()
    pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    # Algorithm confusion: the public key as an HMAC secret.
    confused = _hmac_signed({**claims, "scope": "operate"}, pem)
    for token in (
        f"{header}.{forged.decode().rstrip('=')}.{signature}", unsigned, shared, confused,
        provider.token("sealing"), f"{header}.{payload}.", "a.b.c", "..", good[:-9],
        good + "A" * 9_000,
    ):  # fmt: skip
        assert call(client, token)[0] == 401, token
    assert call(client, good)[0] == 200


def _hmac_signed(claims: dict[str, Any], secret: bytes) -> str:
    import hashlib
    import hmac

    def encode(value: bytes) -> str:
        return base64.urlsafe_b64encode(value).decode().rstrip("=")

    header = json.dumps({"alg": "HS256", "kid": "first", "typ": "JWT"}).encode()
    text = f"{encode(header)}.{encode(json.dumps(claims).encode())}"
    return f"{text}.{encode(hmac.new(secret, text.encode(), hashlib.sha256).digest())}"


def test_expired_token_is_rejected_although_it_was_verified_before(
    client: TestClient, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = provider.token()
    assert call(client, token)[0] == 200
    later = time.time() + 631  # with the leeway
    monkeypatch.setattr(oidc_tokens.time, "time", lambda: later)
    monkeypatch.setattr(jwt.api_jwt, "datetime", _FixedClock(later))
    assert call(client, token)[0] == 401


class _FixedClock:
    """Replaces ``datetime`` where the library reads the time."""

    def __init__(self, moment: float) -> None:
        self._moment = moment

    def now(self, tz: Any = None) -> Any:
        from datetime import datetime

        return datetime.fromtimestamp(self._moment, tz)


def test_elliptic_curve_key_and_nested_permission_claim(make_app: App, provider: Provider) -> None:
    provider.add("curve", ec.generate_private_key(ec.SECP256R1()))
    claim = {"realm_access": {"roles": ["operate"]}}
    app = make_app(
        oidc_issuer=provider.issuer,
        oidc_audience="rossmann",
        oidc_rights_claim="realm_access.roles",
    )
    with TestClient(app) as client:
        assert call(client, provider.token("curve", "ES256", **claim), "/models")[0] == 200
        assert call(client, provider.token("curve", "ES256"), "/models")[0] == 403


def test_new_key_is_fetched_and_unknown_key_ids_respect_the_cooldown(
    client: TestClient, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert call(client, provider.token())[0] == 200
    provider.add("second", rsa.generate_private_key(65537, 2048))
    before = provider.requests
    for number in range(20):
        code, message = call(client, provider.token(f"unknown-{number}"))
        assert code == 401 and "does not have" in message
    assert provider.requests == before  # within the cooldown
    monkeypatch.setattr(oidc_tokens, "_COOLDOWN", 0.0)
    assert call(client, provider.token("second"))[0] == 200


def test_cached_keys_work_while_the_provider_is_unavailable(
    client: TestClient, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(oidc_tokens, "_COOLDOWN", 0.0)
    assert call(client, provider.token())[0] == 200
    provider.unavailable = True
    assert call(client, provider.token(sub="bob"))[0] == 200
    code, message = call(client, provider.token("second"))
    assert code == 503 and "does not answer" in message
    monkeypatch.setattr(oidc_tokens, "_MAX_STALENESS", 0.0)  # the cached keys are too old
    assert call(client, provider.token())[0] == 503
    provider.unavailable = False
    monkeypatch.setattr(oidc_tokens, "_MAX_STALENESS", 3600.0)
    assert call(client, provider.token())[0] == 200


def test_tokens_that_cannot_be_judged_are_counted(make_app: App, provider: Provider) -> None:
    provider.unavailable = True
    app = make_app(oidc_issuer=provider.issuer, oidc_audience="rossmann", rate_limit="3/day")
    with TestClient(app) as client:
        codes = [call(client, provider.token(f"unknown {n}"))[0] for n in range(5)]
        assert codes == [503, 503, 503, 429, 429]


def test_hanging_provider_times_out_and_blocks_no_other_request(
    client: TestClient, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(oidc_tokens, "_FETCH_TIMEOUT", 0.2)
    provider.hanging.set()
    assert call(client, provider.token())[0] == 503
    assert client.get("/health").status_code == 200
    provider.hanging.clear()


def test_key_removed_by_the_provider_is_rejected_after_refresh(
    client: TestClient, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider.add("second", rsa.generate_private_key(65537, 2048))
    token = provider.token("second")
    assert call(client, token)[0] == 200
    del provider.keys["second"]
    monkeypatch.setattr(oidc_tokens, "_COOLDOWN", 0.0)
    monkeypatch.setattr(oidc_tokens, "_REFRESH_AFTER", 0.0)
    deadline = time.monotonic() + 30  # refreshed in the background
    while call(client, token)[0] == 200:
        assert time.monotonic() < deadline
    assert call(client, token)[0] == 401
    assert call(client, provider.token())[0] == 200


def test_discovery_document_of_another_issuer_is_rejected_with_503(
    client: TestClient, provider: Provider
) -> None:
    provider.document_issuer = "https://evil.example"
    assert call(client, provider.token())[0] == 503


def test_api_keys_and_tokens_work_in_one_service(
    make_app: App, provider: Provider, registry: Any
) -> None:
    from rossmann.serving.access.api_keys import Permission, generate_key

    key, entry = generate_key(Permission.PREDICT, "shop")
    app = make_app(oidc_issuer=provider.issuer, oidc_audience="rossmann", api_keys=entry.file_line)
    with TestClient(app) as client:
        assert call(client, key)[0] == 200
        assert call(client, provider.token())[0] == 200
        token = provider.token(scope="operate", sub="bo\nb")
        headers = {"Authorization": f"Bearer {token}"}
        assert client.post("/models/2/promote", headers=headers).status_code == 200
        assert registry.by_version[2].tags["who"] == "token bo?b"
