"""ASGI middleware for a base path: the same routes with it and without it.

Some proxies remove the base path before they pass a request on, others do not, and health checks
on this machine need not know it. ASGI wants ``path`` to hold ``root_path``: here it always does.
"""

from typing import Final

from fastapi import FastAPI
from starlette.types import ASGIApp, Receive, Scope, Send

from rossmann.errors import SettingsError


class BasePathMiddleware:
    """Puts the base path before paths that lack it; the outermost middleware."""

    def __init__(self, app: ASGIApp, base_path: str) -> None:
        self._app: Final = app
        self._base: Final = base_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        if scope["type"] == "http":
            path: str = scope["path"]
            if path == self._base:
                scope["path"] = f"{path}/"
            elif not path.startswith(f"{self._base}/"):
                scope["path"] = f"{self._base}{path}"
        await self._app(scope, receive, send)


def add_base_path(app: FastAPI, base_path: str) -> None:
    """Serve all routes of ``app`` below ``base_path`` too; does nothing for an empty one.

    Raises ``SettingsError`` where it begins as a route does: a path could mean either.
    """
    if not base_path:
        return
    first = base_path.split("/")[1]
    # Routes of included routers are in the document only, those of /docs among the routes only.
    paths = [*app.openapi()["paths"], *(str(getattr(route, "path", "/")) for route in app.routes)]
    taken = {path.split("/")[1] for path in paths}
    if first in taken:
        raise SettingsError(
            f"ROSSMANN_API_BASE_PATH: {base_path} begins as a path of the API does (/{first});"
            " choose another first part, such as /forecasts"
        )
    app.root_path = base_path
    app.add_middleware(BasePathMiddleware, base_path=base_path)
