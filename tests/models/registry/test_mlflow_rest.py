"""The REST calls that MLflow's own ways make hard."""

import time
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest

from rossmann.models.registry.mlflow_rest import MlflowRest, RequestRejectedError

TOGETHER = 4


def test_a_tag_is_set_however_many_set_it_at_once(mlflow_server: str) -> None:
    rest = MlflowRest(mlflow_server, timeout=30)
    name = f"tags-{time.time_ns()}"
    assert rest.create("registered-models/create", name=name)
    start = Barrier(TOGETHER)

    def write(key: str) -> None:
        start.wait(30)
        rest.set_tag("registered-models", name=name, key=key, value="same")

    with ThreadPoolExecutor(TOGETHER) as pool:
        for turn in range(12):
            for done in [pool.submit(write, f"key{turn}") for _ in range(TOGETHER)]:
                done.result()
    answer = rest.call("GET", "registered-models/get", name=name) or {}
    assert len(answer["registered_model"]["tags"]) == 12
    rest.close()


def test_a_tag_that_may_not_be_set_is_refused(mlflow_server: str) -> None:
    rest = MlflowRest(mlflow_server, timeout=30)
    name = f"tags-{time.time_ns()}"
    assert rest.create("registered-models/create", name=name)
    with pytest.raises(RequestRejectedError, match="400"):
        rest.set_tag("registered-models", name=name, key="no/../such", value="same")
    rest.close()
