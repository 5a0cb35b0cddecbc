"""The typed client against a live service: typed responses and errors."""

import hashlib
import socket
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest
from fastapi import FastAPI

from rossmann.data.panel.panel import Panel
from rossmann.errors import (
    AuthenticationError,
    GateRejectedError,
    PayloadTooLargeError,
    PermissionDeniedError,
    RequestError,
    ServiceError,
    VersionNotFoundError,
)
from rossmann.serving.client.client import Client

Live = Callable[[FastAPI], AbstractContextManager[str]]
App = Callable[..., FastAPI]


def test_every_client_method(
    live: Live, make_app: App, row: Any, panel: Panel, registry: Any
) -> None:
    registry.add(13)
    with live(make_app()) as url, Client(url) as client:
        assert client.health().model_version == 1
        assert client.model_info().staging_version == 2
        assert len(client.stores()) == len(panel.store_numbers)
        assert client.store(1).store == 1
        assert len(client.history(1, days=5).days) == 5
        assert client.history(1, until="2015-01-31").until.isoformat() == "2015-01-31"
        plan = client.plan(1, days=3)
        rows = [planned.model_dump(mode="json", exclude={"scheduled"}) for planned in plan.rows]
        response = client.predict(rows, stage="Staging", intervals=[0.8])
        assert response.model_version == 2 and len(response.intervals[0].lower) == 3
        assert client.predict(rows, as_of="2015-06-30").as_of == "2015-06-30"
        response = client.predict(rows, quantiles=[0.1, 0.9])
        assert [(q.quantile, len(q.sales)) for q in response.quantiles] == [(0.1, 3), (0.9, 3)]
        assert client.load(3).model_version == 3
        assert client.promote(2, "why not").stage == "Production"
        assert client.rollback().version == 1
        assert [v.version for v in client.models()] == [13, 3, 2, 1]
        with pytest.raises(GateRejectedError):
            client.promote(13)


def test_error_responses_raise_typed_errors(live: Live, make_app: App, row: Any) -> None:
    with live(make_app(max_rows=3)) as url, Client(url) as client:
        with pytest.raises(RequestError) as caught:
            client.predict([row(), row(Store=4444, Open=2)])
        assert [f.loc for f in caught.value.errors] == [
            ("inputs", 1, "Store"),
            ("inputs", 1, "Open"),
        ]
        with pytest.raises(PayloadTooLargeError, match="at most 3 rows"):
            client.predict([row()] * 4)
        with pytest.raises(VersionNotFoundError, match="Production"):
            client.predict([row()], stage="Nowhere")
        with pytest.raises(RequestError, match="Store must be between"):
            client.history(4444)


def test_call_after_a_rejected_oversized_body_works(live: Live, make_app: App, row: Any) -> None:
    with live(make_app(max_body_mb=1)) as url, Client(url) as client:
        for _ in range(3):
            with pytest.raises((PayloadTooLargeError, ServiceError)):
                client.predict([row()] * 30_000)
            assert client.predict([row()]).count == 1


def test_api_key_errors(live: Live, make_app: App, row: Any) -> None:
    digest = hashlib.sha256(b"see").hexdigest()
    with live(make_app(api_keys=f"predict:{digest}")) as url:
        with Client(url) as client, pytest.raises(AuthenticationError):
            client.predict([row()])
        with Client(url, api_key="see") as client:
            assert client.predict([row()]).count == 1
            with pytest.raises(PermissionDeniedError):
                client.rollback()


def test_unreachable_service_raises_service_error() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        with Client(url) as client, pytest.raises(ServiceError, match=r"is away.*rossmann serve"):
            client.health()


def test_response_of_another_service_raises_service_error(live: Live) -> None:
    other = FastAPI()
    other.add_api_route("/health", lambda: {"fine": True})
    with live(other) as url, Client(url) as client:
        with pytest.raises(ServiceError, match="is not this service"):
            client.health()
        with pytest.raises(ServiceError, match="404"):
            client.stores()
