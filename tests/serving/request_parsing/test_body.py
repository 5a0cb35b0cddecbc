"""Bodies that cost more than they seem to: packed ones, and ones that never end."""

import gzip
import json
from collections.abc import Callable
from typing import Any

from fastapi import FastAPI
from fastapi.testclient import TestClient

App = Callable[..., FastAPI]
GZIP = {"Content-Encoding": "gzip"}


def test_gzip_that_unpacks_to_much_more_is_413(make_app: App, api: TestClient, row: Any) -> None:
    dense = gzip.compress(b" " * 2**23)
    response = api.post("/predict", content=dense, headers=GZIP)
    assert response.status_code == 413
    detail = response.json()["detail"][0]
    assert detail["type"] == "gzip_ratio" and "send it plain" in detail["msg"]
    # Many members, each of them short.
    members = gzip.compress(b"[" * 2**16) * 200
    assert api.post("/predict", content=members, headers=GZIP).status_code in {413, 422}
    # Rows of a chain, indented, and a short body of any ratio.
    rows = [row(n % 40 + 1, Store=n % 40 + 1) for n in range(4_000)]
    for content in (json.dumps({"inputs": rows}, indent=4), json.dumps({"inputs": [row()] * 900})):
        packed = gzip.compress(content.encode())
        assert api.post("/predict", content=packed, headers=GZIP).status_code == 200
    with TestClient(make_app(max_body_mb=1)) as client:
        long = client.post("/predict", content=gzip.compress(b" " * 2**21), headers=GZIP)
        assert "at most 1 MB" in long.json()["detail"][0]["msg"]
