"""Compares the service with an HTTP baseline and with ``mlflow models serve``: one core each.

    ROSSMANN_DATA_DIR=... python benchmarks/serving.py [--seconds 10] [--without-mlflow]

Needs a data folder with a Production version (``rossmann up`` makes one). Starts on free ports:
the registry, the baseline (``http_baseline.py``), the service and ``mlflow models serve`` with the
same version; each server gets one core, the client the others. Prints times and their ratios.
"""

import argparse
import json
import time
from collections.abc import Callable
from contextlib import ExitStack
from datetime import date, timedelta
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import psutil
import servers
from http_load import LoadResult, post_request, run_load
from servers import read_metric
from tree_inference import library_predictor
from wrk_load import requests_per_second

from rossmann.data.make_dataset import current_dataset
from rossmann.data.panel.panel import Panel, open_panel
from rossmann.models.ensemble.ensemble import Ensemble
from rossmann.models.registry.model_cache import cached_version
from rossmann.models.registry.registry import Registry
from rossmann.schema import FEATURES, STATE_HOLIDAYS, Stage, StoreDays
from rossmann.settings import Settings, load_settings

KAGGLE_ROWS: Final = 41_088
TURNS: Final = 24
CONNECTIONS: Final = 32
_WORKER_TURNS: Final = 5
_EPOCH: Final = date(1970, 1, 1)

Turns = list[tuple[LoadResult, LoadResult]]


def main() -> None:
    """Start all servers, run the same rows on each, print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--without-mlflow", action="store_true")
    args = parser.parse_args()
    settings = load_settings()
    panel = open_panel(current_dataset(settings))
    with ExitStack() as stack:
        registry_port = stack.enter_context(servers.run_registry(settings))
        local = load_settings(mlflow_port=registry_port, mlflow_tracking_uri="")
        single_bodies, kaggle_body = request_bodies(panel)
        baseline = stack.enter_context(servers.run_http_baseline())
        start = time.perf_counter()
        service = stack.enter_context(servers.run_service(local, workers=1))
        started = time.perf_counter() - start
        memory = read_metric(service, "rossmann_process_resident_memory_bytes") / 1e6
        print_result("start to healthy, s", started)
        print_result("resident memory idle, MB", memory)
        compare_single_rows(baseline, service, single_bodies, args.seconds)
        _compare_kaggle_rows(baseline, service, kaggle_body, *_predict_seconds(local, panel))
        if not args.without_mlflow:
            mlflow = stack.enter_context(servers.run_mlflow_models_serve(local))
            _compare_mlflow(service, mlflow, single_bodies, panel, args.seconds)
    with servers.run_registry(settings) as registry_port:
        local = load_settings(mlflow_port=registry_port, mlflow_tracking_uri="")
        _compare_workers(local, single_bodies, args.seconds)


def compare_single_rows(reference: int, port: int, bodies: list[bytes], seconds: float) -> None:
    """Print times and rates of single rows at ``port``, and their ratios to ``reference``."""
    for warmed in (reference, port):
        run_load(warmed, bodies, 1, 1)
    turns = _run_in_turns((reference, port), (bodies, bodies), 1, seconds)
    for name, share in (("p50", 0.5), ("p99", 0.99)):
        _print_turns(f"one row, {name}, ms", turns, partial(LoadResult.percentile_ms, share=share))
    turns = _run_in_turns((reference, port), (bodies, bodies), CONNECTIONS, seconds)
    _print_turns(f"requests a second, {CONNECTIONS} at once", turns, lambda load: load.per_second)


def _run_in_turns(
    ports: tuple[int, int],
    bodies: tuple[list[bytes], list[bytes]],
    connections: int,
    seconds: float,
) -> Turns:
    """Both under the same load in alternating short turns, so that noise affects both alike."""
    turn = seconds / TURNS
    first, second = (
        partial(run_load, port, requests, connections, turn)
        for port, requests in zip(ports, bodies, strict=True)
    )
    turns = []
    for index in range(TURNS):
        if index % 2:
            second_result, first_result = second(), first()
        else:
            first_result, second_result = first(), second()
        turns.append((first_result, second_result))
    return turns


def _print_turns(name: str, turns: Turns, measure: Callable[[LoadResult], float]) -> None:
    """A measure of the second over the first, and the median of the turns' ratios: a turn in which
    one of the two was held up has no effect.
    """
    first, second = (_concat([turn[side] for turn in turns]) for side in (0, 1))
    ratio = float(np.median([measure(b) / measure(a) for a, b in turns]))
    print_result(name, measure(second), measure(first), ratio)


def _concat(loads: list[LoadResult]) -> LoadResult:
    seconds = np.concatenate([load.seconds for load in loads])
    return LoadResult(seconds, sum(load.duration for load in loads))


def _compare_kaggle_rows(
    baseline: int, service: int, body: bytes, learners: float, libraries: float
) -> None:
    times = [(_request_seconds(baseline, body), _request_seconds(service, body)) for _ in range(3)]
    low, high = min(a for a, _ in times), min(b for _, b in times)
    print_result(f"{KAGGLE_ROWS:,} rows of JSON, ms", 1000 * high, 1000 * low)
    print_result("  the base learners alone, ms", 1000 * learners)
    print_result("  beyond the baseline, over the base learners alone", (high - low) / learners)
    print_result("  the same by the libraries' own calls, ms", 1000 * libraries)
    print_result("  beyond the baseline, over these", (high - low) / libraries)


def _request_seconds(port: int, body: bytes) -> float:
    """Seconds of one large request."""
    return float(run_load(port, [body], 1, 0.0).seconds.min())


def _predict_seconds(settings: Settings, panel: Panel) -> tuple[float, float]:
    """Seconds of ``Ensemble.predict`` and of the libraries, for one matrix on one thread."""
    ensemble = Ensemble.load(_production_folder(settings))
    matrix = panel.matrix(_kaggle_rows(panel), panel.last_day)
    ensemble.predict(matrix[:100])
    times = []
    for _ in range(5):
        start = time.perf_counter()
        ensemble.predict(matrix)
        times.append(time.perf_counter() - start)
    print_result("base learners, microseconds a row on one core", 1e6 * min(times) / len(matrix))
    predictors = [library_predictor(member) for member in ensemble.members.values()]
    start = time.perf_counter()
    for predict in predictors:
        predict(matrix)
    return min(times), time.perf_counter() - start


def _compare_mlflow(
    service: int, mlflow: int, bodies: list[bytes], panel: Panel, seconds: float
) -> None:
    row = panel.matrix(_kaggle_rows(panel).take(slice(0, 1)), panel.last_day)[0]
    frame = {"columns": list(FEATURES), "data": [[None if np.isnan(v) else float(v) for v in row]]}
    request = post_request("/invocations", json.dumps({"dataframe_split": frame}).encode())
    run_load(mlflow, [request], 1, 0.0)  # the first request takes seconds
    cases = ((1, "single rows a second, mlflow models serve"), (CONNECTIONS, "  32 at once"))
    for connections, name in cases:
        turns = _run_in_turns((mlflow, service), ([request], bodies), connections, seconds)
        _print_turns(name, turns, lambda load: load.per_second)


def _compare_workers(settings: Settings, bodies: list[bytes], seconds: float) -> None:
    """One worker and two, of the service and of the baseline: all run, and are loaded in turns.

    The baseline shows what two workers can reach where the client takes a part of both cores. Time
    that the host of a virtual machine withheld is not counted.
    """
    service = partial(servers.run_service, settings)
    baseline = servers.run_http_baseline
    with ExitStack() as stack:
        trials = []
        for run, workers in ((service, 1), (service, 2), (baseline, 1), (baseline, 2)):
            others = _children()
            port = stack.enter_context(run(workers))
            trials.append((port, workers, _children() - others))
        for port, workers, _ in trials:
            requests_per_second(port, bodies, CONNECTIONS * workers, 2)
        turns = [
            [_rate_and_cost(*trial, bodies, seconds / 2) for trial in trials]
            for _ in range(_WORKER_TURNS)
        ]
    (rate_1, cost_1), (rate_2, cost_2), (base_1, _), (base_2, _) = np.array(turns).mean(axis=0)
    print_result("requests a second, 2 workers over 1 (client on the same cores)", rate_2, rate_1)
    print_result("  the same of the baseline", base_2, base_1)
    print_result("processor time per request, us, 2 workers over 1", 1e6 * cost_2, 1e6 * cost_1)


def _children() -> set[psutil.Process]:
    return set(psutil.Process().children(recursive=True))


def _rate_and_cost(
    port: int, workers: int, processes: set[psutil.Process], bodies: list[bytes], seconds: float
) -> tuple[float, float]:
    """Responses per second, and the processes' seconds of processor time for each."""
    start, used, stolen = time.perf_counter(), _processor_time(processes), _stolen_seconds(workers)
    rate = requests_per_second(port, bodies, CONNECTIONS * workers, seconds)
    duration = time.perf_counter() - start
    cost = (_processor_time(processes) - used) / (rate * duration)
    share = (_stolen_seconds(workers) - stolen) / (workers * duration)
    _await_log(port)
    return rate / (1 - share), cost


def _await_log(port: int) -> None:
    """Wait until all rows are in the log's database: else they would slow the next turn."""
    while any(
        read_metric(port, f"rossmann_prediction_log_{part}_rows") for part in ("queue", "spool")
    ):
        time.sleep(0.5)


def _stolen_seconds(cores: int) -> float:
    """Seconds that the host withheld from the first ``cores`` (steal time)."""
    return float(sum(times.steal for times in psutil.cpu_times(percpu=True)[:cores]))


def _processor_time(processes: set[psutil.Process]) -> float:
    return sum(sum(process.cpu_times()[:2]) for process in processes)


def print_result(
    name: str, value: float, reference: float | None = None, ratio: float | None = None
) -> None:
    """Print a line of the table; the ratio is value / reference unless it is passed."""
    end = ""
    if reference is not None:
        ratio = value / reference if ratio is None else ratio
        end = f"\treference {reference:,.3f}\tratio {ratio:.2f}"
    print(f"{name}\t{value:,.3f}{end}", flush=True)


def _kaggle_rows(panel: Panel) -> StoreDays:
    """As many rows as Kaggle's test.csv: all stores, day after day, open."""
    stores = np.resize(np.repeat(panel.store_numbers, 48), KAGGLE_ROWS).astype(np.int32)
    days = np.resize(panel.last_day + 1 + np.arange(48), KAGGLE_ROWS).astype(np.int32)
    flags = np.ones(KAGGLE_ROWS, np.uint8)
    return StoreDays(stores, days, flags, (days % 2).astype(np.uint8), 0 * flags, 0 * flags)


def request_bodies(panel: Panel) -> tuple[list[bytes], bytes]:
    """Requests of one row each, and one of as many rows as Kaggle's test."""
    store_days = _kaggle_rows(panel)
    rows = [_json_row(store_days, i) for i in range(len(store_days))]
    sample = np.random.default_rng(1).choice(len(rows), 500, replace=False)
    single = [post_request("/predict", json.dumps({"inputs": [rows[i]]}).encode()) for i in sample]
    return single, post_request("/predict", json.dumps({"inputs": rows}).encode())


def _json_row(rows: StoreDays, i: int) -> dict[str, Any]:
    day = _EPOCH + timedelta(days=int(rows.day[i]))
    return {
        "Store": int(rows.store[i]),
        "DayOfWeek": day.isoweekday(),
        "Date": day.isoformat(),
        "Open": int(rows.open[i]),
        "Promo": int(rows.promo[i]),
        "StateHoliday": STATE_HOLIDAYS[rows.state_holiday[i]],
        "SchoolHoliday": int(rows.school_holiday[i]),
    }


def _production_folder(settings: Settings) -> Path:
    registry = Registry(settings.tracking_uri)
    version = next(v for v in registry.versions() if v.stage == Stage.PRODUCTION)
    copy = cached_version(settings.model_cache_dir, version.version, version.run_id)
    return copy or registry.fetch(version.version, settings.model_cache_dir)


if __name__ == "__main__":
    main()
