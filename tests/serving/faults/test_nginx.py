"""The recommended front door, the real nginx, holds off slow clients and large bodies."""

import re
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.paths import ROOT

CONFIG = ROOT / "deployment" / "nginx" / "rossmann.conf"
NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
SLOW_CLIENTS = 80
Call = Callable[..., Any]

pytestmark = pytest.mark.skipif(NGINX is None, reason="nginx is not installed (Debian has it)")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def as_here(text: str, port: int, behind: str) -> str:
    """The recommended configuration on this machine's ports, without TLS, with short patience."""
    plain, tls = (
        text.split("server {\n    listen 80;", maxsplit=1)[0],
        text.split("listen 443 ssl;")[1],
    )
    served = re.sub(r"    ssl_\w+ [^;]+;\n", "", f"server {{\n    listen 127.0.0.1:{port};{tls}")
    assert (plain + served).count("10s;") == 2 and (plain + served).count("127.0.0.1:8000") == 1
    return (plain + served).replace("10s;", "2s;").replace("127.0.0.1:8000", behind)


@pytest.fixture
def front(run_door: Call, tmp_path: Path) -> Iterator[str]:
    """Address of nginx before the service."""
    door = run_door(trusted_proxies="127.0.0.1")
    port = free_port()
    config = tmp_path / "nginx.conf"
    served = as_here(CONFIG.read_text("utf-8"), port, door.url.removeprefix("http://"))
    folders = "".join(
        f"{kind}_temp_path {tmp_path}/{kind};\n"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    config.write_text(
        f"daemon off;\npid {tmp_path}/nginx.pid;\nerror_log {tmp_path}/error.log;\nuser root;\n"
        f"events {{ worker_connections 1024; }}\nhttp {{\naccess_log off;\n{folders}{served}}}\n",
        "utf-8",
    )
    command = [str(NGINX), "-e", str(tmp_path / "start.log"), "-c", str(config)]
    subprocess.run([*command, "-t"], check=True, capture_output=True)
    process = subprocess.Popen(command)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(30)


def test_the_configuration_is_sound() -> None:
    here = as_here(CONFIG.read_text("utf-8"), 8080, "127.0.0.1:8001")
    assert "ssl" not in here and here.count("{") == here.count("}")


def test_slow_clients_are_cut_off_and_nobody_else(
    front: str, row: Call, ask: Call, until: Call, under_load: Call
) -> None:
    body = {"inputs": [row()]}
    until("nginx", lambda: httpx.get(f"{front}/health", trust_env=False).is_success)
    port = int(front.rpartition(":")[2])
    halves = (
        b"POST /predict HTTP/1.1\r\nHost: a\r\nX-A:",
        b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: 500\r\n\r\n{",
    )
    slow = [socket.create_connection(("127.0.0.1", port)) for _ in range(SLOW_CLIENTS)]
    try:
        for place, client in enumerate(slow):
            client.sendall(halves[place % 2])
        with under_load(front, body, clients=2) as load:
            until("answers beside them", lambda: load.answered >= 50)
            left = set(slow)

            def cut_off() -> bool:
                for client in list(left):
                    client.setblocking(False)
                    try:
                        if not client.recv(4096):
                            left.discard(client)
                    except BlockingIOError:
                        continue
                    except ConnectionResetError:
                        left.discard(client)
                return not left

            until("slow clients to be cut off", cut_off)
        assert not load.faults and set(load.codes) == {200}
    finally:
        for client in slow:
            client.close()
    assert ask(front, body).status_code == 200


def test_bodies_metrics_and_many_connections(front: str, row: Call, until: Call) -> None:
    until("nginx", lambda: httpx.get(f"{front}/health", trust_env=False).is_success)
    port = int(front.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
        client.sendall(b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: 104857600\r\n\r\n{")
        assert client.recv(4096).startswith(b"HTTP/1.1 413")
    assert httpx.get(f"{front}/metrics", trust_env=False).status_code == 200  # from this machine
    told = httpx.get(f"{front}/", trust_env=False).headers
    assert told["server"] == "nginx" and told["x-frame-options"] == "DENY"
