"""Headers of the dashboard's application, and its start from the folder ``deployment``."""

import sys
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route, WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocket

from rossmann.dashboard.server import server_command, server_environment
from rossmann.dashboard.web_app import MIDDLEWARE, content_security_policy
from rossmann.settings import load_settings
from tests.fixtures.browser import ServiceProcess, free_port
from tests.fixtures.dashboard import StubService
from tests.paths import ROOT


def test_every_response_has_the_headers_and_sockets_work() -> None:
    async def echo(socket: WebSocket) -> None:
        await socket.accept()
        await socket.send_text(await socket.receive_text())
        await socket.close()

    routes = [
        Route("/", lambda _: PlainTextResponse("a", headers={"X-Content-Type-Options": "other"})),
        WebSocketRoute("/echo", echo),
    ]
    client = TestClient(Starlette(routes=routes, middleware=MIDDLEWARE))
    for path, status in (("/", 200), ("/missing", 404)):
        response = client.get(path)
        assert response.status_code == status
        assert response.headers["content-security-policy"] == content_security_policy()
        assert response.headers["referrer-policy"] == "no-referrer"
        assert response.headers.get_list("x-content-type-options") == ["nosniff"]
    with client.websocket_connect("/echo") as socket:
        socket.send_text("a")
        assert socket.receive_text() == "a"


def test_a_page_that_is_closed_while_it_is_written_to_is_no_fault() -> None:
    closed: list[str] = []

    async def write_to_closed_page(socket: WebSocket) -> None:
        await socket.accept()
        await socket.close()
        closed.append("page")
        await socket.close()  # as Streamlit does; Starlette raises

    async def fail(socket: WebSocket) -> None:
        await socket.accept()
        raise RuntimeError("a fault of its own")

    routes = [WebSocketRoute("/page", write_to_closed_page), WebSocketRoute("/fault", fail)]
    client = TestClient(Starlette(routes=routes, middleware=MIDDLEWARE))
    with client.websocket_connect("/page"):
        pass
    assert closed == ["page"]
    with pytest.raises(RuntimeError, match="of its own"), client.websocket_connect("/fault"):
        pass


def test_policy_names_no_other_site_and_allows_no_other_script() -> None:
    policy = dict(part.split(" ", 1) for part in content_security_policy().split("; "))
    assert policy["default-src"] == policy["frame-ancestors"] == policy["form-action"] == "'none'"
    sources = {source for value in policy.values() for source in value.split()}
    digests = {source for source in sources if source.startswith("'sha256-")}
    assert sources - digests == {"'none'", "'self'", "'unsafe-inline'", "data:", "blob:"}
    assert len(digests) == 2
    assert not {"'unsafe-inline'", "data:", "blob:"} & set(policy["script-src"].split())


@pytest.mark.nightly
@pytest.mark.browser
@pytest.mark.timeout(300)
def test_script_of_the_folder_deployment_serves_the_same_page(browser: Any, tmp_path: Path) -> None:
    stub = StubService()
    settings = load_settings(data_dir=tmp_path, dashboard_port=free_port(), api_url=stub.url)
    script = ROOT / "deployment" / "streamlit" / "Home.py"
    options = [f"--server.port={settings.dashboard_port}", "--server.headless=true"]
    assert Path(server_command(settings)[4]).name == "web_app.py"
    command = [sys.executable, "-m", "streamlit", "run", str(script), *options]
    environment = {**server_environment(settings), "ROSSMANN_DATA_DIR": str(tmp_path)}
    ready = f"{settings.dashboard_url}/_stcore/health"
    process = ServiceProcess(command, environment, ready, tmp_path / "log")
    process.start()
    try:
        page = browser.new_page()
        response = page.goto(settings.dashboard_url)
        assert response.headers["content-security-policy"] == content_security_policy()
        page.get_by_role("heading", name="What will this store sell?").wait_for()
        page.get_by_test_id("stMetric").filter(has_text="Production version").wait_for()
        page.close()
    finally:
        process.stop()
        stub.stop()
