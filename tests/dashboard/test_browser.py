"""Dashboard in a real browser, over the real service with a small real model."""

import os
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from rossmann.dashboard.server import health_url, server_command, server_environment
from rossmann.dashboard.single.result import waterfall_steps
from rossmann.data.make_dataset import make_dataset
from rossmann.models.publishing.trained_model import TrainedModel
from rossmann.models.registry.model_cache import save_last_production, write_version
from rossmann.serving.client.client import Client
from rossmann.settings import Settings, load_settings
from tests.fixtures.browser import TIMEOUT_MS, ServiceProcess, flip_toggle, free_port, metric_value

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def settings(
    chain_settings: Settings, trained: TrainedModel, tmp_path_factory: pytest.TempPathFactory
) -> Settings:
    """A data folder with the small chain's tables and a copy of its Production version."""
    folder = tmp_path_factory.mktemp("dashboard")
    for name in ("demo", "processed"):
        (folder / name).symlink_to(chain_settings.data_dir / name)
    dashboard_settings = load_settings(
        data_dir=folder,
        api_port=free_port(),
        mlflow_port=free_port(),
        dashboard_port=free_port(),
        threads=1,
    )
    with write_version(dashboard_settings.model_cache_dir, 1, "run") as copy:
        for file in trained.folder.iterdir():
            if file.is_file():
                shutil.copy(file, copy / file.name)
    save_last_production(dashboard_settings.model_cache_dir, 1)
    return dashboard_settings


@pytest.fixture(scope="module")
def api(settings: Settings) -> Iterator[ServiceProcess]:
    environment = {
        **os.environ,
        "ROSSMANN_DATA_DIR": str(settings.data_dir),
        "ROSSMANN_API_PORT": str(settings.api_port),
        "ROSSMANN_MLFLOW_PORT": str(settings.mlflow_port),
        "ROSSMANN_THREADS": "1",
    }
    command = [sys.executable, "-m", "rossmann.cli", "serve"]
    ready = f"{settings.service_url}/health"
    process = ServiceProcess(command, environment, ready, settings.data_dir / "api.log")
    process.start()
    yield process
    process.stop()


@pytest.fixture(scope="module")
def dashboard(settings: Settings) -> Iterator[str]:
    command, environment = server_command(settings), server_environment(settings)
    log = settings.data_dir / "dashboard.log"
    process = ServiceProcess(command, environment, health_url(settings), log)
    process.start()
    yield settings.dashboard_url
    process.stop()
    assert "Traceback" not in log.read_text()


@pytest.fixture
def page(browser: Any, api: ServiceProcess, dashboard: str) -> Iterator[Any]:
    if api.running is None or api.running.poll() is not None:
        api.start()
    opened = browser.new_page(viewport={"width": 1280, "height": 900}, base_url=dashboard)
    opened.set_default_timeout(TIMEOUT_MS)
    yield opened
    opened.close()


def test_home_shows_the_services_and_links(page: Any) -> None:
    page.goto("/")
    page.get_by_role("heading", name="What will this store sell?").wait_for()
    assert metric_value(page, "Production version") == "1"
    page.get_by_test_id("stSidebar").get_by_text("Demo data").wait_for()
    # MLflow is not running: the service uses its copy, and the page reports that.
    page.get_by_text("The model registry is away").wait_for()
    page.get_by_test_id("stMain").get_by_role("link", name="Single prediction").click()
    page.get_by_role("heading", name="One store, one day").wait_for()


def test_single_forecast_equals_the_service(page: Any, settings: Settings) -> None:
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
        flip_toggle(page, "Open")
    value = page.get_by_test_id("stMetric").filter(has_text=label).get_by_test_id("stMetricValue")
    value.filter(has_text=expected[planned.Promo]).wait_for()
    flip_toggle(page, "Promotion")
    value.filter(has_text=expected[1 - planned.Promo]).wait_for()
    assert page.locator("canvas, svg.marks").count() >= 1


def forecast_open_day(page: Any, settings: Settings) -> tuple[dict[str, Any], Any]:
    """Forecast the first store's next open day; returns the row, and the metric of its forecast."""
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


def test_drivers_are_drawn(page: Any, settings: Settings) -> None:
    row, forecast = forecast_open_day(page, settings)
    with Client(settings.service_url) as client:
        (explanation,) = client.explain([row]).explanations
    page.get_by_text("What drives this forecast").wait_for()
    page.get_by_text("Plain day x drivers = forecast.").wait_for()
    chart = page.locator("svg.marks").filter(has_text="A plain day")
    steps = waterfall_steps(explanation)
    assert len(steps) > 3
    for step in steps:
        chart.get_by_text(step.label, exact=True).first.wait_for()
        chart.get_by_text(step.words, exact=True).first.wait_for()
    assert steps[-1].words == forecast.get_by_test_id("stMetricValue").inner_text()
    # A closed day has no drivers, and the page reports that.
    flip_toggle(page, "Open")
    page.get_by_text("The store is closed on this day: nothing drives its sales").wait_for()
    chart.wait_for(state="detached")


@pytest.mark.parametrize(
    "width", [*(pytest.param(width, marks=pytest.mark.nightly) for width in (1280, 1024, 800)), 400]
)
def test_metrics_are_not_truncated_on_a_narrow_page(
    page: Any, settings: Settings, width: int
) -> None:
    page.set_viewport_size({"width": 1280, "height": 900})
    forecast_open_day(page, settings)
    page.get_by_text("Plain day x drivers = forecast.").wait_for()
    page.set_viewport_size({"width": width, "height": 900})
    page.get_by_test_id("stMetric").first.wait_for()
    texts = page.get_by_test_id("stMetric").locator("*")
    truncated = texts.evaluate_all(
        "all => all.filter(e => e.scrollWidth > e.clientWidth + 1 && "
        "getComputedStyle(e).textOverflow === 'ellipsis').map(e => e.innerText)"
    )
    assert truncated == []
    boxes = [box.bounding_box() for box in page.get_by_test_id("stMetric").all()]
    assert len(boxes) == 3
    assert all(box["x"] + box["width"] <= width for box in boxes)


def download_file(page: Any, label: str) -> Any:
    """Click the download button and return the file.

    Streamlit may lose a click on an element that it has just drawn: clicks again after a timeout.
    """
    from playwright.sync_api import TimeoutError as DownloadTimeout

    for timeout in (10_000, 20_000, TIMEOUT_MS):
        with suppress(DownloadTimeout), page.expect_download(timeout=timeout) as download:
            page.get_by_test_id("stDownloadButton").filter(has_text=label).click()
            return download.value
    raise AssertionError(f"three clicks on {label} downloaded nothing")


def test_batch_is_uploaded_and_downloaded(page: Any, settings: Settings, tmp_path: Path) -> None:
    upload = settings.demo_raw_dir / "test.csv"
    uploaded = pl.read_csv(upload, schema_overrides={"StateHoliday": pl.String})
    page.goto("/batch")
    page.locator("input[type=file]").set_input_files(upload)
    page.get_by_role("button", name=re.compile("^.*Forecast .* rows")).click()
    # A click is lost while the page still loads the scripts of later elements.
    page.get_by_test_id("stVegaLiteChart").locator("svg.marks").first.wait_for()
    page.wait_for_load_state("networkidle")
    files = {}
    for name, suffix in (("CSV", "csv"), ("Excel", "xlsx")):
        files[suffix] = tmp_path / f"forecast.{suffix}"
        file = download_file(page, f"Download {name}")
        file.save_as(files[suffix])
        assert file.suggested_filename == f"test-forecast.{suffix}"
    csv = pl.read_csv(files["csv"], schema_overrides={"StateHoliday": pl.String})
    assert csv["Id"].to_list() == uploaded["Id"].to_list()
    sheet = pl.read_excel(files["xlsx"], sheet_name="Forecasts")
    assert sheet["forecast"].to_list() == csv["forecast"].to_list()
    with Client(settings.service_url) as client:
        rows = uploaded.select(
            "Store", "DayOfWeek", "Date", pl.col("Open").fill_null(1), "Promo", "StateHoliday",
            "SchoolHoliday",
        )  # fmt: skip
        expected = client.predict(rows.to_dicts()).predictions
    filled = uploaded["Open"].is_not_null()
    filled_expected = pl.Series(expected).filter(filled).to_list()
    assert csv["forecast"].filter(filled).to_list() == pytest.approx(filled_expected, rel=1e-6)


def test_api_docs_load_no_external_file(page: Any, settings: Settings) -> None:
    requested: list[str] = []
    page.on("request", lambda request: requested.append(request.url))
    page.goto(f"{settings.service_url}/docs")
    page.locator(".opblock-summary-path").filter(has_text="/predict").first.wait_for()
    page.get_by_role("heading", name="Rossmann Forecasting").wait_for()
    own = (settings.service_url, "data:", "blob:")
    assert len(requested) > 3
    assert [url for url in requested if not url.startswith(own)] == []


def test_pages_recover_from_an_outage(page: Any, api: ServiceProcess) -> None:
    page.goto("/")
    page.get_by_test_id("stMetric").filter(has_text="Production version").wait_for()
    api.stop()
    page.get_by_text("The prediction service does not answer.").first.wait_for()
    page.get_by_text("For those who run the service").click()
    page.get_by_text("rossmann up").first.wait_for()
    page.goto("/single")
    page.get_by_text("The prediction service does not answer.").first.wait_for()
    assert page.get_by_text("Traceback").count() == 0
    api.start()
    # The page reconnects without any interaction.
    page.get_by_test_id("stMetric").filter(has_text="80 % range").wait_for()
    page.goto("/")
    page.get_by_test_id("stMetric").filter(has_text="Production version").wait_for()
    page.get_by_text("The prediction service does not answer.").first.wait_for(state="detached")
