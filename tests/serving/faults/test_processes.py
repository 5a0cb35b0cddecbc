"""Killed workers, SIGTERM and version changes under load."""

import json
import os
import signal
import socket
from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import Any

import psutil
import pytest

Call = Callable[..., Any]
STOPPED_BY_SIGTERM = {0, -signal.SIGTERM}


def find_workers(pid: int) -> list[psutil.Process]:
    """The supervisor's workers, without multiprocessing's resource tracker."""
    workers = []
    for child in psutil.Process(pid).children():
        with suppress(psutil.NoSuchProcess):  # it ended meanwhile
            if "spawn_main" in " ".join(child.cmdline()):
                workers.append(child)
    return workers


def test_killed_worker_is_restarted(
    run_service: Call, row: Call, post_predict: Call, wait_until: Call, under_load: Call
) -> None:
    """Only the requests of the killed worker fail, and the log says so."""
    service = run_service(workers=2, log_format="json")
    body = {"inputs": [row()]}
    wait_until("both workers", lambda: len(find_workers(service.process.pid)) == 2)
    expected = post_predict(service.url, body).json()["predictions"]
    clients = 6
    with under_load(service.url, body, clients=clients) as load:
        wait_until("load", lambda: load.success_count > 50)
        killed = find_workers(service.process.pid)[0]
        os.kill(killed.pid, signal.SIGKILL)
        before = load.success_count
        wait_until("other responses", lambda: load.success_count > before + 50)

        def is_replaced() -> bool:
            workers = find_workers(service.process.pid)
            return len(workers) == 2 and killed.pid not in {worker.pid for worker in workers}

        wait_until("a new worker", is_replaced)
        before = load.success_count
        wait_until("load after it", lambda: load.success_count > before + 50)
    assert set(load.codes) <= {0, 200}
    assert load.codes.count(0) <= clients  # at most one failed request per connection
    assert all(response["predictions"] == expected for response in load.bodies)
    lines = [json.loads(line) for line in service.stop().splitlines()]
    deaths = [line for line in lines if line["event"].startswith("a worker ended")]
    assert [line["level"] for line in deaths] == ["warning"]
    assert deaths[0].items() >= {"pid": killed.pid, "exit_code": -signal.SIGKILL}.items()
    assert service.process.returncode in STOPPED_BY_SIGTERM


@pytest.mark.parametrize("workers", [pytest.param(1, marks=pytest.mark.nightly), 2])
def test_sigterm_finishes_requests_in_flight(
    workers: int, run_service: Call, row: Call, wait_until: Call, under_load: Call
) -> None:
    """Later connections are refused, and the process ends."""
    service = run_service(workers=workers)
    rows = [row(1 + index % 40) for index in range(4_000)]
    body = {"inputs": rows, "intervals": [0.8, 0.95]}
    with under_load(service.url, body, clients=4, pause=0) as load:
        wait_until("load", lambda: load.success_count >= 4)
        service.process.send_signal(signal.SIGTERM)
        service.process.wait(60)
        wait_until("refusals", lambda: "ConnectionRefused" in "".join(load.errors))
    assert service.process.returncode in STOPPED_BY_SIGTERM | {128 + signal.SIGTERM}
    assert set(load.codes) <= {0, 200}
    # Connections are closed between responses, never within one.
    assert not [error for error in load.errors if "IncompleteRead" in error]
    assert all(response["count"] == 4_000 for response in load.bodies)
    assert "Traceback" not in service.log.read_text()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", int(service.url.rpartition(":")[2])))


def test_sigterm_ends_a_service_with_a_hanging_download(
    mlflow_proxy: Any, run_service: Call, registered_versions: list[int], promote: Call, row: Call,
    wait_until: Call, under_load: Call,
) -> None:  # fmt: skip
    promote(registered_versions[0])
    service = run_service(mlflow_tracking_uri=mlflow_proxy.url, reload_seconds=0.2)
    mlflow_proxy.fail("hang", only="mlflow-artifacts")
    before = mlflow_proxy.request_count
    body = {"inputs": [row()], "model_stage": registered_versions[2]}
    with under_load(service.url, body, clients=1):
        wait_until("the download", lambda: mlflow_proxy.request_count > before + 3)
        service.process.send_signal(signal.SIGTERM)
        service.process.wait(45)  # the grace period, not the download's timeout of 60 s


def test_versions_change_under_load(
    mlflow_proxy: Any, run_service: Call, registered_versions: list[int], promote: Call, row: Call,
    post_predict: Call, get_health: Call, wait_until: Call, under_load: Call, mlflow_server: str,
) -> None:  # fmt: skip
    """No request fails, and each response has the forecasts of the version that it names."""
    from rossmann.models.registry.registry import Registry

    promote(registered_versions[0])
    service = run_service(mlflow_tracking_uri=mlflow_proxy.url, reload_seconds=0.1)
    rows = [row(ahead) for ahead in range(1, 41)]
    expected = {
        version: post_predict(service.url, {"inputs": rows, "model_stage": version}).json()[
            "predictions"
        ]
        for version in registered_versions
    }
    assert len({tuple(predictions) for predictions in expected.values()}) == 3

    def wait_for_version(version: int) -> None:
        wait_until(
            f"version {version}", lambda: get_health(service.url)["model_version"] == version
        )

    with under_load(service.url, {"inputs": rows}, clients=3) as load:
        for index in (1, 2, 0, 2, 1):
            promote(registered_versions[index])
            wait_for_version(registered_versions[index])
        with Registry(mlflow_server) as registry:
            previous = registry.rollback("", "test").version
        wait_for_version(previous)
        before = load.success_count
        wait_until("responses after it", lambda: load.success_count > before + 5)
    assert not load.errors and set(load.codes) == {200}
    assert {response["model_version"] for response in load.bodies} == set(registered_versions)
    for response in load.bodies:
        assert response["predictions"] == expected[response["model_version"]]


def test_more_idle_connections_than_the_usual_limit_of_files(
    run_service: Call, get_health: Call
) -> None:
    """The service raises the limit that it inherits, and still accepts."""
    service = run_service(open_files=128)
    address = ("127.0.0.1", int(service.url.rpartition(":")[2]))
    with ExitStack() as idle:
        for _ in range(200):
            idle.enter_context(socket.create_connection(address, timeout=10))
        assert get_health(service.url)["model_loaded"]
    assert "Too many open files" not in service.stop()
