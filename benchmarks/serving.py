"""The service beside what HTTP alone costs, and beside ``mlflow models serve``: one core each.

    ROSSMANN_DATA_DIR=... python benchmarks/serving.py [--seconds 10] [--without-mlflow]

Needs a data folder with a Production version (``rossmann up`` makes one). Starts on free ports:
the registry, the floor (``http_floor.py``), the service and ``mlflow models serve`` with the same
version; each server gets a core of its own, the client the rest. Prints times and their ratios.
"""

import argparse
import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import ExitStack
from datetime import date, timedelta
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import psutil
import servers
from http_load import Load, play, post
from members import of_the_library
from wrk_load import rate

from rossmann.data.make_dataset import current_dataset
from rossmann.data.panel.panel import Panel, open_panel
from rossmann.models.ensemble.ensemble import Ensemble
from rossmann.models.registry.model_cache import cached_version
from rossmann.models.registry.registry import Registry
from rossmann.schema import FEATURES, STATE_HOLIDAYS, Stage, StoreDays
from rossmann.settings import Settings, load_settings

KAGGLE_ROWS: Final = 41_088
_EPOCH: Final = date(1970, 1, 1)
_TURNS: Final = 5
_SHORT_TURNS: Final = 24


def main() -> None:
    """Start all, play the same rows at each, print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--without-mlflow", action="store_true")
    given = parser.parse_args()
    settings = load_settings()
    panel = open_panel(current_dataset(settings))
    with ExitStack() as stack:
        registry_port = stack.enter_context(servers.registry(settings))
        mine = load_settings(mlflow_port=registry_port, mlflow_tracking_uri="")
        one, many = bodies_of(panel)
        floor = stack.enter_context(servers.floor())
        begun = time.perf_counter()
        service = stack.enter_context(servers.service(mine, workers=1))
        started = time.perf_counter() - begun
        memory = _told(service, "process_resident_memory_bytes") / 1e6
        _tell("start to healthy, s", started)
        _tell("resident memory idle, MB", memory)
        _compare_singles(floor, service, one, given.seconds)
        _compare_many(floor, service, many, *_bare_seconds(mine, panel))
        if not given.without_mlflow:
            mlflow = stack.enter_context(servers.mlflow_models_serve(mine))
            _compare_mlflow(service, mlflow, one, panel, given.seconds)
    with servers.registry(settings) as registry_port:
        mine = load_settings(mlflow_port=registry_port, mlflow_tracking_uri="")
        _compare_workers(mine, one, given.seconds)


def _compare_singles(floor: int, service: int, one: list[bytes], seconds: float) -> None:
    for port in (floor, service):
        play(port, one, 1, 1)
    turns = _in_turns((floor, service), (one, one), 1, seconds)
    for name, share in (("p50", 0.5), ("p99", 0.99)):
        _tell_turns(f"one row, {name}, ms", turns, partial(Load.percentile_ms, share=share))
    turns = _in_turns((floor, service), (one, one), 32, seconds)
    _tell_turns("requests a second, 32 at once", turns, lambda load: load.per_second)


def _in_turns(
    ports: tuple[int, int], bodies: tuple[list[bytes], list[bytes]], at_once: int, seconds: float
) -> list[tuple[Load, Load]]:
    """The two under the same load, turn by turn, so that a noisy moment hits both."""
    part = seconds / _SHORT_TURNS
    first, second = (
        partial(play, port, some, at_once, part) for port, some in zip(ports, bodies, strict=True)
    )
    return [(first(), second()) for _ in range(_SHORT_TURNS)]


def _tell_turns(name: str, turns: list[tuple[Load, Load]], told: Callable[[Load], float]) -> None:
    """What is told of the second beside the first, and the median of the turns' ratios: a part of
    the run in which one of the two was held up does not decide.
    """
    first, second = (_together([turn[side] for turn in turns]) for side in (0, 1))
    ratio = float(np.median([told(ours) / told(other) for other, ours in turns]))
    _tell(name, told(second), told(first), ratio)


def _together(loads: list[Load]) -> Load:
    return Load(np.concatenate([load.seconds for load in loads]), sum(load.whole for load in loads))


def _compare_many(floor: int, service: int, many: bytes, bare: float, libraries: float) -> None:
    times = [(_least(floor, many), _least(service, many)) for _ in range(3)]
    low, high = min(a for a, _ in times), min(b for _, b in times)
    _tell(f"{KAGGLE_ROWS:,} rows of JSON, ms", 1000 * high, 1000 * low)
    _tell("  the members alone, ms", 1000 * bare)
    _tell("  beyond the floor, over the members alone", (high - low) / bare)
    _tell("  the same by the libraries' own calls, ms", 1000 * libraries)
    _tell("  beyond the floor, over these", (high - low) / libraries)


def _least(port: int, body: bytes) -> float:
    """Seconds of one large request."""
    return float(play(port, [body], 1, 0.0).seconds.min())


def _bare_seconds(settings: Settings, panel: Panel) -> tuple[float, float]:
    """The members' own time for the same matrix on one thread: our trees', and the libraries'."""
    ensemble = Ensemble.load(_folder(settings))
    matrix = panel.matrix(_kaggle_rows(panel), panel.last_day)
    ensemble.predict(matrix[:100])
    times = []
    for _ in range(5):
        begun = time.perf_counter()
        ensemble.predict(matrix)
        times.append(time.perf_counter() - begun)
    _tell("members, microseconds a row on one core", 1e6 * min(times) / len(matrix))
    calls = [of_the_library(member) for member in ensemble.members.values()]
    begun = time.perf_counter()
    for call in calls:
        call(matrix)
    return min(times), time.perf_counter() - begun


def _compare_mlflow(
    service: int, mlflow: int, one: list[bytes], panel: Panel, seconds: float
) -> None:
    row = panel.matrix(_kaggle_rows(panel).take(slice(0, 1)), panel.last_day)[0]
    frame = {"columns": list(FEATURES), "data": [[None if np.isnan(v) else float(v) for v in row]]}
    body = post("/invocations", json.dumps({"dataframe_split": frame}).encode())
    play(mlflow, [body], 1, 0.0)  # its first answer takes seconds
    for at_once, name in ((1, "single rows a second, mlflow models serve"), (32, "  32 at once")):
        turns = _in_turns((mlflow, service), ([body], one), at_once, seconds)
        _tell_turns(name, turns, lambda load: load.per_second)


def _compare_workers(settings: Settings, one: list[bytes], seconds: float) -> None:
    """One worker and two, of the service and of the floor: all are up and take turns.

    The floor tells what two workers can be here, where the client takes a part of both cores. A
    second is one that the machine gave: what a virtual one's host kept to itself is left out.
    """
    service = partial(servers.service, settings)
    with ExitStack() as stack:
        trials = []
        for start, workers in ((service, 1), (service, 2), (servers.floor, 1), (servers.floor, 2)):
            others = _children()
            port = stack.enter_context(start(workers))
            trials.append((port, workers, _children() - others))
        for port, workers, _ in trials:
            rate(port, one, 32 * workers, 2)
        turns = [
            [_rate_and_cost(*trial, one, seconds / 2) for trial in trials] for _ in range(_TURNS)
        ]
    (ours, low), (ours_of_two, high), (floor, _), (floor_of_two, _) = np.array(turns).mean(axis=0)
    _tell("requests a second, 2 workers over 1 (client beside them)", ours_of_two, ours)
    _tell("  the same of the floor", floor_of_two, floor)
    _tell("processor time of workers for one answer, us, 2 beside 1", 1e6 * high, 1e6 * low)


def _children() -> set[psutil.Process]:
    return set(psutil.Process().children(recursive=True))


def _rate_and_cost(
    port: int, workers: int, processes: set[psutil.Process], one: list[bytes], seconds: float
) -> tuple[float, float]:
    """Answers a second, and the processes' seconds of processor for each."""
    begun, used, stolen = time.perf_counter(), _processor_time(processes), _stolen(workers)
    found = rate(port, one, 32 * workers, seconds)
    lasted = time.perf_counter() - begun
    cost = (_processor_time(processes) - used) / (found * lasted)
    share = (_stolen(workers) - stolen) / (workers * lasted)
    _await_log(port)
    return found / (1 - share), cost


def _await_log(port: int) -> None:
    """Wait until all rows are in the log's database: else the next turn would pay for them."""
    while any(_told(port, f"prediction_log_{part}_rows") for part in ("queue", "spool")):
        time.sleep(0.5)


def _stolen(cores: int) -> float:
    """Seconds that the first ``cores`` had work and the machine's host did not let them."""
    return sum(times.steal for times in psutil.cpu_times(percpu=True)[:cores])


def _processor_time(processes: set[psutil.Process]) -> float:
    return sum(sum(process.cpu_times()[:2]) for process in processes)


def _tell(name: str, value: float, other: float | None = None, ratio: float | None = None) -> None:
    end = ""
    if other is not None:
        ratio = value / other if ratio is None else ratio
        end = f"\tfloor or other {other:,.3f}\tratio {ratio:.2f}"
    print(f"{name}\t{value:,.3f}{end}", flush=True)


def _kaggle_rows(panel: Panel) -> StoreDays:
    """As many rows as Kaggle's test.csv: all stores, day after day, open."""
    stores = np.resize(np.repeat(panel.store_numbers, 48), KAGGLE_ROWS).astype(np.int32)
    days = np.resize(panel.last_day + 1 + np.arange(48), KAGGLE_ROWS).astype(np.int32)
    flags = np.ones(KAGGLE_ROWS, np.uint8)
    return StoreDays(stores, days, flags, (days % 2).astype(np.uint8), 0 * flags, 0 * flags)


def bodies_of(panel: Panel) -> tuple[list[bytes], bytes]:
    """Requests of one row each, and one of as many rows as Kaggle's test."""
    rows = _kaggle_rows(panel)
    told = [_in_words(rows, i) for i in range(len(rows))]
    picked = np.random.default_rng(1).choice(len(told), 500, replace=False)
    one = [post("/predict", json.dumps({"inputs": [told[i]]}).encode()) for i in picked]
    return one, post("/predict", json.dumps({"inputs": told}).encode())


def _in_words(rows: StoreDays, i: int) -> dict[str, Any]:
    when = _EPOCH + timedelta(days=int(rows.day[i]))
    return {
        "Store": int(rows.store[i]),
        "DayOfWeek": when.isoweekday(),
        "Date": when.isoformat(),
        "Open": int(rows.open[i]),
        "Promo": int(rows.promo[i]),
        "StateHoliday": STATE_HOLIDAYS[rows.state_holiday[i]],
        "SchoolHoliday": int(rows.school_holiday[i]),
    }


def _folder(settings: Settings) -> Path:
    registry = Registry(settings.tracking_uri)
    found = next(v for v in registry.versions() if v.stage == Stage.PRODUCTION)
    copy = cached_version(settings.model_cache_dir, found.version, found.run_id)
    return copy or registry.fetch(found.version, settings.model_cache_dir)


def _told(port: int, name: str) -> float:
    """A number that the service tells of itself; 0 where it tells none, as the floor."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
            lines = answer.read().decode().splitlines()
    except urllib.error.HTTPError:
        return 0.0
    return next((float(x.split()[-1]) for x in lines if x.startswith(f"rossmann_{name}")), 0.0)


if __name__ == "__main__":
    main()
