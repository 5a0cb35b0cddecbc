"""Pictures of the dashboard for the documentation, taken by Debian's Chromium."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from rossmann.errors import ServiceError, SettingsError, first_line
from rossmann.filesystem.atomic_write import write_bytes_atomic

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

WIDTH: Final = 1280
MAX_BYTES: Final = 300_000

_HEIGHT: Final = 1600
"""Of the window: more than that of every page, so that nothing has to be scrolled."""
_TOP: Final = 32
"""Pixels above a page's title that are left out: they are empty."""
_MARGIN: Final = 24
"""Pixels below the last element."""
_STORES: Final = (1, 2, 3)
_DAYS: Final = 14
_TIMEOUT_MS: Final = 60_000
_POLL_MS: Final = 300
_MAX_POLLS: Final = 100

# Streamlit draws a page step by step: its script, spinners, placeholders, dimmed old elements, and
# the charts, which Vega draws last.
_IS_DRAWN: Final = """count => {
  const all = selector => [...document.querySelectorAll(selector)];
  const app = document.querySelector('[data-testid="stApp"]');
  const busy = '[data-testid="stStatusWidget"], [data-testid="stSpinner"],'
    + '[data-testid="stSkeleton"], .stMain [data-stale="true"]';
  const charts = all('.stMain .vega-embed svg.marks, .stMain .vega-embed canvas');
  const isDrawn = chart => {
    const box = chart.getBoundingClientRect();
    return box.width > 100 && box.height > 50
      && (chart.tagName === 'CANVAS' || chart.querySelectorAll('.mark-rect path').length > 0);
  };
  return app?.dataset.testScriptState === 'notRunning' && all(busy).length === 0
    && charts.length >= count && charts.every(isDrawn) && document.fonts.status === 'loaded';
}"""
_CONTENT_BOTTOM: Final = """() => Math.max(...[...document.querySelectorAll(
  '.stMainBlockContainer .stElementContainer, .stMainBlockContainer [data-testid="stMetric"]'
)].map(element => element.getBoundingClientRect().bottom))"""


@dataclass(frozen=True)
class Picture:
    """One picture: the page it shows, and what to do there before it is taken."""

    name: str
    path: str
    charts: int
    theme: Literal["light", "dark"] = "light"
    prepare: Callable[["Page"], None] | None = None


def take_screenshots(dashboard_url: str, folder: Path) -> list[Path]:
    """Take every picture of a running dashboard into ``folder``; returns their paths.

    They are ``WIDTH`` pixels wide, cropped to what a page shows, and at most ``MAX_BYTES`` large.
    Raises ``SettingsError`` without Playwright or Chromium, ``ServiceError`` where the dashboard
    does not answer or a page does not finish.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with _open_browser() as browser:
        return [
            _take_picture(browser, dashboard_url.rstrip("/"), folder, picture)
            for picture in PICTURES
        ]


@contextmanager
def _open_browser() -> Iterator["Browser"]:
    try:
        from playwright.sync_api import Error, sync_playwright
    except ImportError as error:
        raise SettingsError(
            "pictures need Playwright, a development dependency, which is not installed: "
            "bash scripts/test.sh installs it"
        ) from error
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        raise SettingsError("pictures need Chromium, which is not installed: apt install chromium")
    with sync_playwright() as driver:
        try:
            browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        except Error as error:
            raise ServiceError(f"{chromium} does not start: {first_line(error)}") from error
        try:
            yield browser
        finally:
            browser.close()


def _take_picture(browser: "Browser", url: str, folder: Path, picture: Picture) -> Path:
    from playwright.sync_api import Error as PlaywrightError

    page = browser.new_page(
        viewport={"width": WIDTH, "height": _HEIGHT},
        color_scheme=picture.theme,
        reduced_motion="reduce",
        locale="en-GB",
    )
    page.set_default_timeout(_TIMEOUT_MS)
    try:
        page.goto(f"{url}{picture.path}")
        if picture.prepare is not None:
            picture.prepare(page)
        content = _picture_when_still(page, picture)
    except PlaywrightError as error:
        raise ServiceError(
            f"no picture {picture.name} of the dashboard at {url}: {first_line(error)}"
        ) from error
    finally:
        page.close()
    if len(content) > MAX_BYTES:
        raise ServiceError(
            f"the picture {picture.name} has {len(content):,} bytes, more than {MAX_BYTES:,}"
        )
    path = folder / f"{picture.name}.png"
    write_bytes_atomic(path, content)
    return path


def _picture_when_still(page: "Page", picture: Picture) -> bytes:
    """The picture, once two in a row are equal: nothing is being drawn or moves any more."""
    before = b""
    for _ in range(_MAX_POLLS):
        page.wait_for_function(_IS_DRAWN, arg=picture.charts)
        page.mouse.move(WIDTH - 1, 0)  # else what lies under the pointer looks chosen
        bottom = min(int(page.evaluate(_CONTENT_BOTTOM)) + _MARGIN, _HEIGHT)
        content = page.screenshot(
            clip={"x": 0, "y": _TOP, "width": WIDTH, "height": bottom - _TOP},
            animations="disabled",
            caret="hide",
        )
        if content == before:
            return content
        before = content
        page.wait_for_timeout(_POLL_MS)
    raise ServiceError(f"the page of the picture {picture.name} does not come to rest")


def _forecast_batch(page: "Page") -> None:
    """Upload a small file for the first days without known sales, and forecast it."""
    url = page.url
    page.goto(f"{url.rpartition('/')[0]}/single")
    page.wait_for_function(_IS_DRAWN, arg=2)  # its field of the date is empty before
    first = date.fromisoformat(page.get_by_role("textbox", name="Date").input_value())
    page.goto(url)
    page.locator("input[type=file]").set_input_files(
        {"name": "plan.csv", "mimeType": "text/csv", "buffer": _batch_table(first).encode()}
    )
    page.get_by_role("button", name="Forecast").click()
    page.get_by_test_id("stMetric").filter(has_text="Total forecast").wait_for()
    page.get_by_role("button", name="Download Excel").wait_for()


def _batch_table(first: date) -> str:
    """A plan from ``first`` on: closed on Sundays, a promotion in the first full week."""
    monday = first + timedelta(days=-first.weekday() % 7)
    lines = ["Store,Date,Open,Promo,StateHoliday,SchoolHoliday"]
    for store in _STORES:
        for i in range(_DAYS):
            day = first + timedelta(days=i)
            promotion = monday <= day < monday + timedelta(days=5)
            lines.append(f"{store},{day},{int(day.weekday() < 6)},{int(promotion)},0,0")
    return "\n".join((*lines, ""))


PICTURES: Final = (
    Picture("home", "/", charts=1),
    Picture("single", "/single", charts=2),
    Picture("single-dark", "/single", charts=2, theme="dark"),
    Picture("batch", "/batch", charts=1, prepare=_forecast_batch),
)
