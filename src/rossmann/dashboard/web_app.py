"""The dashboard as an ASGI application: Streamlit's own, with headers that limit the browser.

``streamlit run`` finds ``app`` here. Pages escape what is not ours; this is the second line of
defence: a browser fetches from, and sends to, the dashboard's own address only.
"""

import base64
import hashlib
import re
from importlib.resources import files
from pathlib import Path
from typing import Final

from starlette.datastructures import MutableHeaders
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from streamlit.starlette import App

from rossmann.dashboard.shared.page_style import PAGE_SCRIPT

SCRIPT: Final = Path(__file__).with_name("app.py")


def content_security_policy() -> str:
    """Only own files; of inline scripts only ours and that of Streamlit's page, by digest."""
    page = files("streamlit").joinpath("static", "index.html").read_text("utf-8")
    scripts = re.findall(r"<script>(.*?)</script>", page + PAGE_SCRIPT, re.DOTALL)
    digests = [
        f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
        for script in scripts
    ]
    return "; ".join(
        (
            "default-src 'none'",
            " ".join(("script-src 'self'", *digests)),
            "style-src 'self' 'unsafe-inline'",  # Streamlit makes its style sheets in the page
            "font-src 'self' data:",
            "img-src 'self' data: blob:",
            "media-src 'self' blob:",
            "connect-src 'self'",
            "worker-src 'self' blob:",
            "manifest-src 'self'",
            "base-uri 'self'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        )
    )


class SecurityHeadersMiddleware:
    """Adds the same headers to every response."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._headers = {
            "Content-Security-Policy": content_security_policy(),
            "Referrer-Policy": "no-referrer",
            "X-Content-Type-Options": "nosniff",
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, and add the headers to its response."""

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(self._headers)
            await send(message)

        await self._app(scope, receive, send_with_headers if scope["type"] == "http" else send)


MIDDLEWARE: Final = (Middleware(SecurityHeadersMiddleware),)
app = App(SCRIPT, middleware=MIDDLEWARE)
