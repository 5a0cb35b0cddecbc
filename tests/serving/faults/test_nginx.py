"""The recommended configuration in a real nginx: slow clients, large bodies, metrics."""

import re
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.fixtures.networks import free_port
from tests.paths import ROOT

CONFIG = ROOT / "deployment" / "nginx" / "rossmann.conf"
SLOW_CLIENTS = 80
Call = Callable[..., Any]


def adapt_config(text: str, port: int, upstream: str) -> str:
    """The recommended configuration for these ports, without TLS, with short timeouts."""
    plain, tls = (
        text.split("server {\n    listen 80;", maxsplit=1)[0],
        text.split("listen 443 ssl;")[1],
    )
    server = re.sub(r"    ssl_\w+ [^;]+;\n", "", f"server {{\n    listen 127.0.0.1:{port};{tls}")
    assert (plain + server).count("10s;") == 2 and (plain + server).count("127.0.0.1:8000") == 1
    return (plain + server).replace("10s;", "2s;").replace("127.0.0.1:8000", upstream)


@pytest.fixture
def nginx_url(run_service: Call, running_nginx: Call, tmp_path: Path) -> Iterator[str]:
    """URL of nginx before the service."""
    service = run_service(trusted_proxies="127.0.0.1")
    port = free_port()
    upstream = service.url.removeprefix("http://")
    config = adapt_config(CONFIG.read_text("utf-8"), port, upstream)
    with running_nginx(tmp_path / "nginx", port, config):
        yield f"http://127.0.0.1:{port}"


def test_adapted_config_has_no_tls_and_balanced_braces() -> None:
    adapted = adapt_config(CONFIG.read_text("utf-8"), 8080, "127.0.0.1:8001")
    assert "ssl" not in adapted and adapted.count("{") == adapted.count("}")


def test_only_slow_clients_are_disconnected(
    nginx_url: str, row: Call, post_predict: Call, wait_until: Call, under_load: Call
) -> None:
    body = {"inputs": [row()]}
    wait_until("nginx", lambda: httpx.get(f"{nginx_url}/health", trust_env=False).is_success)
    port = int(nginx_url.rpartition(":")[2])
    incomplete_requests = (
        b"POST /predict HTTP/1.1\r\nHost: a\r\nX-A:",
        b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: 500\r\n\r\n{",
    )
    slow = [socket.create_connection(("127.0.0.1", port)) for _ in range(SLOW_CLIENTS)]
    try:
        for index, client in enumerate(slow):
            client.sendall(incomplete_requests[index % 2])
        with under_load(nginx_url, body, clients=2) as load:
            wait_until("other responses", lambda: load.success_count >= 50)
            connected = set(slow)

            def are_disconnected() -> bool:
                for client in list(connected):
                    client.setblocking(False)
                    try:
                        if not client.recv(4096):
                            connected.discard(client)
                    except BlockingIOError:
                        continue
                    except ConnectionResetError:
                        connected.discard(client)
                return not connected

            wait_until("the end of slow connections", are_disconnected)
        assert not load.errors and set(load.codes) == {200}
    finally:
        for client in slow:
            client.close()
    assert post_predict(nginx_url, body).status_code == 200


def test_large_body_is_413_and_local_metrics_are_allowed(nginx_url: str, wait_until: Call) -> None:
    wait_until("nginx", lambda: httpx.get(f"{nginx_url}/health", trust_env=False).is_success)
    port = int(nginx_url.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
        client.sendall(b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: 104857600\r\n\r\n{")
        assert client.recv(4096).startswith(b"HTTP/1.1 413")
    assert httpx.get(f"{nginx_url}/metrics", trust_env=False).status_code == 200
    headers = httpx.get(f"{nginx_url}/", trust_env=False).headers
    assert headers["server"] == "nginx" and headers["x-frame-options"] == "DENY"
