"""Speed of ``POST /predict/file`` against the boosters alone, and its memory.

    python benchmarks/predict_file.py [--rows 1000000] [--model FOLDER]

Prints rows a second of the route (from the first byte sent to the last received, over HTTP on this
machine, Parquet in and out), of ``Ensemble.predict`` on all threads for the matrices of the same
rows, their ratio, the same of the libraries' own calls, and the service's peak of resident memory
above idle. The boosters do not forecast closed rows: the ratio is given for all rows and for open
rows, and also by processor time, which depends less on other work on the machine.

The data are those that ``ROSSMANN_DATA_DIR`` has features of; the model is the newest that was
trained on them, or the one in ``--model``.
"""

import argparse
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from tree_inference import library_predictor

from rossmann.data.make_dataset import current_dataset
from rossmann.data.panel.panel import Panel, open_panel
from rossmann.models.ensemble.ensemble import Ensemble
from rossmann.models.publishing.trained_model import trained_dir
from rossmann.models.registry.model_cache import save_last_production, write_version
from rossmann.schema import STATE_HOLIDAYS, StoreDays
from rossmann.serving.server import bind, build_app, server_config
from rossmann.settings import Settings, load_settings

CHUNK_ROWS = 16_384


def make_rows(panel: Panel, count: int) -> StoreDays:
    """Every store for the year after history, repeated to ``count`` rows."""
    days = np.arange(panel.last_day + 1, panel.last_day + 366, dtype=np.int32)
    stores = np.repeat(panel.store_numbers, len(days))
    year = panel.schedule(stores, np.tile(days, len(panel.store_numbers)))
    return year.take(np.arange(count) % len(year))


def write_rows(rows: StoreDays, path: Path) -> None:
    """Write rows as an upload."""
    columns = {
        "Id": pa.array(np.arange(len(rows))),
        "Store": pa.array(rows.store.astype(np.int64)),
        "DayOfWeek": pa.array((rows.day.astype(np.int64) + 3) % 7 + 1),
        "Date": pa.array(rows.day).cast(pa.date32()),
        "Open": pa.array(rows.open.astype(np.int64)),
        "Promo": pa.array(rows.promo.astype(np.int64)),
        "StateHoliday": pa.array(STATE_HOLIDAYS).take(pa.array(rows.state_holiday)),
        "SchoolHoliday": pa.array(rows.school_holiday.astype(np.int64)),
    }
    pq.write_table(pa.table(columns), path)


def booster_seconds(
    panel: Panel, ensemble: Ensemble, rows: StoreDays, threads: int
) -> tuple[float, float]:
    """Seconds of the boosters for the rows' matrices: elapsed, and of processor time.

    Building the matrices is not counted.
    """
    elapsed = processor = 0.0
    for start in range(0, len(rows), 8 * CHUNK_ROWS):
        matrix = panel.matrix(rows.take(slice(start, start + 8 * CHUNK_ROWS)), panel.last_day)
        start_time, start_processor = time.perf_counter(), time.process_time()
        ensemble.predict(matrix, threads)
        elapsed += time.perf_counter() - start_time
        processor += time.process_time() - start_processor
    return elapsed, processor


def library_rate(panel: Panel, ensemble: Ensemble, rows: StoreDays, threads: int) -> float:
    """Rows per second of the libraries' own calls, scaled to ``threads`` without any overhead."""
    matrix = panel.matrix(rows.take(slice(0, 2 * CHUNK_ROWS)), panel.last_day)
    start = time.perf_counter()
    for member in ensemble.members.values():
        library_predictor(member)(matrix)
    return threads * len(matrix) / (time.perf_counter() - start)


def serve(settings: Settings, pipe: Any) -> None:
    """Run the service; in a process of its own, so that its memory can be measured."""
    import uvicorn

    with bind("127.0.0.1", 0) as listener:
        pipe.send(listener.getsockname()[1])
        uvicorn.Server(server_config(build_app(settings), settings)).run(sockets=[listener])


@contextmanager
def service(settings: Settings) -> Iterator[tuple[str, psutil.Process]]:
    """URL of the service, and its process."""
    parent_pipe, child_pipe = get_context("spawn").Pipe()
    process = get_context("spawn").Process(target=serve, args=(settings, child_pipe))
    process.start()
    url = f"http://127.0.0.1:{parent_pipe.recv()}"
    try:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            try:
                if httpx.get(f"{url}/health/ready", trust_env=False).is_success:
                    break
            except httpx.HTTPError:
                time.sleep(0.1)
        yield url, psutil.Process(process.pid)
    finally:
        process.terminate()
        process.join()


class PeakMemory(threading.Thread):
    """Largest resident memory of a process, sampled a hundred times per second."""

    def __init__(self, process: psutil.Process) -> None:
        super().__init__(daemon=True)
        self._process = process
        self._stopped = threading.Event()
        self.idle = self.peak = process.memory_info().rss

    def run(self) -> None:
        """Sample until ``stop``."""
        while not self._stopped.wait(0.01):
            self.peak = max(self.peak, self._process.memory_info().rss)

    def stop(self) -> float:
        """Megabytes above idle."""
        self._stopped.set()
        self.join()
        return float(self.peak - self.idle) / 2**20


def upload(url: str, source: Path, target: Path) -> tuple[float, float]:
    """Seconds to the first byte of the response and to its last."""
    start = time.perf_counter()
    with (
        source.open("rb") as file,
        target.open("wb") as out,
        httpx.stream(
            "POST", f"{url}/predict/file", content=file, timeout=600, trust_env=False
        ) as response,
    ):
        first = 0.0
        for block in response.iter_bytes():
            first = first or time.perf_counter() - start
            out.write(block)
        response.raise_for_status()
    return first, time.perf_counter() - start


def install_model(model: Path, settings: Settings) -> None:
    """Copy a trained version into the model cache, so that the service needs no registry."""
    with write_version(settings.model_cache_dir, 1, "benchmark") as folder:
        shutil.copytree(model, folder, dirs_exist_ok=True)
    save_last_production(settings.model_cache_dir, 1)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--model", type=Path)
    args = parser.parse_args()
    source = load_settings()
    panel = open_panel(current_dataset(source))
    model = args.model or max(f.parent for f in trained_dir(source).glob("*/ensemble.json"))
    ensemble = Ensemble.load(model)
    rows = make_rows(panel, args.rows)
    open_rows = rows.take(np.flatnonzero(rows.open))
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for path in source.data_dir.iterdir():
            if path.name in {"raw", "demo", "processed", "ingested"}:
                (folder / path.name).symlink_to(path)
        changes = {"data_dir": folder, "mlflow_tracking_uri": "http://127.0.0.1:9"}
        settings = source.model_copy(update=changes)
        install_model(model, settings)
        write_rows(rows, folder / "rows.parquet")
        write_rows(rows.take(slice(0, 2 * CHUNK_ROWS)), folder / "warm_up.parquet")
        with service(settings) as (url, process):
            upload(url, folder / "warm_up.parquet", folder / "out.parquet")
            time.sleep(1)
            memory = PeakMemory(process)
            memory.start()
            processor = sum(process.cpu_times()[:2])
            first, seconds = upload(url, folder / "rows.parquet", folder / "out.parquet")
            processor = sum(process.cpu_times()[:2]) - processor
            above_idle = memory.stop()
        count = pq.read_metadata(folder / "out.parquet").num_rows
    ensemble.predict(
        panel.matrix(rows.take(slice(0, CHUNK_ROWS)), panel.last_day), source.thread_count
    )
    all_seconds, all_processor = booster_seconds(panel, ensemble, rows, source.thread_count)
    open_seconds, open_processor = booster_seconds(panel, ensemble, open_rows, source.thread_count)
    print(f"{count:,} rows on {source.thread_count} threads, {len(open_rows) / len(rows):.0%} open")
    print(f"route                {count / seconds:>10,.0f} rows/s, first byte {first:.2f} s")
    print(f"boosters, all rows   {len(rows) / all_seconds:>10,.0f} rows/s")
    print(
        f"boosters, open rows  {len(rows) / open_seconds:>10,.0f} rows/s, without the closed ones"
    )
    print(f"route / boosters     {all_seconds / seconds:>10.0%} of all rows")
    print(f"                     {open_seconds / seconds:>10.0%} of the open rows alone")
    shares = all_processor / processor, open_processor / processor
    print(f"by CPU time          {shares[0]:>10.0%} and {shares[1]:.0%}")
    libraries = library_rate(panel, ensemble, rows, source.thread_count)
    share = count / seconds / libraries
    print(f"the libraries' own   {libraries:>10,.0f} rows/s; route / libraries {share:.0%}")
    print(f"memory above idle    {above_idle:>10,.0f} MB")


if __name__ == "__main__":
    main()
