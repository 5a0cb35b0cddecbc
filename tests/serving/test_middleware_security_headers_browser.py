"""Security headers in a real browser: /docs works, foreign sites are blocked."""

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
POST_SCRIPT = """async url => {
  try { return (await fetch(url, {method: "POST"})).status } catch (error) { return String(error) }
}"""


@contextmanager
def foreign_site(url: str) -> Iterator[str]:
    """A site that shows the docs page in a frame."""

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


def test_docs_page_works_under_its_content_security_policy(
    browser: Any, live: Live, make_app: App
) -> None:
    with live(make_app()) as url:
        page = browser.new_page()
        messages: list[str] = []
        page.on("console", lambda message: messages.append(message.text))
        page.goto(f"{url}/docs")
        page.locator(".info .title").wait_for()
        page.locator("#operations-state-live_health_live_get").click()
        page.get_by_role("button", name="Try it out").click()
        page.get_by_role("button", name="Execute").click()
        page.locator(".live-responses-table", has_text="alive").wait_for()
        assert [text for text in messages if "Content Security Policy" in text] == []
        # An injected inline script does not run.
        page.evaluate("""() => {
            const script = document.createElement("script")
            script.textContent = "window.injected = true"
            document.body.append(script)
        }""")
        assert page.evaluate("() => window.injected") is None
        page.close()


def test_foreign_site_can_neither_frame_nor_read_nor_post(
    browser: Any, live: Live, make_app: App, registry: Any
) -> None:
    with live(make_app()) as url, foreign_site(url) as site_url:
        page = browser.new_page()
        messages: list[str] = []
        page.on("console", lambda message: messages.append(message.text))
        page.goto(site_url)
        page.wait_for_load_state("networkidle")
        assert any("frame" in text.lower() for text in messages), messages
        assert "Failed to fetch" in page.evaluate(POST_SCRIPT, f"{url}/models/2/promote")
        assert registry.by_version[2].tags == {}
        page.close()
    # A configured origin may read and, without keys, post.
    with foreign_site("") as site_url, live(make_app(cors_origins=(site_url,))) as url:
        page = browser.new_page()
        page.goto(site_url)
        assert page.evaluate(POST_SCRIPT, f"{url}/models/2/promote") == 200
        page.close()
