"""What a real browser makes of the headers: the page of /docs works, other sites read nothing."""

import http.server
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest
from fastapi import FastAPI

pytestmark = pytest.mark.browser
App = Callable[..., FastAPI]
Live = Callable[[FastAPI], AbstractContextManager[str]]
ORDER = """async url => {
  try { return (await fetch(url, {method: "POST"})).status } catch (error) { return String(error) }
}"""


@contextmanager
def another_site(url: str) -> Iterator[str]:
    """A site whose page shows ours in a frame."""

    class Site(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = f'<iframe src="{url}/docs"></iframe>'.encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Site) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def test_the_page_of_docs_works(browser: Any, live: Live, make_app: App) -> None:
    with live(make_app()) as url:
        page = browser.new_page()
        said: list[str] = []
        page.on("console", lambda message: said.append(message.text))
        page.goto(f"{url}/docs")
        page.locator(".info .title").wait_for()
        page.locator("#operations-state-live_health_live_get").click()
        page.get_by_role("button", name="Try it out").click()
        page.get_by_role("button", name="Execute").click()
        page.locator(".live-responses-table", has_text="alive").wait_for()
        assert [text for text in said if "Content Security Policy" in text] == []
        # A script that somebody gets into the page does not run.
        page.evaluate("""() => {
            const script = document.createElement("script")
            script.textContent = "window.intruded = true"
            document.body.append(script)
        }""")
        assert page.evaluate("() => window.intruded") is None
        page.close()


def test_another_site_frames_reads_and_orders_nothing(
    browser: Any, live: Live, make_app: App, registry: Any
) -> None:
    with live(make_app()) as url, another_site(url) as other:
        page = browser.new_page()
        said: list[str] = []
        page.on("console", lambda message: said.append(message.text))
        page.goto(other)
        page.wait_for_load_state("networkidle")
        assert any("frame" in text.lower() for text in said), said
        assert "Failed to fetch" in page.evaluate(ORDER, f"{url}/models/2/promote")
        assert registry.shelf[2].tags == {}
        page.close()
    # A site that is named may read; and order, where no key is needed.
    with another_site("") as other, live(make_app(cors_origins=(other,))) as url:
        page = browser.new_page()
        page.goto(other)
        assert page.evaluate(ORDER, f"{url}/models/2/promote") == 200
        page.close()
