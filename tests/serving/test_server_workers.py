"""Several workers: they share the connections, each tells the sum of all, none takes it along."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from threading import Barrier, Thread
from typing import Any

import httpx
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from rossmann.errors import PortInUseError
from rossmann.serving.observability.metrics import (
    MULTIPROC_DIR_VARIABLE,
    current_multiprocess_dir,
    multiprocess_dir,
)
from rossmann.serving.runtime.cpu_affinity import pinned_core, run_unpinned, set_affinity, unpinned
from rossmann.serving.server import bind

PREDICT = {"route": "/predict", "method": "POST", "code": "200"}


def told(url: str) -> dict[str, float]:
    """The page of whichever worker takes a new connection."""
    text = httpx.get(f"{url}/metrics", timeout=30, trust_env=False).text
    return {
        f"{sample.name}{sorted(sample.labels.items())}": sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(found: dict[str, float], name: str, **labels: str) -> float:
    return found.get(f"rossmann_{name}{sorted(labels.items())}", 0.0)


def workers_of(process: subprocess.Popen[bytes]) -> list[int]:
    """Children of the service that answer: a child that only tracks resources says so."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return [
        int(child)
        for child in children
        if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()
    ]


def wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def play(url: str, rows: list[Any], requests: int) -> None:
    for _ in range(requests):
        # A connection each, so that both workers get some.
        answer = httpx.post(f"{url}/predict", json={"inputs": rows}, timeout=30, trust_env=False)
        assert answer.status_code == 200


def connections_of(worker: int, port: int) -> int:
    found = psutil.Process(worker).net_connections("tcp")
    return sum(one.status == psutil.CONN_ESTABLISHED and one.laddr.port == port for one in found)


def fewest(workers: list[int], port: int) -> int:
    """Connections of the worker that gets fewer of 32 that are opened together."""
    wait_until(lambda: sum(connections_of(worker, port) for worker in workers) == 0)
    with ExitStack() as pool:
        for _ in range(32):
            pool.enter_context(socket.create_connection(("127.0.0.1", port)))
        wait_until(lambda: sum(connections_of(worker, port) for worker in workers) == 32)
        return min(connections_of(worker, port) for worker in workers)


def test_connections_that_come_together_are_shared(run_door: Any) -> None:
    door = run_door(workers=2)
    workers, port = workers_of(door.process), int(door.url.rpartition(":")[2])
    wait_until(lambda: fewest(workers, port) > 0)  # both have begun
    rounds = 10
    # one that takes all there are leaves the other 4 of 32
    assert sum(fewest(workers, port) for _ in range(rounds)) > rounds * 32 / 4


def test_a_port_of_several_workers_is_taken(run_door: Any) -> None:
    door = run_door(workers=2)
    with pytest.raises(PortInUseError):
        bind("127.0.0.1", int(door.url.rpartition(":")[2]))


def test_two_workers_tell_the_sum_and_outlive_one(run_door: Any, row: Any) -> None:
    door = run_door(workers=2, log_format="json")
    wait_until(lambda: value(told(door.url), "workers") == 2)
    play(door.url, [row(), row(2)], 60)
    for _ in range(12):  # whichever worker answers
        found = told(door.url)
        assert value(found, "http_requests_total", **PREDICT) == 60
        assert value(found, "http_request_seconds_count", route="/predict") == 60
        assert value(found, "rows_total", door="predict") == 120
        assert value(found, "model_version", stage="Production") == 1
    victim = workers_of(door.process)[0]
    os.kill(victim, signal.SIGKILL)
    wait_until(lambda: victim not in workers_of(door.process) and len(workers_of(door.process)) > 1)
    wait_until(lambda: value(told(door.url), "workers") == 2)
    after = told(door.url)
    for name, before in found.items():
        if "_total[" in name or "_count[" in name or "_bucket[" in name:
            assert after[name] >= before, name
    assert value(after, "worker_starts_total") == 3
    play(door.url, [row()], 30)
    for _ in range(12):
        assert value(told(door.url), "http_requests_total", **PREDICT) == 90
    said = door.stop()
    assert "Traceback" not in said
    assert said.count('"route":"/predict"') == 90
    parts = {json.loads(line).get("part") for line in said.splitlines()}  # each line is JSON
    assert parts >= {None, "server"}


def test_the_folder_goes_with_the_service(tmp_path: Path) -> None:
    with multiprocess_dir(tmp_path) as folder:
        assert folder.is_dir() and folder.parent == tmp_path
        with multiprocess_dir(tmp_path) as other:  # of a second service on this machine
            assert folder.is_dir() and other != folder
        assert not other.exists()
    assert list(tmp_path.iterdir()) == []


def test_the_folder_of_a_killed_service_is_removed_by_the_next(tmp_path: Path) -> None:
    hold = (
        "import sys, time; from pathlib import Path\n"
        "from rossmann.serving.observability.metrics import metrics_folder\n"
        f"with metrics_folder(Path({str(tmp_path)!r})) as folder:\n"
        "    print(folder, flush=True); time.sleep(600)"
    )
    process = subprocess.Popen([sys.executable, "-c", hold], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    left = Path(process.stdout.readline().strip())
    with multiprocess_dir(tmp_path):
        assert left.is_dir()  # it lives: its numbers are its own
    process.kill()
    process.communicate()
    assert left.is_dir()
    with multiprocess_dir(tmp_path):
        assert not left.exists()


@pytest.mark.parametrize("environment", [{}, {MULTIPROC_DIR_VARIABLE: ""}])
def test_one_worker_needs_no_folder(environment: dict[str, str]) -> None:
    assert current_multiprocess_dir(environment) is None
    assert current_multiprocess_dir({MULTIPROC_DIR_VARIABLE: "here"}) == Path("here")


@pytest.fixture
def two_cores() -> Iterator[set[int]]:
    """This thread, and what it starts, on two cores."""
    every = os.sched_getaffinity(0)
    if len(every) < 2:
        pytest.skip("this machine has one core")
    some = set(sorted(every)[:2])
    os.sched_setaffinity(0, some)
    yield some
    os.sched_setaffinity(0, every)


def loops_of(process: subprocess.Popen[bytes]) -> list[set[int]]:
    """The cores of each worker's loop, which is its first thread."""
    found = []
    for worker in workers_of(process):
        with suppress(ProcessLookupError):
            found.append(os.sched_getaffinity(worker))
    return found


def test_each_loop_has_a_core_where_there_is_one_for_each(
    two_cores: set[int], run_door: Any
) -> None:
    process = run_door(workers=2).process
    each = [{core} for core in sorted(two_cores)]
    wait_until(lambda: sorted(loops_of(process), key=min) == each)
    killed = workers_of(process)[0]
    os.kill(killed, signal.SIGKILL)
    # The next one takes the core that is free again.
    wait_until(lambda: killed not in workers_of(process))
    wait_until(lambda: sorted(loops_of(process), key=min) == each)


def test_threads_that_compute_roam(two_cores: set[int], tmp_path: Path) -> None:
    seen: dict[str, set[int]] = {}

    def see(name: str) -> None:
        seen[name] = os.sched_getaffinity(0)

    with ThreadPoolExecutor(1, initializer=unpinned()) as pool, pinned_core(2, tmp_path) as core:
        see("loop")
        pool.submit(see, "pool").result()
        beside = Thread(target=see, args=("beside",))
        beside.start()
        beside.join()
        freed = Thread(target=run_unpinned(see), args=("made within",))
        freed.start()
        freed.join()
        with pinned_core(2, tmp_path) as none:
            assert none is None  # one core of one: there is nothing to choose
    see("after")
    assert core in two_cores
    assert seen == {
        "loop": {core},
        "pool": two_cores,
        "beside": {core},
        "made within": {core},
        "after": two_cores,
    }


def test_cores_that_are_not_ours_are_left_alone(two_cores: set[int]) -> None:
    set_affinity({4095})
    assert os.sched_getaffinity(0) == two_cores


def test_siblings_take_different_cores(two_cores: set[int], tmp_path: Path) -> None:
    def take() -> int | None:
        os.sched_setaffinity(0, two_cores)
        with pinned_core(2, tmp_path) as core:
            both.wait(30)
            return core

    both = Barrier(2)
    with ThreadPoolExecutor(2) as pool:
        assert {one.result() for one in [pool.submit(take) for _ in range(2)]} == two_cores


def test_one_alone_keeps_to_no_core(two_cores: set[int], tmp_path: Path) -> None:
    for workers, folder in ((2, None), (1, tmp_path), (3, tmp_path)):
        with pinned_core(workers, folder) as core:
            assert core is None
            assert os.sched_getaffinity(0) == two_cores
