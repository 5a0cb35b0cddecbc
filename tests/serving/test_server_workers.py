"""Several workers: shared connections, summed metrics, CPU affinity."""

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
from datetime import datetime
from itertools import pairwise
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
from tests.fixtures.networks import free_port

PREDICT = {"route": "/predict", "method": "POST", "code": "200"}


def scrape(url: str) -> dict[str, float]:
    """Metrics of the worker that accepts a new connection."""
    text = httpx.get(f"{url}/metrics", timeout=30, trust_env=False).text
    return {
        f"{sample.name}{sorted(sample.labels.items())}": sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(metrics: dict[str, float], name: str, **labels: str) -> float:
    return metrics.get(f"rossmann_{name}{sorted(labels.items())}", 0.0)


def workers_of(process: subprocess.Popen[bytes]) -> list[int]:
    """Process ids of the workers, without Python's resource tracker."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return [
        int(child)
        for child in children
        if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()
    ]


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def send_requests(url: str, rows: list[Any], requests: int) -> None:
    for _ in range(requests):
        # One connection for each request, so that both workers get some.
        response = httpx.post(f"{url}/predict", json={"inputs": rows}, timeout=30, trust_env=False)
        assert response.status_code == 200


def connections_of(worker: int, port: int) -> int:
    connections = psutil.Process(worker).net_connections("tcp")
    return sum(c.status == psutil.CONN_ESTABLISHED and c.laddr.port == port for c in connections)


def min_connections_per_worker(workers: list[int], port: int) -> int:
    """The smallest number of connections of a worker, of 32 opened at once."""
    wait_until(lambda: sum(connections_of(worker, port) for worker in workers) == 0)
    with ExitStack() as pool:
        for _ in range(32):
            pool.enter_context(socket.create_connection(("127.0.0.1", port)))
        wait_until(lambda: sum(connections_of(worker, port) for worker in workers) == 32)
        return min(connections_of(worker, port) for worker in workers)


def test_simultaneous_connections_are_shared_between_workers(run_service: Any) -> None:
    service = run_service(workers=2)
    workers, port = workers_of(service.process), int(service.url.rpartition(":")[2])
    wait_until(lambda: min_connections_per_worker(workers, port) > 0)  # both workers accept
    rounds = 10

    def are_shared() -> bool:
        fewest = sum(min_connections_per_worker(workers, port) for _ in range(rounds))
        return fewest > rounds * 32 / 4

    # One greedy worker would leave the other about 4 of 32, always. Where other tests take the
    # cores, the worker that runs accepts what comes meanwhile: so several attempts.
    assert any(are_shared() for _ in range(10))


def test_bind_to_the_port_of_running_workers_fails(run_service: Any) -> None:
    service = run_service(workers=2)
    with pytest.raises(PortInUseError):
        bind("127.0.0.1", int(service.url.rpartition(":")[2]))


def test_metrics_are_summed_over_workers_and_survive_a_killed_worker(
    run_service: Any, row: Any
) -> None:
    service = run_service(workers=2, log_format="json")
    wait_until(lambda: value(scrape(service.url), "workers") == 2)
    send_requests(service.url, [row(), row(2)], 60)
    for _ in range(12):  # both workers respond
        metrics = scrape(service.url)
        assert value(metrics, "http_requests_total", **PREDICT) == 60
        assert value(metrics, "http_request_seconds_count", route="/predict") == 60
        assert value(metrics, "rows_total", door="predict") == 120
        assert value(metrics, "model_version", stage="Production") == 1
    victim = workers_of(service.process)[0]
    os.kill(victim, signal.SIGKILL)
    wait_until(
        lambda: victim not in workers_of(service.process) and len(workers_of(service.process)) > 1
    )
    wait_until(lambda: value(scrape(service.url), "workers") == 2)
    after = scrape(service.url)
    for name, before in metrics.items():
        if "_total[" in name or "_count[" in name or "_bucket[" in name:
            assert after[name] >= before, name
    assert value(after, "worker_starts_total") == 3
    send_requests(service.url, [row()], 30)
    for _ in range(12):
        assert value(scrape(service.url), "http_requests_total", **PREDICT) == 90
    log = service.stop()
    assert "Traceback" not in log
    assert log.count('"route":"/predict"') == 90
    parts = {json.loads(line).get("part") for line in log.splitlines()}  # every line is JSON
    assert parts >= {None, "server"}


@pytest.mark.usefixtures("run_service")
def test_workers_that_cannot_start_end_the_service(tmp_path: Path) -> None:
    """At once and with the reason, so that whatever watches it starts it again later."""
    for name in ("demo", "processed"):
        (tmp_path / name).unlink()
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("ROSSMANN_")}
    own = {"DATA_DIR": str(tmp_path), "WORKERS": "2", "API_PORT": str(free_port())}
    service = subprocess.run(
        [sys.executable, "-m", "rossmann.cli", "serve"],
        env=inherited | {f"ROSSMANN_{name}": value for name, value in own.items()},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert service.returncode == 1
    assert "error: there are no sales tables yet" in service.stderr
    assert service.stderr.rstrip().endswith("could not start: the lines above say why")
    assert "Traceback" not in service.stderr


@pytest.mark.nightly
def test_workers_that_die_one_after_another_are_replaced_with_a_back_off(run_service: Any) -> None:
    service = run_service(workers=2, log_format="json")
    wait_until(lambda: value(scrape(service.url), "workers") == 2)
    kept, victim = workers_of(service.process)
    for _ in range(4):
        os.kill(victim, signal.SIGKILL)
        wait_until(lambda: len({*workers_of(service.process)} - {kept, victim}) == 1)  # noqa: B023
        (victim,) = {*workers_of(service.process)} - {kept, victim}
        assert httpx.get(f"{service.url}/health", timeout=30, trust_env=False).is_success
    lines = [json.loads(line) for line in service.stop().splitlines()]
    times = [
        datetime.fromisoformat(line["time"]).timestamp()
        for line in lines
        if line["event"].startswith("a worker ended")
    ]
    pauses = [later - earlier for earlier, later in pairwise(times)]
    assert len(pauses) == 3
    for found, least in zip(pauses, (1, 2, 4), strict=True):
        assert least <= found < least + 3


def test_multiprocess_dir_is_removed_with_the_service(tmp_path: Path) -> None:
    with multiprocess_dir(tmp_path) as folder:
        assert folder.is_dir() and folder.parent == tmp_path
        with multiprocess_dir(tmp_path) as other:  # a second service on this machine
            assert folder.is_dir() and other != folder
        assert not other.exists()
    assert list(tmp_path.iterdir()) == []


def test_multiprocess_dir_of_a_killed_service_is_removed_at_next_start(tmp_path: Path) -> None:
    script = (
        "import sys, time; from pathlib import Path\n"
        "from rossmann.serving.observability.metrics import multiprocess_dir\n"
        f"with multiprocess_dir(Path({str(tmp_path)!r})) as folder:\n"
        "    print(folder, flush=True); time.sleep(600)"
    )
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    orphaned = Path(process.stdout.readline().strip())
    with multiprocess_dir(tmp_path):
        assert orphaned.is_dir()  # kept while its process runs
    process.kill()
    process.communicate()
    assert orphaned.is_dir()
    with multiprocess_dir(tmp_path):
        assert not orphaned.exists()


@pytest.mark.parametrize("environment", [{}, {MULTIPROC_DIR_VARIABLE: ""}])
def test_multiprocess_dir_is_none_without_the_variable(environment: dict[str, str]) -> None:
    assert current_multiprocess_dir(environment) is None
    assert current_multiprocess_dir({MULTIPROC_DIR_VARIABLE: "here"}) == Path("here")


@pytest.fixture
def two_cores() -> Iterator[set[int]]:
    """Restricts this thread, and those that it starts, to two cores."""
    all_cores = os.sched_getaffinity(0)
    if len(all_cores) < 2:
        pytest.skip("this machine has one core")
    cores = set(sorted(all_cores)[:2])
    os.sched_setaffinity(0, cores)
    yield cores
    os.sched_setaffinity(0, all_cores)


def loop_affinities(process: subprocess.Popen[bytes]) -> list[set[int]]:
    """CPU affinity of each worker's event loop, which is its first thread."""
    affinities = []
    for worker in workers_of(process):
        with suppress(ProcessLookupError):
            affinities.append(os.sched_getaffinity(worker))
    return affinities


def test_each_event_loop_is_pinned_to_its_own_core(two_cores: set[int], run_service: Any) -> None:
    process = run_service(workers=2).process
    each = [{core} for core in sorted(two_cores)]
    wait_until(lambda: sorted(loop_affinities(process), key=min) == each)
    killed = workers_of(process)[0]
    os.kill(killed, signal.SIGKILL)
    # The replacement takes the freed core.
    wait_until(lambda: killed not in workers_of(process))
    wait_until(lambda: sorted(loop_affinities(process), key=min) == each)


def test_computing_threads_are_not_pinned(two_cores: set[int], tmp_path: Path) -> None:
    observed: dict[str, set[int]] = {}

    def record(name: str) -> None:
        observed[name] = os.sched_getaffinity(0)

    with ThreadPoolExecutor(1, initializer=unpinned()) as pool, pinned_core(2, tmp_path) as core:
        record("loop")
        pool.submit(record, "pool").result()
        plain_thread = Thread(target=record, args=("plain thread",))
        plain_thread.start()
        plain_thread.join()
        unpinned_thread = Thread(target=run_unpinned(record), args=("unpinned thread",))
        unpinned_thread.start()
        unpinned_thread.join()
        with pinned_core(2, tmp_path) as none:
            assert none is None  # one core is left: nothing to choose
    record("after")
    assert core in two_cores
    assert observed == {
        "loop": {core},
        "pool": two_cores,
        "plain thread": {core},
        "unpinned thread": {core},
        "after": two_cores,
    }


def test_set_affinity_ignores_unavailable_cores(two_cores: set[int]) -> None:
    set_affinity({4095})
    assert os.sched_getaffinity(0) == two_cores


def test_sibling_workers_are_pinned_to_different_cores(two_cores: set[int], tmp_path: Path) -> None:
    def pin() -> int | None:
        os.sched_setaffinity(0, two_cores)
        with pinned_core(2, tmp_path) as core:
            barrier.wait(30)
            return core

    barrier = Barrier(2)
    with ThreadPoolExecutor(2) as pool:
        assert {future.result() for future in [pool.submit(pin) for _ in range(2)]} == two_cores


def test_nothing_is_pinned_without_a_core_for_each_worker(
    two_cores: set[int], tmp_path: Path
) -> None:
    for workers, folder in ((2, None), (1, tmp_path), (3, tmp_path)):
        with pinned_core(workers, folder) as core:
            assert core is None
            assert os.sched_getaffinity(0) == two_cores
