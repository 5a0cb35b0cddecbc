"""API and dashboard below base paths of a real nginx, with the example of ``deployment/nginx``."""

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from rossmann.dashboard.server import health_url, server_command, server_environment
from rossmann.serving.client.client import Client
from rossmann.settings import Settings, load_settings
from tests.fixtures.networks import free_port
from tests.paths import ROOT

CONFIG = ROOT / "deployment" / "nginx" / "base_paths.conf"
API, DASHBOARD = "/forecasts", "/dashboard"


@pytest.fixture
def services(run_service: Callable[..., Any], tmp_path: Path) -> Iterator[Settings]:
    """Both services with base paths, as processes."""
    service = run_service(api_base_path=API, trusted_proxies="127.0.0.1")
    settings = load_settings(
        data_dir=tmp_path,
        api_port=httpx.URL(service.url).port,
        api_base_path=API,
        dashboard_port=free_port(),
        dashboard_base_path=DASHBOARD,
    )
    environment = {**os.environ, **server_environment(settings)}
    with (tmp_path / "dashboard.log").open("wb") as log:
        process = subprocess.Popen(
            server_command(settings), env=environment, stdout=log, stderr=subprocess.STDOUT
        )
    try:
        yield settings
    finally:
        process.terminate()
        process.wait(60)


def config_of_clients(text: str, keeps_path: bool) -> str:
    """The example; ``keeps_path`` false: a proxy that removes the base path of the API."""
    api = f"location {API}/ {{"
    assert text.count(api) == 1
    if keeps_path:
        return text
    start = text.index(api)
    end = text.index("}", start)
    return text[:start] + text[start:end].replace(":8000;", ":8000/;") + text[end:]


@pytest.fixture
def start_site(
    services: Settings, running_nginx: Callable[..., Any], tmp_path: Path, wait_until: Any
) -> Callable[[bool], Any]:
    """Starts nginx before both services; returns the site's URL."""
    port = free_port()

    def run(keeps_path: bool) -> Any:
        text = config_of_clients(CONFIG.read_text("utf-8"), keeps_path)
        for old, new in (("80;", f"127.0.0.1:{port};"),):
            assert text.count(f"listen {old}") == 1
            text = text.replace(f"listen {old}", f"listen {new}")
        text = text.replace("127.0.0.1:8000", f"127.0.0.1:{services.api_port}")
        text = text.replace("127.0.0.1:8501", f"127.0.0.1:{services.dashboard_port}")
        wait_until("dashboard", lambda: httpx.get(health_url(services), trust_env=False).is_success)
        return running_nginx(tmp_path / "nginx", port, text)

    run.url = f"http://127.0.0.1:{port}"  # type: ignore[attr-defined]
    return run


@pytest.mark.parametrize(
    "keeps_path",
    [True, pytest.param(False, marks=pytest.mark.nightly)],
    ids=["whole path", "path removed"],
)
def test_api_answers_below_its_base_path(
    keeps_path: bool, start_site: Any, row: Callable[..., dict[str, Any]]
) -> None:
    site = start_site.url
    with start_site(keeps_path), Client(f"{site}{API}") as client:
        assert client.health().model_loaded
        assert client.predict([row()]).count == 1
        places = httpx.get(f"{site}{API}/", trust_env=False).json()
        document = httpx.get(f"{site}{places['openapi']}", trust_env=False).json()
        assert document["servers"] == [{"url": API}]
        for place in ("docs", "health", "metrics", "stores"):
            assert httpx.get(f"{site}{places[place]}", trust_env=False).status_code == 200, place
        assert httpx.get(f"{site}/health", trust_env=False).status_code == 404


@pytest.mark.browser
@pytest.mark.parametrize(
    "keeps_path",
    [pytest.param(True, marks=pytest.mark.nightly), False],
    ids=["whole path", "path removed"],
)
def test_docs_page_works_below_its_base_path(
    keeps_path: bool, start_site: Any, browser: Any
) -> None:
    with start_site(keeps_path):
        page = browser.new_page()
        failed: list[str] = []
        page.on(
            "response", lambda r: failed.append(f"{r.status} {r.url}") if r.status > 399 else None
        )
        page.goto(f"{start_site.url}{API}/docs")
        page.locator("#operations-state-live_health_live_get").click()
        page.get_by_role("button", name="Try it out").click()
        page.get_by_role("button", name="Execute").click()
        page.locator(".live-responses-table", has_text="alive").wait_for()
        page.close()
    assert failed == []


@pytest.mark.browser
def test_dashboard_works_below_its_base_path(start_site: Any, browser: Any) -> None:
    with start_site(True):
        page = browser.new_page()
        failed: list[str] = []
        page.on(
            "response", lambda r: failed.append(f"{r.status} {r.url}") if r.status > 399 else None
        )
        page.goto(f"{start_site.url}{DASHBOARD}")
        page.get_by_text("Prediction service", exact=False).first.wait_for()
        page.get_by_role("link", name="Batch").first.click()
        page.wait_for_url(f"{start_site.url}{DASHBOARD}/batch*")
        page.get_by_text("template", exact=False).first.wait_for()
        page.close()
    assert failed == []
