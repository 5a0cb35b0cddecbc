"""What pages of other sites can send to an open service: foreign names, origins and body types."""

import json
import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any
from urllib.parse import urlsplit

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from rossmann.addresses import host_name
from rossmann.errors import SettingsError
from rossmann.serving.access.api_keys import Permission, generate_key
from rossmann.settings import load_settings

App = Callable[..., FastAPI]
PATHS = ("/", "/health", "/metrics", "/docs", "/openapi.json", "/docs/assets/swagger-ui.css",
         "/model/info", "/models", "/stores", "/stores/1", "/no/such")  # fmt: skip
FOREIGN_HOSTS = (
    "evil.example", "evil.example:8000", "127.0.0.1.evil.example", "localhost.evil.example",
    "localhost@evil.example", "localhost:80@evil.example", "2130706433", "127.0.0.1, evil.example",
    "evil.example.", "[::2]", "[::ffff:192.0.2.1]", "192.0.2.1", "0.0.0.0", "sub.localhost",
)  # fmt: skip
OWN_HOSTS = (
    "127.0.0.1", "127.0.0.1:8000", "localhost", "LocalHost:1", "localhost.", "[::1]:8000",
    "127.8.8.8", "[::ffff:127.0.0.1]:80", "forecasts.example", "Shop.Example:8443", "api.example",
)  # fmt: skip


@pytest.fixture
def address(
    make_app: App, live: Callable[..., AbstractContextManager[str]]
) -> Iterator[tuple[str, int]]:
    """Address of a running open service with names of its own."""
    app = make_app(
        allowed_hosts=("forecasts.example",),
        api_public_url="https://shop.example/forecasts",
        api_url="http://api.example:8000",
        cors_origins=("https://planning.example",),
    )
    with live(app) as url:
        yield "127.0.0.1", urlsplit(url).port or 0


def send(
    address: tuple[str, int], method: str, path: str, headers: dict[str, str], body: bytes = b""
) -> tuple[int, bytes]:
    """Status code and body of a call with exactly these headers, as no client would send them."""
    lines = [f"{method} {path} HTTP/1.1", *(f"{k}: {v}" for k, v in headers.items())]
    head = "\r\n".join([*lines, f"Content-Length: {len(body)}", "Connection: close", "", ""])
    with socket.create_connection(address, timeout=30) as connection:
        connection.sendall(head.encode("latin-1") + body)
        response = b""
        while part := connection.recv(65_536):
            response += part
    status, _, rest = response.partition(b"\r\n")
    return int(status.split()[1]), rest.partition(b"\r\n\r\n")[2]


def test_foreign_names_are_refused_on_every_path(address: tuple[str, int]) -> None:
    for path in PATHS:
        code, body = send(address, "GET", path, {"Host": "evil.example"})
        detail = json.loads(body)["detail"][0]
        assert code == 403 and detail["type"] == "unknown_host", path
        assert "ROSSMANN_ALLOWED_HOSTS" in detail["msg"] and detail["loc"] == ["header", "Host"]
    for host in FOREIGN_HOSTS:
        assert send(address, "GET", "/health", {"Host": host})[0] == 403, host
        # Two headers: a proxy may have looked at the other one.
        both = {"Host": "127.0.0.1", "host": host}
        assert send(address, "GET", "/health", both)[0] == 403, host
    for host in OWN_HOSTS:
        assert send(address, "GET", "/health", {"Host": host})[0] == 200, host


def test_names_do_not_matter_where_a_key_is_needed(make_app: App) -> None:
    key, record = generate_key(Permission.PREDICT, "shop")
    with TestClient(make_app(api_keys=record.file_line), base_url="http://evil.example") as client:
        assert client.get("/model/info").status_code == 401
        assert client.get("/model/info", headers={"X-API-Key": key}).status_code == 200


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://127.0.0.1:1"}, 403),  # another service of this machine
        ({"Origin": "http://localhost"}, 403),  # the page of a service on port 80
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Origin": "https://planning.example", "origin": "https://evil.example"}, 403),
        ({"Origin": "https://planning.example", "Sec-Fetch-Site": "cross-site"}, 200),
        ({"Origin": "http://127.0.0.1:PORT", "Sec-Fetch-Site": "same-origin"}, 200),
        ({"Sec-Fetch-Site": "none"}, 200),
        ({}, 200),
    ],
)
def test_calls_for_pages_of_other_sites_are_refused(
    address: tuple[str, int], row: Any, headers: dict[str, str], code: int
) -> None:
    port = str(address[1])
    sent = {name: value.replace("PORT", port) for name, value in headers.items()}
    sent["Host"] = f"127.0.0.1:{port}"
    body = json.dumps({"inputs": [row()]}).encode()
    table = ",".join(row()).encode() + b"\n" + ",".join(map(str, row().values())).encode() + b"\n"
    for path, content in (("/predict", body), ("/predict/file", table), ("/models/2/promote", b"")):
        types: tuple[dict[str, str], ...] = ({},)
        if code == 403:
            types = (*types, {"Content-Type": "text/plain"}, {"Content-Type": "application/json"})
        for more in types:
            answered, answer = send(address, "POST", path, {**sent, **more}, content)
            assert answered == code, (path, more, answer)
            assert code == 200 or json.loads(answer)["detail"][0]["type"] == "cross_site"
    assert send(address, "GET", "/health", sent)[0] == 200


SAFELISTED = ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x",
              "text/plain; application/json", "text/plain,application/json", "x+json")  # fmt: skip


def test_bodies_of_an_open_service_are_json(make_app: App, api: TestClient, row: Any) -> None:
    """A browser needs no preflight for the first three types."""
    content = json.dumps({"inputs": [row()]})
    for content_type in SAFELISTED:
        headers = {"Content-Type": content_type}
        for path in ("/predict", "/models/2/promote", "/model/load"):
            response = api.post(path, content=content, headers=headers)
            assert response.status_code == 415, (path, content_type)
            detail = response.json()["detail"][0]
            assert detail["type"] == "media_type" and "curl: -H 'Content-Type" in detail["msg"]
    for content_type in ("application/json", "application/JSON; charset=utf-8", "text/json",
                         "application/vnd.shop+json", ""):  # fmt: skip
        response = api.post("/predict", content=content, headers={"Content-Type": content_type})
        assert response.status_code == 200, content_type
    assert api.post("/predict", content=content).status_code == 200  # no type: no browser
    # A page cannot send a key, so clients with one go on as they did.
    key, record = generate_key(Permission.PREDICT, "shop")
    with TestClient(make_app(api_keys=record.file_line)) as client:
        headers = {"X-API-Key": key, "Content-Type": "application/x-www-form-urlencoded"}
        assert client.post("/predict", content=content, headers=headers).status_code == 200


def test_hosts_in_the_settings_are_names() -> None:
    settings = load_settings(allowed_hosts="Forecasts.Example, [2001:DB8::1]")
    assert settings.allowed_hosts == ("forecasts.example", "2001:db8::1")
    assert {"forecasts.example", "2001:db8::1", "127.0.0.1", "localhost"} <= settings.known_hosts
    for wrong in ("https://forecasts.example", "forecasts.example:8000", "*", "a/b"):
        with pytest.raises(SettingsError, match="ROSSMANN_ALLOWED_HOSTS"):
            load_settings(allowed_hosts=wrong)
    everywhere = load_settings(host="0.0.0.0").known_hosts
    own = {socket.gethostbyname(socket.gethostname())}
    assert own <= everywhere | {name for name in own if name.startswith("127.")}
    assert host_name("a b") is None and host_name("[1.2.3.4") is None
