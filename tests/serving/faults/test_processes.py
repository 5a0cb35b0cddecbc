"""Workers that die, a service that is told to stop, and versions that change: under load."""

import os
import signal
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import psutil
import pytest

Call = Callable[..., Any]


def workers_of(pid: int) -> list[psutil.Process]:
    """The supervisor's workers (its other child keeps count of shared things)."""
    found = []
    for child in psutil.Process(pid).children():
        with suppress(psutil.NoSuchProcess):  # one that has ended meanwhile
            if "spawn_main" in " ".join(child.cmdline()):
                found.append(child)
    return found


def test_a_killed_worker_is_started_again(
    run_door: Call, row: Call, ask: Call, until: Call, under_load: Call
) -> None:
    """Whoever it was answering sees the connection break, nobody else anything."""
    door = run_door(workers=2)
    body = {"inputs": [row()]}
    until("both workers", lambda: len(workers_of(door.process.pid)) == 2)
    truth = ask(door.url, body).json()["predictions"]
    clients = 6
    with under_load(door.url, body, clients=clients) as load:
        until("a load", lambda: load.answered > 50)
        victim = workers_of(door.process.pid)[0]
        os.kill(victim.pid, signal.SIGKILL)
        before = load.answered
        until("others to be answered", lambda: load.answered > before + 50)

        def whole_again() -> bool:
            now = workers_of(door.process.pid)
            return len(now) == 2 and victim.pid not in {worker.pid for worker in now}

        until("a new worker", whole_again)
        before = load.answered
        until("a load after it", lambda: load.answered > before + 50)
    assert set(load.codes) <= {0, 200}
    assert load.codes.count(0) <= clients  # one broken request a connection at most
    assert all(answer["predictions"] == truth for answer in load.bodies)
    door.stop()
    assert door.process.returncode in {0, -signal.SIGTERM}


@pytest.mark.parametrize("workers", [1, 2])
def test_told_to_stop_it_finishes_what_it_began(
    workers: int, run_door: Call, row: Call, until: Call, under_load: Call
) -> None:
    """What was begun is answered, what comes after is refused, and it ends by itself."""
    door = run_door(workers=workers)
    many = {"inputs": [row(1 + place % 40) for place in range(4_000)], "intervals": [0.8, 0.95]}
    with under_load(door.url, many, clients=4, pause=0) as load:
        until("a load", lambda: load.answered >= 4)
        door.process.send_signal(signal.SIGTERM)
        door.process.wait(60)
        until("refusals", lambda: "ConnectionRefused" in "".join(load.faults))
    assert door.process.returncode in {0, -signal.SIGTERM, 128 + signal.SIGTERM}
    assert set(load.codes) <= {0, 200}
    # Not one was cut off in its midst: a connection that ends does so between two answers.
    assert not [fault for fault in load.faults if "IncompleteRead" in fault]
    assert all(answer["count"] == 4_000 for answer in load.bodies)
    said = door.log.read_text()
    assert "Traceback" not in said
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", int(door.url.rpartition(":")[2])))


def test_told_to_stop_while_a_download_hangs(
    between: Any, run_door: Call, registered: list[int], promote: Call, row: Call, until: Call,
    under_load: Call,
) -> None:  # fmt: skip
    promote(registered[0])
    door = run_door(mlflow_tracking_uri=between.url, reload_seconds=0.2)
    between.only, between.mode = "mlflow-artifacts", "silent"
    asked = between.asked
    with under_load(door.url, {"inputs": [row()], "model_stage": registered[2]}, clients=1):
        until("the download", lambda: between.asked > asked + 3)
        door.process.send_signal(signal.SIGTERM)
        door.process.wait(45)  # the grace for what is in flight, not the download's minute


def test_versions_change_under_load(
    between: Any, run_door: Call, registered: list[int], promote: Call, row: Call, ask: Call,
    health: Call, until: Call, under_load: Call, mlflow_server: str,
) -> None:  # fmt: skip
    """No request fails, and each answer is all of the version that it names."""
    from rossmann.models.registry.registry import Registry

    promote(registered[0])
    door = run_door(mlflow_tracking_uri=between.url, reload_seconds=0.1)
    rows = [row(ahead) for ahead in range(1, 41)]
    truth = {
        number: ask(door.url, {"inputs": rows, "model_stage": number}).json()["predictions"]
        for number in registered
    }
    assert len({tuple(told) for told in truth.values()}) == 3
    with under_load(door.url, {"inputs": rows}, clients=3) as load:
        for version in (1, 2, 0, 2, 1):
            promote(registered[version])
            wanted = registered[version]
            until("taken over", lambda wanted=wanted: health(door.url)["model_version"] == wanted)
        with Registry(mlflow_server) as registry:
            back = registry.rollback("", "test").version
        until("rolled back", lambda: health(door.url)["model_version"] == back)
        before = load.answered
        until("answers after it", lambda: load.answered > before + 5)
    assert not load.faults and set(load.codes) == {200}
    assert {answer["model_version"] for answer in load.bodies} == set(registered)
    assert all(answer["predictions"] == truth[answer["model_version"]] for answer in load.bodies)
