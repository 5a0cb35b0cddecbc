"""The dashboard in a real browser, before the real service with a small real model."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import polars as pl
import pytest

from rossmann.dashboard.server import health_url, server_command, server_environment
from rossmann.dashboard.single import attributions as drivers
from rossmann.data.make_dataset import make_dataset
from rossmann.models.publishing.trained_model import TrainedModel
from rossmann.models.registry.model_cache import save_last_production, write_version
from rossmann.serving.client.client import Client
from rossmann.settings import Settings, load_settings

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]
PATIENCE = 60_000
"""Milliseconds that a page may take on a busy machine."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Process:
    """One of our services; ends only what it started."""

    def __init__(self, command: list[str], environment: dict[str, str], ready: str, log: Path):
        self.command, self.environment, self.ready, self.log = command, environment, ready, log
        self.running: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.log.open("ab") as output:
            self.running = subprocess.Popen(
                self.command, env=self.environment, stdout=output, stderr=output
            )
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and self.running.poll() is None:
            try:
                if httpx.get(self.ready, timeout=5, trust_env=False).status_code == 200:
                    return
            except httpx.HTTPError:
                time.sleep(0.2)
        raise AssertionError(f"{self.command} did not start:\n{self.log.read_text()}")

    def stop(self) -> None:
        if self.running is not None and self.running.poll() is None:
            self.running.send_signal(signal.SIGTERM)
            try:
                self.running.wait(30)
            except subprocess.TimeoutExpired:
                self.running.kill()
                self.running.wait(30)


@pytest.fixture(scope="module")
def settings(
    chain_settings: Settings, trained: TrainedModel, tmp_path_factory: pytest.TempPathFactory
) -> Settings:
    """A data folder of our own: the small chain's tables, and a copy of its Production version."""
    folder = tmp_path_factory.mktemp("dashboard")
    for name in ("demo", "processed"):
        (folder / name).symlink_to(chain_settings.data_dir / name)
    made = load_settings(
        data_dir=folder,
        api_port=free_port(),
        mlflow_port=free_port(),
        dashboard_port=free_port(),
        threads=1,
    )
    with write_version(made.model_cache_dir, 1, "run") as copy:
        for file in trained.folder.iterdir():
            if file.is_file():
                shutil.copy(file, copy / file.name)
    save_last_production(made.model_cache_dir, 1)
    return made


@pytest.fixture(scope="module")
def api(settings: Settings) -> Iterator[Process]:
    environment = {
        **os.environ,
        "ROSSMANN_DATA_DIR": str(settings.data_dir),
        "ROSSMANN_API_PORT": str(settings.api_port),
        "ROSSMANN_MLFLOW_PORT": str(settings.mlflow_port),
        "ROSSMANN_THREADS": "1",
    }
    command = [sys.executable, "-m", "rossmann.cli", "serve"]
    ready = f"{settings.service_url}/health"
    process = Process(command, environment, ready, settings.data_dir / "api.log")
    process.start()
    yield process
    process.stop()


@pytest.fixture(scope="module")
def dashboard(settings: Settings) -> Iterator[str]:
    command, environment = server_command(settings), server_environment(settings)
    log = settings.data_dir / "dashboard.log"
    process = Process(command, environment, health_url(settings), log)
    process.start()
    yield settings.dashboard_url
    process.stop()
    assert "Traceback" not in log.read_text()


@pytest.fixture
def page(browser: Any, api: Process, dashboard: str) -> Iterator[Any]:
    if api.running is None or api.running.poll() is not None:
        api.start()
    opened = browser.new_page(viewport={"width": 1280, "height": 900}, base_url=dashboard)
    opened.set_default_timeout(PATIENCE)
    yield opened
    opened.close()


def metric(page: Any, label: str) -> str:
    box = page.get_by_test_id("stMetric").filter(has_text=label)
    text: str = box.get_by_test_id("stMetricValue").inner_text()
    return text


def switch(page: Any, label: str) -> None:
    """Flip a toggle, once those of the day before have gone."""
    page.get_by_test_id("stApp").and_(
        page.locator('[data-test-script-state="notRunning"]')
    ).wait_for()
    page.get_by_test_id("stCheckbox").filter(has_text=label).click()


def test_home_says_what_runs_and_leads_to_the_pages(page: Any) -> None:
    page.goto("/")
    page.get_by_role("heading", name="What will this store sell?").wait_for()
    assert metric(page, "Production version") == "1"
    page.get_by_test_id("stSidebar").get_by_text("Demo data").wait_for()
    # MLflow does not run here: the service answers from its copy, and the page says so.
    page.get_by_text("The model registry is away").wait_for()
    page.get_by_test_id("stMain").get_by_role("link", name="Single prediction").click()
    page.get_by_role("heading", name="One store, one day").wait_for()


def test_a_single_forecast_is_the_services_own(page: Any, settings: Settings) -> None:
    info = make_dataset(settings)
    day = info.last_day + timedelta(days=4)
    with Client(settings.service_url) as client:
        store = client.stores()[0].store
        planned = client.plan(store, day.isoformat(), 1).rows[0]
        row = planned.model_dump(mode="json", exclude={"scheduled"}) | {"Open": 1}
        expected = {
            promo: f"{client.predict([row | {'Promo': promo}]).predictions[0]:,.0f}"
            for promo in (0, 1)
        }
    page.goto("/single")
    box = page.get_by_role("textbox", name="Date")
    box.fill(day.strftime("%d.%m.%Y"))
    box.press("Enter")
    page.get_by_text(f"{day:%A} {day.day} {day:%B %Y}", exact=False).first.wait_for()
    label = f"Forecast, {day:%a} {day.day} {day:%b}"
    page.get_by_test_id("stMetric").filter(has_text=label).wait_for()
    if not planned.Open:
        switch(page, "Open")
    value = page.get_by_test_id("stMetric").filter(has_text=label).get_by_test_id("stMetricValue")
    value.filter(has_text=expected[planned.Promo]).wait_for()
    switch(page, "Promotion")
    value.filter(has_text=expected[1 - planned.Promo]).wait_for()
    assert page.locator("canvas, svg.marks").count() >= 1


def ask_for_an_open_day(page: Any, settings: Settings) -> tuple[dict[str, Any], Any]:
    """Ask for the first store's next open day; gives the row, and the box with its forecast."""
    start = make_dataset(settings).last_day + timedelta(days=1)
    with Client(settings.service_url) as client:
        store = client.stores()[0].store
        week = client.plan(store, start.isoformat(), 7).rows
    planned = next(row for row in week if row.Open)
    page.goto("/single")
    box = page.get_by_role("textbox", name="Date")
    box.fill(planned.Date.isoformat())
    box.press("Enter")
    label = f"Forecast, {planned.Date:%a} {planned.Date.day} {planned.Date:%b}"
    forecast = page.get_by_test_id("stMetric").filter(has_text=label)
    forecast.wait_for()
    return planned.model_dump(mode="json", exclude={"scheduled"}), forecast


def test_what_drives_a_forecast_is_drawn_and_told(page: Any, settings: Settings) -> None:
    row, forecast = ask_for_an_open_day(page, settings)
    with Client(settings.service_url) as client:
        (split,) = client.explain([row]).explanations
    page.get_by_text("What drives this forecast").wait_for()
    page.get_by_text("Plain day x drivers = forecast.").wait_for()
    chart = page.locator("svg.marks").filter(has_text="A plain day")
    steps = drivers.waterfall_steps(split)
    assert len(steps) > 3
    for step in steps:
        chart.get_by_text(step.label, exact=True).first.wait_for()
        chart.get_by_text(step.words, exact=True).first.wait_for()
    assert steps[-1].words == forecast.get_by_test_id("stMetricValue").inner_text()
    # A closed day has nothing that drives it, and the page says so instead.
    switch(page, "Open")
    page.get_by_text("The store is closed on this day: nothing drives its sales").wait_for()
    chart.wait_for(state="detached")


@pytest.mark.parametrize("width", [1280, 1024, 800, 400])
def test_no_number_is_cut_on_a_narrow_page(page: Any, settings: Settings, width: int) -> None:
    page.set_viewport_size({"width": 1280, "height": 900})
    ask_for_an_open_day(page, settings)
    page.get_by_text("Plain day x drivers = forecast.").wait_for()
    page.set_viewport_size({"width": width, "height": 900})
    page.get_by_test_id("stMetric").first.wait_for()
    texts = page.get_by_test_id("stMetric").locator("*")
    cut = texts.evaluate_all(
        "all => all.filter(e => e.scrollWidth > e.clientWidth + 1 && "
        "getComputedStyle(e).textOverflow === 'ellipsis').map(e => e.innerText)"
    )
    assert cut == []
    boxes = [box.bounding_box() for box in page.get_by_test_id("stMetric").all()]
    assert len(boxes) == 3
    assert all(box["x"] + box["width"] <= width for box in boxes)


def downloaded(page: Any, label: str) -> Any:
    """What a click on that button brings.

    On a busy machine Streamlit's page loses a click on what it has just drawn: as a person would,
    this clicks again where nothing comes.
    """
    from playwright.sync_api import TimeoutError as NothingCame

    for patience in (10_000, 20_000, PATIENCE):
        with suppress(NothingCame), page.expect_download(timeout=patience) as download:
            page.get_by_test_id("stDownloadButton").filter(has_text=label).click()
            return download.value
    raise AssertionError(f"three clicks on {label} brought nothing")


def test_a_batch_goes_up_and_its_forecasts_come_down(
    page: Any, settings: Settings, tmp_path: Path
) -> None:
    upload = settings.demo_raw_dir / "test.csv"
    sent = pl.read_csv(upload, schema_overrides={"StateHoliday": pl.String})
    page.goto("/batch")
    page.locator("input[type=file]").set_input_files(upload)
    page.get_by_role("button", name=re.compile("^.*Forecast .* rows")).click()
    # A click on a button while the page still fetches the scripts of what stands below is lost.
    page.get_by_test_id("stVegaLiteChart").locator("svg.marks").first.wait_for()
    page.wait_for_load_state("networkidle")
    got = {}
    for name, suffix in (("CSV", "csv"), ("Excel", "xlsx")):
        got[suffix] = tmp_path / f"forecast.{suffix}"
        file = downloaded(page, f"Download {name}")
        file.save_as(got[suffix])
        assert file.suggested_filename == f"test-forecast.{suffix}"
    csv = pl.read_csv(got["csv"], schema_overrides={"StateHoliday": pl.String})
    assert csv["Id"].to_list() == sent["Id"].to_list()
    sheet = pl.read_excel(got["xlsx"], sheet_name="Forecasts")
    assert sheet["Forecast"].to_list() == pytest.approx(csv["Forecast"].to_list())
    with Client(settings.service_url) as client:
        rows = sent.select(
            "Store", "DayOfWeek", "Date", pl.col("Open").fill_null(1), "Promo", "StateHoliday",
            "SchoolHoliday",
        )  # fmt: skip
        expected = client.predict(rows.to_dicts()).predictions
    filled = sent["Open"].is_not_null()
    told = pl.Series(expected).filter(filled).to_list()
    assert csv["Forecast"].filter(filled).to_list() == pytest.approx(told, rel=1e-6)


def test_the_page_of_docs_works_on_a_closed_network(page: Any, settings: Settings) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(f"{settings.service_url}/docs")
    page.locator(".opblock-summary-path").filter(has_text="/predict").first.wait_for()
    page.get_by_role("heading", name="Rossmann Forecasting").wait_for()
    own = (settings.service_url, "data:", "blob:")
    assert len(asked) > 3
    assert [url for url in asked if not url.startswith(own)] == []


def test_the_service_goes_away_and_comes_back(page: Any, api: Process) -> None:
    page.goto("/")
    page.get_by_test_id("stMetric").filter(has_text="Production version").wait_for()
    api.stop()
    page.get_by_text("The prediction service does not answer.").first.wait_for()
    page.get_by_text("bash scripts/launch_dashboard.sh").first.wait_for()
    page.goto("/single")
    page.get_by_text("The prediction service does not answer.").first.wait_for()
    assert page.get_by_text("Traceback").count() == 0
    api.start()
    # Nobody touches the page: it finds the service by itself.
    page.get_by_test_id("stMetric").filter(has_text="80 % range").wait_for()
    page.goto("/")
    page.get_by_test_id("stMetric").filter(has_text="Production version").wait_for()
    assert page.get_by_text("The prediction service does not answer.").count() == 0
