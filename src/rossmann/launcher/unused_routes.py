"""Routes of the embedded MLflow server that are refused: they run programs, or make requests.

MLflow has no authentication here, so whoever reaches it could use them: the assistant runs tools
on this machine, the gateway and webhooks send requests to addresses that a caller chooses, and jobs
evaluate with both. This product uses none of them.

MLflow's own tables of routes decide what is refused, after they have matched a request. No rule
reads paths of requests, so no spelling of a path passes one.
"""

import json
from typing import TYPE_CHECKING, Final

from starlette.routing import BaseRoute, Match

if TYPE_CHECKING:
    from fastapi import FastAPI
    from flask import Flask, Response
    from starlette.types import Receive, Scope, Send

_REFUSED: Final = ("/gateway", "/jobs", "/invoke", "promptlab", "online-config")
"""Parts of the paths that MLflow's own table names."""
_WEBHOOKS: Final = "/webhooks"
_READS: Final = {"GET", "HEAD", "OPTIONS", "DELETE"}
"""Webhooks of an earlier release can still be listed, and deleted: that sends nothing."""
_MESSAGE: Final = (
    "this server has no assistant, gateway, jobs and webhooks: they run programs or send requests"
    " for anyone who reaches it. Start an MLflow server of your own for them, and name it in"
    " ROSSMANN_MLFLOW_TRACKING_URI"
)
_BODY: Final = json.dumps({"error_code": "PERMISSION_DENIED", "message": _MESSAGE})


def refuse_unused_routes(app: "FastAPI", pages: "Flask") -> None:
    """From now on the routes are answered 403, for this process; ``pages``: mounted in ``app``."""
    from mlflow.server.assistant.api import assistant_router
    from mlflow.server.gateway_api import gateway_router
    from mlflow.server.job_api import job_api_router

    routers = (assistant_router, gateway_router, job_api_router)
    endpoints = {_endpoint(route) for router in routers for route in router.routes} - {None}
    routes = app.router.routes
    routes[:] = [_RefusedRoute(route) if _leads_to(route, endpoints) else route for route in routes]
    for rule in pages.url_map.iter_rules():
        is_change = bool((rule.methods or set()) - _READS)
        if any(part in rule.rule for part in _REFUSED) or (_WEBHOOKS in rule.rule and is_change):
            pages.view_functions[rule.endpoint] = _refuse_page


def _leads_to(route: BaseRoute, endpoints: set[object]) -> bool:
    """Whether it is, or includes, a route of one of the endpoints; FastAPI has had both forms."""
    included = getattr(route, "original_router", None)
    parts = included.routes if included else [route]
    return any(_endpoint(part) in endpoints for part in parts)


def _endpoint(route: BaseRoute) -> object:
    return getattr(route, "endpoint", None)


class _RefusedRoute(BaseRoute):
    """Matches what the route in it matches, and answers 403."""

    def __init__(self, route: BaseRoute) -> None:
        self._route = route

    def matches(self, scope: "Scope") -> "tuple[Match, Scope]":
        return self._route.matches(scope)

    async def handle(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        from starlette.responses import Response

        await Response(_BODY, 403, media_type="application/json")(scope, receive, send)


def _refuse_page(**_: object) -> "Response":
    from flask import Response

    return Response(_BODY, 403, mimetype="application/json")
