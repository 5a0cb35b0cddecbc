"""Promotions and rollbacks under a constant load: what fails, what is mixed, and what they cost.

    ROSSMANN_DATA_DIR=... python benchmarks/promotions.py [--rate 200] [--moves 20] [--versions 6]

Needs a data folder with a version in ``models/``. Starts a registry in a folder of its own and
registers that version several times, each time with other forecasts; starts the service, which
follows it once a second; plays one row at a constant rate while another process promotes and rolls
back. An answer is mixed where its forecast is not that of the version that it names.
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
from http_load import Answered, play_at
from servers import free_port, running
from serving import bodies_of

from rossmann.data.make_dataset import current_dataset
from rossmann.data.panel.panel import open_panel
from rossmann.launcher.mlflow_server import server_command, server_environment
from rossmann.models.ensemble.artifact_files import CARD_FILE, member_files, read_card, write_card
from rossmann.models.publishing.register import register
from rossmann.models.publishing.trained_model import TrainedModel
from rossmann.models.registry.model_cache import cached_version, last_production
from rossmann.models.registry.registry import Registry
from rossmann.settings import Settings, load_settings

_FOLLOW: Final = 1.0
"""Seconds between two looks of the service at the registry (the setting RELOAD_SECONDS)."""
_WARM: Final = 2.0


def main() -> None:
    """Start all, play, count."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rate", type=float, default=200)
    parser.add_argument("--moves", type=int, default=20)
    parser.add_argument("--versions", type=int, default=6)
    parser.add_argument("--every", type=float, default=1.5, help="seconds between two moves")
    given = parser.parse_args()
    settings = load_settings()
    with tempfile.TemporaryDirectory(prefix="promotions-") as folder:
        mine = _own_folder(settings, Path(folder))
        command, environment = server_command(mine), server_environment(mine)
        with running(command, environment, f"{mine.tracking_uri}/health", None):
            numbers = _register(settings, mine, given.versions)
            with Registry(mine.tracking_uri) as registry:
                registry.promote(numbers[0], "the first", "benchmark")
            with _service(mine) as port:
                _measure(port, mine, numbers, given)


def _own_folder(settings: Settings, folder: Path) -> Settings:
    """The same tables in a folder with a registry and a cache of its own."""
    for name in ("raw", "demo", "processed", "ingested"):
        if (settings.data_dir / name).exists():
            (folder / name).symlink_to(settings.data_dir / name)
    port = free_port()
    return settings.model_copy(
        update={"data_dir": folder, "mlflow_port": port, "mlflow_tracking_uri": ""}
    )


def _register(settings: Settings, mine: Settings, count: int) -> list[int]:
    """Versions that differ: each hears its members a little less than the one before."""
    number = last_production(settings.model_cache_dir)
    source = None if number is None else cached_version(settings.model_cache_dir, number)
    if source is None:
        raise SystemExit(f"{settings.model_cache_dir} holds no version: run rossmann up")
    found = []
    for place in range(count):
        folder = mine.data_dir / "made" / str(place)
        shutil.copytree(source, folder)
        card = read_card(folder)
        weights = {name: w * (1 - 0.02 * place) for name, w in card["weights"].items()}
        (folder / CARD_FILE).unlink()
        names = list(card["files"])
        card = write_card(folder, {**card, "weights": weights}, names)
        assert member_files(folder)
        found.append(register(TrainedModel(folder, card, []), mine).version)
    return found


@contextmanager
def _service(mine: Settings) -> Iterator[int]:
    port = free_port()
    environment = {
        "ROSSMANN_DATA_DIR": str(mine.data_dir),
        "ROSSMANN_API_PORT": str(port),
        "ROSSMANN_MLFLOW_TRACKING_URI": mine.tracking_uri,
        "ROSSMANN_RELOAD_SECONDS": str(_FOLLOW),
        "ROSSMANN_THREADS": "1",
    }
    command = [sys.executable, "-m", "rossmann.cli", "serve"]
    with running(command, environment, f"http://127.0.0.1:{port}/health/ready", None):
        yield port


def _measure(port: int, mine: Settings, numbers: list[int], given: argparse.Namespace) -> None:
    panel = open_panel(current_dataset(mine))
    bodies, _ = bodies_of(panel)
    request = bodies[:1]
    truth = _truth(port, request[0], numbers)
    spawn = multiprocessing.get_context("spawn")
    began, ended = spawn.Event(), spawn.Event()
    mover = spawn.Process(
        target=_move, args=(mine.tracking_uri, numbers, given.moves, given.every, began, ended)
    )
    mover.start()
    began.wait(60)  # its imports must not count as usual
    usual = asyncio.run(_play_for(port, request, given.rate, given.moves * given.every / 2))
    before = _taken_over(port)
    found = asyncio.run(_play_while(port, request, given.rate, began, ended))
    mover.join()
    _tell(usual, found, truth, _taken_over(port) - before)


def _truth(port: int, request: bytes, numbers: list[int]) -> dict[int, float]:
    """What each version forecasts, asked by its number."""
    truth = {}
    body = json.loads(request.partition(b"\r\n\r\n")[2])
    for number in numbers:
        data = json.dumps({**body, "model_stage": number}).encode()
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/predict", data) as answer:
            truth[number] = json.load(answer)["predictions"][0]
    assert len(set(truth.values())) == len(numbers), "the versions must differ"
    return truth


def _move(
    uri: str, numbers: list[int], moves: int, every: float, began: Signal, ended: Signal
) -> None:
    """Promote one after the other; every fifth move is a rollback. Runs in a process of its own."""
    with Registry(uri) as registry:
        place = 0
        began.set()
        while began.is_set():  # until the load has begun
            time.sleep(0.01)
        for move in range(moves):
            time.sleep(every)
            if move % 5 == 4:
                registry.rollback("benchmark", "benchmark")
                continue
            place += 1
            registry.promote(numbers[place % len(numbers)], "benchmark", "benchmark")
        time.sleep(_FOLLOW + every)
    ended.set()


async def _play_for(port: int, request: list[bytes], rate: float, seconds: float) -> list[Answered]:
    stop = asyncio.Event()
    asyncio.get_running_loop().call_later(_WARM + seconds, stop.set)
    found = await play_at(port, request, rate, stop)
    return [one for one in found if one.due > found[0].due + _WARM]


async def _play_while(
    port: int, request: list[bytes], rate: float, began: Signal, ended: Signal
) -> list[Answered]:
    stop = asyncio.Event()
    load = asyncio.create_task(play_at(port, request, rate, stop))
    began.clear()
    while not ended.is_set():
        await asyncio.sleep(0.05)
    stop.set()
    return await load


def _taken_over(port: int) -> int:
    """How often another version came into service, as the service tells it."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        lines = answer.read().decode().splitlines()
    return int(sum(float(line.split()[-1]) for line in lines if line.startswith(_SWAPS)))


_SWAPS: Final = 'rossmann_model_reloads_total{outcome="taken_over"'


def _tell(
    usual: list[Answered], found: list[Answered], truth: dict[int, float], swaps: int
) -> None:
    failed = [one for one in found if not one.answer.startswith(b"HTTP/1.1 200")]
    told = [_body(one) for one in found if one not in failed]
    mixed = sum(truth[body["model_version"]] != body["predictions"][0] for body in told)
    versions = {body["model_version"] for body in told}
    low, high = (1000 * np.quantile([o.seconds for o in some], 0.99) for some in (usual, found))
    mid = [1000 * np.quantile([o.seconds for o in some], 0.5) for some in (usual, found)]
    print(f"requests\t{len(found)}\tversions that answered\t{sorted(versions)}\tswaps\t{swaps}")
    print(f"failed\t{len(failed)}\tmixed\t{mixed}")
    print(f"p50, ms\tusual {mid[0]:.2f}\tduring {mid[1]:.2f}")
    print(f"p99, ms\tusual {low:.2f}\tduring {high:.2f}\tratio {high / low:.2f}")
    print(f"worst, ms\t{1000 * max(one.seconds for one in found):.1f}")


def _body(one: Answered) -> dict[str, Any]:
    return dict(json.loads(one.answer.partition(b"\r\n\r\n")[2]))


if __name__ == "__main__":
    main()
