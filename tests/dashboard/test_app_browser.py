"""Frame of the pages in a real browser: titles, themes, contrast, narrow screens, charts."""

from typing import Any

import pytest

from tests.fixtures.browser import fill_date, wait_for_value
from tests.fixtures.dashboard import StubService

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]
PATHS = {"/": "Home", "/single": "Single prediction", "/batch": "Batch"}
SINGLE = "/single?store=1&date=2015-08-01"
SATURDAY = "Forecast, Sat 1 Aug"
CONTRAST = """elements => elements.filter(e => e.offsetParent && e.innerText.trim()).map(e => {
  const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
  const paint = colour => {
    canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const chain = []; for (let n = e; n; n = n.parentElement) chain.unshift(getComputedStyle(n));
  canvas.clearRect(0, 0, 1, 1);
  let back = paint('white');
  chain.forEach(style => { back = paint(style.backgroundColor) });
  const text = paint(chain[chain.length - 1].color);
  const opacity = chain.reduce((product, style) => product * Number(style.opacity), 1);
  const mixed = text.map((value, i) => opacity * value + (1 - opacity) * back[i]);
  const luminance = rgb => {
    const [r, g, b] = rgb.map(v => v / 255)
      .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const [low, high] = [luminance(mixed), luminance(back)].sort((a, b) => a - b);
  return [e.innerText.slice(0, 40), (high + 0.05) / (low + 0.05)];
})"""


def test_every_page_has_its_title_and_nothing_is_fetched_from_outside(open_page: Any) -> None:
    page = open_page("/")
    requested: list[str] = []
    messages: list[str] = []
    page.on("request", lambda request: requested.append(request.url))
    page.on("console", lambda message: messages.append(message.text))
    origin = page.url.rstrip("/")
    for path, title in PATHS.items():
        page.goto(path)
        page.wait_for_function(
            "title => document.title === title", arg=f"{title} · Rossmann Forecasting"
        )
        # Our file, in the page itself.
        page.locator("link[rel~=icon][href^='data:image/svg+xml']").wait_for(state="attached")
    own = (origin, origin.replace("http", "ws"), "data:", "blob:")
    assert [url for url in requested if not url.startswith(own)] == []
    assert [text for text in messages if "Content Security Policy" in text] == []
    assert page.evaluate("window.foldsSidebar") is True


@pytest.mark.parametrize("scheme", ["dark", pytest.param("light", marks=pytest.mark.nightly)])
def test_theme_follows_the_browser_and_text_has_contrast(open_page: Any, scheme: str) -> None:
    for path in PATHS:
        page = open_page(path, color_scheme=scheme)
        page.get_by_test_id("stSidebar").get_by_text("Demo data").wait_for()
        page.get_by_test_id("stSidebar").get_by_test_id("stCaptionContainer").wait_for()
        page.wait_for_load_state("networkidle")
        app = page.get_by_test_id("stApp")
        background = app.evaluate("e => getComputedStyle(e).backgroundColor")
        assert background == {"light": "rgb(255, 255, 255)", "dark": "rgb(15, 23, 42)"}[scheme]
        for selector in ("[data-testid=stCaptionContainer] p", ".stMain a, .stSidebar a p"):
            low, found = [], []
            for _ in range(50):  # while a page is drawn anew, its parts are dim
                found = page.locator(selector).evaluate_all(CONTRAST)
                low = [(text, ratio) for text, ratio in found if ratio < 4.5]
                if found and not low:
                    break
                page.wait_for_timeout(200)
            assert found and low == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_labels_of_charts_have_contrast(open_page: Any, scheme: str) -> None:
    page = open_page(SINGLE, color_scheme=scheme)
    labels = page.locator("svg.marks .role-axis-label text")
    labels.first.wait_for()
    colours = set(labels.evaluate_all("all => all.map(e => e.getAttribute('fill'))"))
    assert colours == {{"light": "#475569", "dark": "#cbd5e1"}[scheme]}


def test_narrow_page_shows_the_page_and_the_demo_warning(open_page: Any) -> None:
    page = open_page(SINGLE, viewport={"width": 390, "height": 844})
    warning = page.get_by_test_id("stMain").get_by_text("Do not plan with it.")
    warning.wait_for()
    assert page.get_by_test_id("stMain").get_by_text("Demo data").first.is_visible()
    sidebar = page.get_by_test_id("stSidebar")
    assert not sidebar.is_visible() or sidebar.bounding_box()["x"] < -100
    # From a point in the middle, the page is on top, not the drawer.
    assert page.evaluate("!document.elementFromPoint(190, 300).closest('.stSidebar')")
    page.get_by_test_id("stExpandSidebarButton").click()
    sidebar.get_by_role("link", name="Batch").click()
    page.get_by_role("heading", name="Many stores and days").wait_for()
    page.wait_for_function("!document.elementFromPoint(190, 300).closest('.stSidebar')")
    warning.wait_for()


def test_sidebar_is_not_dimmed_while_a_page_waits(open_page: Any, stub: StubService) -> None:
    page = open_page(SINGLE)
    wait_for_value(page, SATURDAY, "1,560")
    page.get_by_text("Plain day x drivers = forecast.").wait_for()
    page.evaluate("""() => {
      const opacity = node => {
        let product = 1;
        for (; node; node = node.parentElement) product *= Number(getComputedStyle(node).opacity);
        return product;
      };
      window.lowest = {stSidebar: 1, stMain: 1};
      setInterval(() => {
        for (const part of Object.keys(lowest))
          for (const node of document.querySelectorAll(`.${part} p`))
            lowest[part] = Math.min(lowest[part], opacity(node));
      }, 20);
    }""")
    stub.seconds = 1.0
    fill_date(page, "2015-08-03")
    wait_for_value(page, "Forecast, Mon 3 Aug", "1,010")
    lowest = page.evaluate("window.lowest")
    assert lowest["stMain"] < 0.5
    assert lowest["stSidebar"] > 0.8


def test_wide_page_shows_the_demo_warning_once(open_page: Any) -> None:
    page = open_page(SINGLE)
    page.get_by_test_id("stSidebar").get_by_text("Do not plan with it.").wait_for()
    wait_for_value(page, SATURDAY, "1,560")
    assert not page.get_by_test_id("stMain").get_by_text("Do not plan with it.").is_visible()


def test_tooltips_have_no_null(open_page: Any) -> None:
    page = open_page(SINGLE)
    chart = page.get_by_test_id("stVegaLiteChart").first
    bars = [
        chart.locator(f"svg.marks path[aria-label*='{text}']").first
        for text in ("Sold: 1,", "Forecast: 1,")
    ]
    texts = []
    for bar in bars:
        bar.hover(force=True)
        tooltip = page.locator("#vg-tooltip-element.visible")
        tooltip.wait_for()
        texts.append(tooltip.inner_text())
        page.mouse.move(0, 0)
        tooltip.wait_for(state="detached")
    assert "Sold" in texts[0] and "80 %" not in texts[0]
    assert "Forecast" in texts[1] and "80 % from" in texts[1]
    assert not any(word in text for text in texts for word in ("null", "NaN", "undefined"))


def test_shown_data_has_plain_column_names(open_page: Any) -> None:
    page = open_page(SINGLE)
    wait_for_value(page, SATURDAY, "1,560")
    chart = page.get_by_test_id("stVegaLiteChart").first
    chart.locator("svg.marks").wait_for()
    chart.hover()
    page.get_by_role("button", name="Show data").first.click()
    header = page.locator("[data-testid=stDataFrame] [role=columnheader]")
    header.first.wait_for(state="attached")
    assert header.all_text_contents() == [
        "Day", "What", "Sales", "80 % from", "80 % to", "Open", "Promotion",
    ]  # fmt: skip
