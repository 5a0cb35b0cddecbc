"""The dashboard as an ASGI application: Streamlit's own, with headers that limit the browser.

``streamlit run`` finds ``app`` here. Pages escape what is not ours; this is the second line of
defence: a browser fetches from, and sends to, the dashboard's own address only.
"""

from importlib.resources import files
from pathlib import Path
from typing import Final

from starlette.datastructures import MutableHeaders
from starlette.middleware import Middleware
from starlette.routing import Mount
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocketDisconnected
from streamlit.starlette import App

from rossmann.dashboard.shared.page_elements import PAGE_SCRIPT
from rossmann.settings import load_settings
from rossmann.web import PATH, DocumentationSite, content_policy

SCRIPT: Final = Path(__file__).with_name("app.py")


def content_security_policy() -> str:
    """Only own files; of inline scripts only ours and that of Streamlit's page, by digest."""
    page = files("streamlit").joinpath("static", "index.html").read_text("utf-8")
    changes = {
        "font-src": "'self' data:",
        "img-src": "'self' data: blob:",
        "media-src": "'self' blob:",
        "worker-src": "'self' blob:",
        "manifest-src": "'self'",
        "base-uri": "'self'",
    }
    return content_policy((page + PAGE_SCRIPT).encode(), changes)


class ClosedPageMiddleware:
    """Ends a WebSocket whose page was closed while Streamlit still wrote to it.

    Streamlit 1.67 closes such a socket a second time, which would log a fault with a stack trace.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the connection on."""
        try:
            await self._app(scope, receive, send)
        except WebSocketDisconnected:
            return  # nobody is there any more


class SecurityHeadersMiddleware:
    """Adds the same headers to every response."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._policy = content_security_policy()
        self._headers = {"Referrer-Policy": "no-referrer", "X-Content-Type-Options": "nosniff"}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, and add the headers to its response."""

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(self._headers)
                # A page of the documentation has scripts of its own, and a policy that names them.
                headers.setdefault("Content-Security-Policy", self._policy)
            await send(message)

        await self._app(scope, receive, send_with_headers if scope["type"] == "http" else send)


def routes() -> list[Mount]:
    """The documentation, below ``/documentation/`` of the dashboard."""
    settings = load_settings()
    site = DocumentationSite(settings.site_dir)
    return [Mount(f"{settings.dashboard_base_path}{PATH}", site)]


MIDDLEWARE: Final = (Middleware(ClosedPageMiddleware), Middleware(SecurityHeadersMiddleware))
# Streamlit looks for this call in the script's text.
app = App(SCRIPT, middleware=MIDDLEWARE, routes=routes())
