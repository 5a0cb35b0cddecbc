"""Tokens of a provider: a real one, of this test's own, over HTTP."""

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

from rossmann.serving.access import oidc_tokens as security_tokens

App = Callable[..., FastAPI]


class Provider:
    """Signs tokens, and tells its keys while it is not ``away``; ``asked`` counts."""

    def __init__(self) -> None:
        self.keys: dict[str, Any] = {}
        self.away = False
        self.hangs = threading.Event()
        self.asked = 0
        self.issuer = ""
        self.told_issuer: str | None = None
        self.add("first", rsa.generate_private_key(65537, 2048))

    def add(self, kid: str, key: Any) -> None:
        self.keys[kid] = key

    def document(self, path: str) -> Any:
        self.asked += 1
        if path.endswith("/openid-configuration"):
            told = self.told_issuer or self.issuer
            return {"issuer": told, "jwks_uri": f"{self.issuer}/keys"}
        kinds = {rsa.RSAPrivateKey: jwt.algorithms.RSAAlgorithm, ec.EllipticCurvePrivateKey: None}
        listed = []
        for kid, key in self.keys.items():
            algorithm = next(a for kind, a in kinds.items() if isinstance(key, kind))
            algorithm = algorithm or jwt.algorithms.ECAlgorithm
            listed.append({**algorithm.to_jwk(key.public_key(), as_dict=True), "kid": kid})
        # What we must not take for a key of signatures: a shared secret, and one to encrypt with.
        secret = base64.urlsafe_b64encode(b"x" * 32).decode().rstrip("=")
        listed.append({"kty": "oct", "kid": "shared", "k": secret})
        listed.append({**listed[0], "kid": "sealing", "use": "enc"})
        return {"keys": listed}

    def token(self, kid: str = "first", algorithm: str = "RS256", **claims: Any) -> str:
        now = int(time.time())
        told = {
            "iss": self.issuer, "aud": "rossmann", "sub": "alice", "iat": now,
            "exp": now + 600, "scope": "openid predict",
        } | claims  # fmt: skip
        told = {name: value for name, value in told.items() if value is not ...}
        key = self.keys.get(kid, self.keys["first"])
        return jwt.encode(told, key, algorithm, headers={"kid": kid})


@pytest.fixture(scope="module")
def signing() -> Provider:
    """Keys take a while to make: one provider for all tests, set back by ``provider``."""
    return Provider()


@pytest.fixture
def provider(signing: Provider, monkeypatch: pytest.MonkeyPatch) -> Iterator[Provider]:
    class Answers(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            while signing.hangs.is_set():
                time.sleep(0.01)
            body = json.dumps(signing.document(self.path)).encode()
            self.send_response(500 if signing.away else 200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    signing.keys = {"first": signing.keys["first"]}
    signing.away, signing.asked, signing.told_issuer = False, 0, None
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        signing.issuer = f"http://127.0.0.1:{server.server_address[1]}/realm"
        yield signing
        signing.hangs.clear()
        server.shutdown()
        thread.join()


@pytest.fixture
def client(make_app: App, provider: Provider) -> Iterator[TestClient]:
    app = make_app(oidc_issuer=provider.issuer, oidc_audience="rossmann")
    with TestClient(app, base_url="http://127.0.0.1") as client:
        yield client


def ask(client: TestClient, token: str, path: str = "/model/info") -> tuple[int, str]:
    answer = client.get(path, headers={"Authorization": f"Bearer {token}"})
    fault = "" if answer.status_code == 200 else answer.json()["detail"][0]["msg"]
    return answer.status_code, fault


def test_a_good_token_is_let_in_with_its_right(client: TestClient, provider: Provider) -> None:
    assert client.get("/model/info").status_code == 401
    assert ask(client, provider.token())[0] == 200
    assert ask(client, provider.token(), "/models")[0] == 403
    assert ask(client, provider.token(scope="rossmann:operate"), "/models")[0] == 200
    assert ask(client, provider.token(scope=["predict"]))[0] == 200
    for scope in ("openid", "predictor", "", ["xpredict", 7], {"predict": 1}, ...):
        assert ask(client, provider.token(scope=scope))[0] == 403
    assert provider.asked == 2  # the discovery document and the keys, once
    # A token is a bearer's: as a key it is none.
    answer = client.get("/model/info", headers={"X-API-Key": provider.token()})
    assert answer.status_code == 401


def test_a_token_that_is_not_good_is_not_let_in(client: TestClient, provider: Provider) -> None:
    now = int(time.time())
    for claims in (
        {"exp": now - 60}, {"exp": ...}, {"nbf": now + 600}, {"aud": "another"}, {"aud": ...},
        {"iss": "http://127.0.0.1/other"}, {"iss": ...}, {"sub": ...}, {"sub": 7},
    ):  # fmt: skip
        code, told = ask(client, provider.token(**claims))
        assert code == 401 and "not good" in told, claims
    good = provider.token()
    head, body, signature = good.split(".")
    claims = json.loads(base64.urlsafe_b64decode(body + "=="))
    forged = base64.urlsafe_b64encode(json.dumps(claims | {"scope": "operate"}).encode())
    unsigned = jwt.encode(claims | {"scope": "operate"}, None, "none", headers={"kid": "first"})
    shared = jwt.encode(claims, b"x" * 32, "HS256", headers={"kid": "shared"})
    public = provider.keys["first"].public_key()
    pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    # The public key as if it were a secret: libraries refuse to sign so, attackers do not.
    confused = _hmac_signed({**claims, "scope": "operate"}, pem)
    for token in (
        f"{head}.{forged.decode().rstrip('=')}.{signature}", unsigned, shared, confused,
        provider.token("sealing"), f"{head}.{body}.", "a.b.c", "..", good[:-9], good + "A" * 9_000,
    ):  # fmt: skip
        assert ask(client, token)[0] == 401, token
    assert ask(client, good)[0] == 200


def _hmac_signed(claims: dict[str, Any], secret: bytes) -> str:
    import hashlib
    import hmac

    def packed(value: bytes) -> str:
        return base64.urlsafe_b64encode(value).decode().rstrip("=")

    head = json.dumps({"alg": "HS256", "kid": "first", "typ": "JWT"}).encode()
    text = f"{packed(head)}.{packed(json.dumps(claims).encode())}"
    return f"{text}.{packed(hmac.new(secret, text.encode(), hashlib.sha256).digest())}"


def test_a_token_is_refused_from_the_moment_that_it_ends(
    client: TestClient, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = provider.token()
    assert ask(client, token)[0] == 200
    later = time.time() + 631  # with the leeway
    monkeypatch.setattr(security_tokens.time, "time", lambda: later)
    monkeypatch.setattr(jwt.api_jwt, "datetime", _At(later))
    assert ask(client, token)[0] == 401


class _At:
    """Stands for ``datetime`` where the library asks for the time."""

    def __init__(self, moment: float) -> None:
        self._moment = moment

    def now(self, tz: Any = None) -> Any:
        from datetime import datetime

        return datetime.fromtimestamp(self._moment, tz)


def test_other_kinds_of_keys_and_claims(make_app: App, provider: Provider) -> None:
    provider.add("curve", ec.generate_private_key(ec.SECP256R1()))
    claim = {"realm_access": {"roles": ["operate"]}}
    app = make_app(
        oidc_issuer=provider.issuer,
        oidc_audience="rossmann",
        oidc_rights_claim="realm_access.roles",
    )
    with TestClient(app) as client:
        assert ask(client, provider.token("curve", "ES256", **claim), "/models")[0] == 200
        assert ask(client, provider.token("curve", "ES256"), "/models")[0] == 403


def test_a_new_key_is_fetched_and_a_flood_of_unknown_ones_is_not(
    client: TestClient, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ask(client, provider.token())[0] == 200
    provider.add("second", rsa.generate_private_key(65537, 2048))
    before = provider.asked
    for number in range(20):
        code, told = ask(client, provider.token(f"unknown-{number}"))
        assert code == 401 and "does not have" in told
    assert provider.asked == before  # it was asked a moment ago
    monkeypatch.setattr(security_tokens, "_COOLDOWN", 0.0)
    assert ask(client, provider.token("second"))[0] == 200


def test_while_the_provider_is_away_known_keys_go_on_working(
    client: TestClient, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(security_tokens, "_COOLDOWN", 0.0)
    assert ask(client, provider.token())[0] == 200
    provider.away = True
    assert ask(client, provider.token(sub="bob"))[0] == 200
    code, told = ask(client, provider.token("second"))
    assert code == 503 and "does not answer" in told
    monkeypatch.setattr(security_tokens, "_MAX_STALENESS", 0.0)  # a day later
    assert ask(client, provider.token())[0] == 503
    provider.away = False
    monkeypatch.setattr(security_tokens, "_MAX_STALENESS", 3600.0)
    assert ask(client, provider.token())[0] == 200


def test_a_provider_that_hangs_keeps_nobody_waiting(
    client: TestClient, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(security_tokens, "_FETCH_TIMEOUT", 0.2)
    provider.hangs.set()
    assert ask(client, provider.token())[0] == 503
    assert client.get("/health").status_code == 200
    provider.hangs.clear()


def test_a_key_that_the_provider_drops_is_dropped(
    client: TestClient, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider.add("second", rsa.generate_private_key(65537, 2048))
    token = provider.token("second")
    assert ask(client, token)[0] == 200
    del provider.keys["second"]
    monkeypatch.setattr(security_tokens, "_COOLDOWN", 0.0)
    monkeypatch.setattr(security_tokens, "_REFRESH_AFTER", 0.0)
    deadline = time.monotonic() + 30  # it is fetched behind the answers
    while ask(client, token)[0] == 200:
        assert time.monotonic() < deadline
    assert ask(client, token)[0] == 401
    assert ask(client, provider.token())[0] == 200


def test_a_document_of_another_issuer_is_not_believed(
    client: TestClient, provider: Provider
) -> None:
    provider.told_issuer = "https://evil.example"
    assert ask(client, provider.token())[0] == 503


def test_keys_and_tokens_side_by_side(make_app: App, provider: Provider, registry: Any) -> None:
    from rossmann.serving.access.api_keys import Permission, generate_key

    key, entry = generate_key(Permission.PREDICT, "shop")
    app = make_app(oidc_issuer=provider.issuer, oidc_audience="rossmann", api_keys=entry.file_line)
    with TestClient(app) as client:
        assert ask(client, key)[0] == 200
        assert ask(client, provider.token())[0] == 200
        token = provider.token(scope="operate", sub="bo\nb")
        headers = {"Authorization": f"Bearer {token}"}
        assert client.post("/models/2/promote", headers=headers).status_code == 200
        assert registry.shelf[2].tags["who"] == "token bo?b"
