"""A route whose handler takes the request as it is: what FastAPI does for others costs too much.

It is in the OpenAPI text like any other; nothing is read, checked or written for it.
"""

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute


class BareRoute(APIRoute):
    """Its endpoint is a coroutine from a request to an answer."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The endpoint itself."""
        return self.endpoint
