"""Promotions and rollbacks under a constant load: failed and mixed responses, response times.

    ROSSMANN_DATA_DIR=... python benchmarks/promotions.py [--rate 200] [--moves 20] [--versions 6]

Needs a data folder with a version in ``models/``. Starts a registry in a folder of its own and
registers that version several times, each time with other forecasts; starts the service, which
polls it once a second; requests one row at a constant rate while another process promotes and rolls
back. A response is mixed where its forecast is not that of the version in it.
"""

import argparse
import asyncio
import json
import multiprocessing
import shutil
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.synchronize import Event as Signal
from pathlib import Path
from typing import Any, Final

import numpy as np
from http_load import TimedResponse, run_constant_load
from servers import free_port, read_metric, run_server
from serving import request_bodies

from rossmann.data.make_dataset import current_dataset
from rossmann.data.panel.panel import open_panel
from rossmann.launcher.mlflow_server import server_command, server_environment
from rossmann.models.ensemble.artifact_files import CARD_FILE, member_files, read_card, write_card
from rossmann.models.publishing.register import register
from rossmann.models.publishing.trained_model import TrainedModel
from rossmann.models.registry.model_cache import cached_version, last_production
from rossmann.models.registry.registry import Registry
from rossmann.settings import Settings, load_settings

_RELOAD_SECONDS: Final = 1.0
_WARM_UP_SECONDS: Final = 2.0
_RELOADS: Final = 'rossmann_model_reloads_total{outcome="taken_over"'


def main() -> None:
    """Start all servers, run the load, print the counts."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rate", type=float, default=200)
    parser.add_argument("--moves", type=int, default=20)
    parser.add_argument("--versions", type=int, default=6)
    parser.add_argument("--every", type=float, default=1.5, help="seconds between two moves")
    args = parser.parse_args()
    settings = load_settings()
    with tempfile.TemporaryDirectory(prefix="promotions-") as folder:
        scratch = _make_scratch_settings(settings, Path(folder))
        command, environment = server_command(scratch), server_environment(scratch)
        with run_server(command, environment, f"{scratch.tracking_uri}/health", None):
            numbers = _register(settings, scratch, args.versions)
            with Registry(scratch.tracking_uri) as registry:
                registry.promote(numbers[0], "the first", "benchmark")
            with _service(scratch) as port:
                _measure(port, scratch, numbers, args)


def _make_scratch_settings(settings: Settings, folder: Path) -> Settings:
    """The same tables in a folder with its own registry and model cache."""
    for name in ("raw", "demo", "processed", "ingested"):
        if (settings.data_dir / name).exists():
            (folder / name).symlink_to(settings.data_dir / name)
    port = free_port()
    return settings.model_copy(
        update={"data_dir": folder, "mlflow_port": port, "mlflow_tracking_uri": ""}
    )


def _register(settings: Settings, scratch: Settings, count: int) -> list[int]:
    """Register versions that differ: each with smaller weights than the one before."""
    number = last_production(settings.model_cache_dir)
    source = None if number is None else cached_version(settings.model_cache_dir, number)
    if source is None:
        raise SystemExit(f"{settings.model_cache_dir} holds no version: run rossmann up")
    versions = []
    for index in range(count):
        folder = scratch.data_dir / "versions" / str(index)
        shutil.copytree(source, folder)
        card = read_card(folder)
        weights = {name: w * (1 - 0.02 * index) for name, w in card["weights"].items()}
        (folder / CARD_FILE).unlink()
        names = list(card["files"])
        card = write_card(folder, {**card, "weights": weights}, names)
        assert member_files(folder)
        versions.append(register(TrainedModel(folder, card, []), scratch).version)
    return versions


@contextmanager
def _service(scratch: Settings) -> Iterator[int]:
    port = free_port()
    environment = {
        "ROSSMANN_DATA_DIR": str(scratch.data_dir),
        "ROSSMANN_API_PORT": str(port),
        "ROSSMANN_MLFLOW_TRACKING_URI": scratch.tracking_uri,
        "ROSSMANN_RELOAD_SECONDS": str(_RELOAD_SECONDS),
        "ROSSMANN_THREADS": "1",
    }
    command = [sys.executable, "-m", "rossmann.cli", "serve"]
    with run_server(command, environment, f"http://127.0.0.1:{port}/health/ready", None):
        yield port


def _measure(port: int, scratch: Settings, numbers: list[int], args: argparse.Namespace) -> None:
    panel = open_panel(current_dataset(scratch))
    bodies, _ = request_bodies(panel)
    request = bodies[:1]
    expected = _expected_forecasts(port, request[0], numbers)
    spawn = multiprocessing.get_context("spawn")
    ready, finished = spawn.Event(), spawn.Event()
    promoter = spawn.Process(
        target=_promote,
        args=(scratch.tracking_uri, numbers, args.moves, args.every, ready, finished),
    )
    promoter.start()
    ready.wait(60)  # its imports must not slow the reference load
    reference = asyncio.run(_load_for(port, request, args.rate, args.moves * args.every / 2))
    before = read_metric(port, _RELOADS)
    responses = asyncio.run(_load_during(port, request, args.rate, ready, finished))
    promoter.join()
    _report(reference, responses, expected, int(read_metric(port, _RELOADS) - before))


def _expected_forecasts(port: int, request: bytes, numbers: list[int]) -> dict[int, float]:
    """The forecast of each version, requested by its number."""
    expected = {}
    body = json.loads(request.partition(b"\r\n\r\n")[2])
    for number in numbers:
        data = json.dumps({**body, "model_stage": number}).encode()
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/predict", data) as response:
            expected[number] = json.load(response)["predictions"][0]
    assert len(set(expected.values())) == len(numbers), "the versions must differ"
    return expected


def _promote(
    uri: str, numbers: list[int], moves: int, every: float, ready: Signal, finished: Signal
) -> None:
    """Promote one after the other; every fifth move is a rollback. Runs in its own process."""
    with Registry(uri) as registry:
        index = 0
        ready.set()
        while ready.is_set():  # until the load has started
            time.sleep(0.01)
        for move in range(moves):
            time.sleep(every)
            if move % 5 == 4:
                registry.rollback("benchmark", "benchmark")
                continue
            index += 1
            registry.promote(numbers[index % len(numbers)], "benchmark", "benchmark")
        time.sleep(_RELOAD_SECONDS + every)
    finished.set()


async def _load_for(
    port: int, request: list[bytes], rate: float, seconds: float
) -> list[TimedResponse]:
    stop = asyncio.Event()
    asyncio.get_running_loop().call_later(_WARM_UP_SECONDS + seconds, stop.set)
    responses = await run_constant_load(port, request, rate, stop)
    return [r for r in responses if r.due > responses[0].due + _WARM_UP_SECONDS]


async def _load_during(
    port: int, request: list[bytes], rate: float, ready: Signal, finished: Signal
) -> list[TimedResponse]:
    stop = asyncio.Event()
    load = asyncio.create_task(run_constant_load(port, request, rate, stop))
    ready.clear()
    while not finished.is_set():
        await asyncio.sleep(0.05)
    stop.set()
    return await load


def _report(
    reference: list[TimedResponse],
    responses: list[TimedResponse],
    expected: dict[int, float],
    reloads: int,
) -> None:
    bodies = [_body(r) for r in responses if r.content.startswith(b"HTTP/1.1 200")]
    failed = len(responses) - len(bodies)
    mixed = sum(expected[body["model_version"]] != body["predictions"][0] for body in bodies)
    versions = sorted({body["model_version"] for body in bodies})
    loads = [[1000 * r.seconds for r in load] for load in (reference, responses)]
    p50 = [np.quantile(load, 0.5) for load in loads]
    p99 = [np.quantile(load, 0.99) for load in loads]
    print(f"requests\t{len(responses)}\tversions in responses\t{versions}\tswaps\t{reloads}")
    print(f"failed\t{failed}\tmixed\t{mixed}")
    print(f"p50, ms\tusual {p50[0]:.2f}\tduring {p50[1]:.2f}")
    print(f"p99, ms\tusual {p99[0]:.2f}\tduring {p99[1]:.2f}\tratio {p99[1] / p99[0]:.2f}")
    print(f"worst, ms\t{max(loads[1]):.1f}")


def _body(response: TimedResponse) -> dict[str, Any]:
    return dict(json.loads(response.content.partition(b"\r\n\r\n")[2]))


if __name__ == "__main__":
    main()
