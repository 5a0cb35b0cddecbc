"""Tags set over MLflow's REST API: concurrently, and rejected ones."""

import time
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest

from rossmann.models.registry.mlflow_rest import MlflowRest, RequestRejectedError

THREADS = 4


def test_set_tag_from_concurrent_threads(mlflow_server: str) -> None:
    rest = MlflowRest(mlflow_server, timeout=30)
    name = f"tags-{time.time_ns()}"
    assert rest.create("registered-models/create", name=name)
    start = Barrier(THREADS)

    def write(key: str) -> None:
        start.wait(30)
        rest.set_tag("registered-models", name=name, key=key, value="same")

    with ThreadPoolExecutor(THREADS) as pool:
        for number in range(12):
            for future in [pool.submit(write, f"key{number}") for _ in range(THREADS)]:
                future.result()
    response = rest.call("GET", "registered-models/get", name=name) or {}
    assert len(response["registered_model"]["tags"]) == 12
    rest.close()


def test_set_tag_raises_for_an_invalid_key(mlflow_server: str) -> None:
    rest = MlflowRest(mlflow_server, timeout=30)
    name = f"tags-{time.time_ns()}"
    assert rest.create("registered-models/create", name=name)
    with pytest.raises(RequestRejectedError, match="400"):
        rest.set_tag("registered-models", name=name, key="no/../such", value="same")
    rest.close()
