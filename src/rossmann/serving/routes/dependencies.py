"""A route whose handler takes the request as it is: what FastAPI does for others costs too much.

It is in the OpenAPI text like any other; nothing is read, checked or written for it.
"""

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.routing import APIRoute
from starlette.types import ASGIApp, Receive, Scope, Send

Endpoint = Callable[[Request], Coroutine[Any, Any, Response]]


class DirectRoute(APIRoute):
    """Its endpoint is a coroutine from a request to an answer."""

    def __init__(self, path: str, endpoint: Endpoint, **more: Any) -> None:
        super().__init__(path, endpoint, **more)
        # Without dependencies there is nothing to keep open and to close around the endpoint, and
        # errors are answered by the same handlers one layer further out.
        self.app = _asking(endpoint)


def _asking(endpoint: Endpoint) -> ASGIApp:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        response = await endpoint(Request(scope, receive, send))
        await response(scope, receive, send)

    return app


def prioritize_direct_routes(app: FastAPI) -> None:
    """Look for these routes before all others: routes are tried one by one."""
    app.router.routes.sort(key=lambda route: not isinstance(route, DirectRoute))
