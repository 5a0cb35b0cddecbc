"""Proxy variables, with a real forward proxy: which requests it gets, and malformed variables."""

import http.server
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import httpx
import pytest
import requests

from rossmann.addresses import find_proxy, open_transport
from rossmann.errors import ServiceError, SettingsError
from rossmann.models.registry.registry import Registry
from rossmann.serving.access.oidc_tokens import fetch_jwks
from rossmann.serving.client.client import Client
from rossmann.serving.server import check_tracing
from tests.fixtures.networks import PROXY_VARIABLES


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in PROXY_VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def hello() -> Iterator[int]:
    """Port of a server that answers every GET."""

    class Hello(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"OK")

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hello) as server:
        threading.Thread(target=server.serve_forever).start()
        yield server.server_address[1]
        server.shutdown()


def get(url: str) -> str:
    with httpx.Client(transport=open_transport(url)) as client:
        return client.get(url).text


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0.0.0.0"])
def test_loopback_goes_by_no_proxy(forward_proxy: Any, hello: int, host: str) -> None:
    assert get(f"http://{host}:{hello}/") == "OK"
    assert forward_proxy.requests == []


def test_provider_of_tokens_on_this_machine_is_asked_directly(
    forward_proxy: Any, hello: int
) -> None:
    with pytest.raises(ValueError):  # it answers, but not as a provider
        fetch_jwks(f"http://127.0.0.1:{hello}")
    assert forward_proxy.requests == []


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_collector_of_traces_on_this_machine_is_called_directly(
    host: str, forward_proxy: Any, hello: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://{host}:{hello}")
    for name in ("NO_PROXY", "no_proxy"):  # both are set below, and restored afterwards
        monkeypatch.setenv(name, "other.example")
    assert requests.get(f"http://{host}:{hello}/", timeout=10).text == "OK"
    assert len(forward_proxy.requests) == 1
    check_tracing()
    assert requests.get(f"http://{host}:{hello}/", timeout=10).text == "OK"
    assert len(forward_proxy.requests) == 1


def test_other_hosts_go_by_the_proxy(
    running_proxy: Callable[..., AbstractContextManager[Any]],
    hello: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with running_proxy(f"127.0.0.1:{hello}") as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        assert get("http://registry.example/a") == "OK"
        assert proxy.requests == ["GET http://registry.example/a HTTP/1.1"]
        with Registry("http://registry.example:5000") as registry:
            registry.ping()
        with Client("http://api.example:8000") as client, pytest.raises(ServiceError):
            client.health()
        assert len(proxy.requests) == 3


@pytest.mark.parametrize(
    ("no_proxy", "url", "direct"),
    [
        ("", "http://a.shop.example", False),
        ("shop.example", "http://a.shop.example", True),
        (".shop.example", "http://a.shop.example", True),
        ("op.example", "http://shop.example", False),
        ("shop.example:81", "http://shop.example:80", False),
        ("shop.example:81", "http://shop.example:81", True),
        ("other, SHOP.example ", "http://shop.example", True),
        ("*", "http://shop.example", True),
        ("192.0.2.0/24", "http://192.0.2.9", True),
        ("192.0.2.0/24", "http://192.0.3.9", False),
        ("2001:db8::/32", "http://[2001:db8::9]", True),
        ("fe80::/10", "http://shop.example", False),
        ("2001:db8::9", "http://[2001:db8::9]:8000", True),
    ],
)
def test_no_proxy(no_proxy: str, url: str, direct: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "http://proxy:3128")
    monkeypatch.setenv("NO_PROXY", no_proxy)
    assert (find_proxy(httpx.URL(url)) is None) is direct


MALFORMED = [
    "socks://me:pw@proxy:1080",
    "socks5://proxy:1080",
    "http://proxy:abc",
    "http://",
    "proxy:x",
]


@pytest.mark.parametrize("value", MALFORMED)
@pytest.mark.parametrize("variable", ["ALL_PROXY", "all_proxy", "HTTP_PROXY"])
def test_malformed_variable_is_named(
    variable: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    for open_client in (Registry, Client):
        with pytest.raises(SettingsError) as caught:
            open_client("http://registry.example:5000")
        message = str(caught.value)
        assert message.startswith(f"{variable}=")
        assert "NO_PROXY" in message and "\n" not in message and "pw@" not in message


@pytest.mark.parametrize("value", MALFORMED)
def test_malformed_variable_does_not_matter_on_loopback(
    value: str, hello: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in PROXY_VARIABLES[:6]:
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("NO_PROXY", "fe80::/10,[,:")
    with Registry(f"http://127.0.0.1:{hello}") as registry:
        registry.ping()


def test_scheme_goes_before_all_and_small_letters_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "http://all:1")
    assert str(find_proxy(httpx.URL("https://a.example")).url) == "http://all:1"  # type: ignore[union-attr]
    monkeypatch.setenv("HTTPS_PROXY", "secure:2")
    assert str(find_proxy(httpx.URL("https://a.example")).url) == "http://secure:2"  # type: ignore[union-attr]
    monkeypatch.setenv("https_proxy", "http://small:3")
    assert str(find_proxy(httpx.URL("https://a.example")).url) == "http://small:3"  # type: ignore[union-attr]


def test_private_authority_of_the_environment_holds_on_loopback(
    private_authority: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(private_authority.file))
    transport = open_transport("https://127.0.0.1:1")
    pool: Any = transport._pool
    assert len(pool._ssl_context.get_ca_certs()) == 1


@pytest.fixture
def unreadable_authorities(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """``SSL_CERT_FILE`` names a file that is not there."""
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):  # they go first for the registry
        monkeypatch.delenv(name, raising=False)
    path = str(tmp_path / "authorities.pem")
    monkeypatch.setenv("SSL_CERT_FILE", path)
    return path


def test_authorities_do_not_matter_for_plain_http(unreadable_authorities: str, hello: int) -> None:
    assert get(f"http://127.0.0.1:{hello}/") == "OK"
    with Registry(f"http://127.0.0.1:{hello}") as registry:
        registry.ping()


@pytest.mark.parametrize("open_client", [Client, Registry, fetch_jwks])
def test_unreadable_authorities_are_named(
    open_client: Callable[[str], Any], unreadable_authorities: str
) -> None:
    with pytest.raises(SettingsError, match="SSL_CERT_FILE names") as caught:
        open_client("https://shop.example")
    assert unreadable_authorities in str(caught.value)
    Path(unreadable_authorities).write_text("no certificate")
    with pytest.raises(SettingsError, match=r"SSL_CERT_FILE names .* PEM"):
        open_client("https://shop.example")
