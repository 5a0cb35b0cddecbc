"""FastAPI dependencies and parameter types of the routes, and a route class without overhead."""

import re
from collections.abc import Callable, Coroutine
from typing import Annotated, Any, Final

from fastapi import FastAPI, Path, Query, Request, Response
from fastapi.routing import APIRoute
from pydantic import BeforeValidator
from pydantic_core import PydanticCustomError
from starlette.types import ASGIApp, Receive, Scope, Send

from rossmann.errors import ErrorDetail, RequestError
from rossmann.serving.access.access_control import AccessControl
from rossmann.serving.access.api_keys import Permission

_DIGITS: Final = re.compile(r"-?[0-9]+")


def _require_digits(value: object) -> object:
    """Python's ``int`` would accept ``1_0``, surrounding blanks and ``1.0``."""
    if isinstance(value, str) and not _DIGITS.fullmatch(value):
        raise PydanticCustomError("int_parsing", "must be a whole number, in digits")
    return value


StrictInteger: Final = BeforeValidator(_require_digits)
"""Integers as JSON writes them, for the ``Annotated`` type of a path or query parameter."""
StoreNumber = Annotated[int, StrictInteger, Path(description="number of the store")]
DayCount = Annotated[int, StrictInteger, Query(ge=1, le=1100, description="how many days")]
UntilDay = Annotated[
    str | None, Query(description="YYYY-MM-DD; without it, the last day of history")
]
FromDay = Annotated[str | None, Query(description="YYYY-MM-DD; without it, the day after history")]


async def reject_unknown_query_params(request: Request) -> None:
    """A dependency: raises ``RequestError`` for unknown and for repeated query parameters.

    FastAPI would ignore a misspelled one and answer as if it were not given, and take the last of
    several.
    """
    known = [field.alias for field in request.scope["route"].dependant.query_params]
    choice = f"there are: {', '.join(known)}" if known else "there are none"
    errors = [
        ErrorDetail(
            ("query", name[:80]), f"{name[:80]} is not an option; {choice}", "extra_forbidden"
        )
        if name not in known
        else ErrorDetail(("query", name), f"{name} is given more than once", "repeated_key")
        for name in request.query_params
        if name not in known or len(request.query_params.getlist(name)) > 1
    ]
    if errors:
        raise RequestError(errors)


class RequiredPermission:
    """A dependency: the caller's name; raises where they lack the permission."""

    def __init__(self, access_control: AccessControl, permission: Permission) -> None:
        self._access_control = access_control
        self.permission = permission

    async def __call__(self, request: Request) -> str:
        """Authorize the call."""
        return (await self._access_control.authorize(request, self.permission)).name


DirectEndpoint = Callable[[Request], Coroutine[Any, Any, Response]]


class DirectRoute(APIRoute):
    """A route whose endpoint gets the request and returns the response, both untouched.

    It is in the OpenAPI document like any other. FastAPI's own work for a route would cost more
    than the whole request.
    """

    def __init__(self, path: str, endpoint: DirectEndpoint, **options: Any) -> None:
        super().__init__(path, endpoint, **options)
        # No dependencies: nothing must be closed after the endpoint, and errors are answered by
        # the same handlers one layer further out.
        self.app = _direct_app(endpoint)


def _direct_app(endpoint: DirectEndpoint) -> ASGIApp:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        response = await endpoint(Request(scope, receive, send))
        await response(scope, receive, send)

    return app


def prioritize_direct_routes(app: FastAPI) -> None:
    """Put these routes before all others: routes are matched one by one."""
    app.router.routes.sort(key=lambda route: not isinstance(route, DirectRoute))
