"""How fast ``POST /predict/file`` is beside the boosters alone, and what memory it takes.

    python benchmarks/predict_file.py [--rows 1000000] [--model FOLDER]

Prints rows a second of the route (from the first byte sent to the last received, over HTTP on this
machine, Parquet in and out), of ``Ensemble.predict`` on all threads for the matrices of the same
rows, their ratio, the same of the libraries' own calls, and the service's peak of resident memory
above idle. Closed rows have a matrix but no forecast of the boosters: the ratio is given for all
rows, and for the open ones alone; and by processor time too, which other work on the machine
changes less.

The data are those that ``ROSSMANN_DATA_DIR`` has features of; the model is the newest that was
trained on them, or the one in ``--model``.
"""

import argparse
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
from members import of_the_library

from rossmann.data.make_dataset import current_dataset
from rossmann.data.panel.panel import Panel, open_panel
from rossmann.models.ensemble.ensemble import Ensemble
from rossmann.models.publishing.trained_model import trained_dir
from rossmann.models.registry.model_cache import save_last_production, write_version
from rossmann.schema import STATE_HOLIDAYS, StoreDays
from rossmann.serving.server import bind, build_app, server_config
from rossmann.settings import Settings, load_settings

PART = 16_384


def many_rows(panel: Panel, count: int) -> StoreDays:
    """Every store on the year after history, store by store, again and again."""
    days = np.arange(panel.last_day + 1, panel.last_day + 366, dtype=np.int32)
    stores = np.repeat(panel.store_numbers, len(days))
    year = panel.schedule(stores, np.tile(days, len(panel.store_numbers)))
    return year.take(np.arange(count) % len(year))


def write_rows(rows: StoreDays, path: Path) -> None:
    """The rows as users send them."""
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


def bare_seconds(
    panel: Panel, ensemble: Ensemble, rows: StoreDays, threads: int
) -> tuple[float, float]:
    """Seconds that the boosters take for the rows' matrices, by the clock and of processors.

    Building the matrices is not counted.
    """
    spent = worked = 0.0
    for start in range(0, len(rows), 8 * PART):
        matrix = panel.matrix(rows.take(slice(start, start + 8 * PART)), panel.last_day)
        begun, work = time.perf_counter(), time.process_time()
        ensemble.predict(matrix, threads)
        spent += time.perf_counter() - begun
        worked += time.process_time() - work
    return spent, worked


def library_rate(panel: Panel, ensemble: Ensemble, rows: StoreDays, threads: int) -> float:
    """Rows a second of the libraries' own calls, as if ``threads`` of them cost nothing more."""
    matrix = panel.matrix(rows.take(slice(0, 2 * PART)), panel.last_day)
    begun = time.perf_counter()
    for member in ensemble.members.values():
        of_the_library(member)(matrix)
    return threads * len(matrix) / (time.perf_counter() - begun)


def serve(settings: Settings, pipe: Any) -> None:
    """The service in a process of its own, so that its memory is its own."""
    import uvicorn

    with bind("127.0.0.1", 0) as listener:
        pipe.send(listener.getsockname()[1])
        uvicorn.Server(server_config(build_app(settings))).run(sockets=[listener])


@contextmanager
def service(settings: Settings) -> Iterator[tuple[str, psutil.Process]]:
    """Where it answers, and its process."""
    here, there = get_context("spawn").Pipe()
    process = get_context("spawn").Process(target=serve, args=(settings, there))
    process.start()
    url = f"http://127.0.0.1:{here.recv()}"
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


class Peak(threading.Thread):
    """The most memory that a process holds, looked at a hundred times a second."""

    def __init__(self, process: psutil.Process) -> None:
        super().__init__(daemon=True)
        self._process = process
        self._done = threading.Event()
        self.idle = self.most = process.memory_info().rss

    def run(self) -> None:
        """Look until told to stop."""
        while not self._done.wait(0.01):
            self.most = max(self.most, self._process.memory_info().rss)

    def stop(self) -> float:
        """Megabytes above idle."""
        self._done.set()
        self.join()
        return (self.most - self.idle) / 2**20


def send(url: str, source: Path, target: Path) -> tuple[float, float]:
    """Seconds to the first byte of the answer and to its last."""
    begun = time.perf_counter()
    with (
        source.open("rb") as file,
        target.open("wb") as out,
        httpx.stream(
            "POST", f"{url}/predict/file", content=file, timeout=600, trust_env=False
        ) as answer,
    ):
        first = 0.0
        for block in answer.iter_bytes():
            first = first or time.perf_counter() - begun
            out.write(block)
        answer.raise_for_status()
    return first, time.perf_counter() - begun


def copy_of(model: Path, settings: Settings) -> None:
    """Put a trained version where the service finds it without a registry."""
    import shutil

    with write_version(settings.model_cache_dir, 1, "benchmark") as folder:
        shutil.copytree(model, folder, dirs_exist_ok=True)
    save_last_production(settings.model_cache_dir, 1)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--model", type=Path)
    asked = parser.parse_args()
    own = load_settings()
    panel = open_panel(current_dataset(own))
    model = asked.model or max(f.parent for f in trained_dir(own).glob("*/ensemble.json"))
    ensemble = Ensemble.load(model)
    rows = many_rows(panel, asked.rows)
    open_rows = rows.take(np.flatnonzero(rows.open))
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for part in own.data_dir.iterdir():
            if part.name in {"raw", "demo", "processed", "ingested"}:
                (folder / part.name).symlink_to(part)
        changes = {"data_dir": folder, "mlflow_tracking_uri": "http://127.0.0.1:9"}
        settings = own.model_copy(update=changes)
        copy_of(model, settings)
        write_rows(rows, folder / "rows.parquet")
        write_rows(rows.take(slice(0, 2 * PART)), folder / "few.parquet")
        with service(settings) as (url, process):
            send(url, folder / "few.parquet", folder / "out.parquet")
            time.sleep(1)
            peak = Peak(process)
            peak.start()
            work = sum(process.cpu_times()[:2])
            first, seconds = send(url, folder / "rows.parquet", folder / "out.parquet")
            work = sum(process.cpu_times()[:2]) - work
            above = peak.stop()
        answered = pq.read_metadata(folder / "out.parquet").num_rows
    ensemble.predict(panel.matrix(rows.take(slice(0, PART)), panel.last_day), own.thread_count)
    everything, all_work = bare_seconds(panel, ensemble, rows, own.thread_count)
    opened, open_work = bare_seconds(panel, ensemble, open_rows, own.thread_count)
    print(f"{answered:,} rows on {own.thread_count} threads, {len(open_rows) / len(rows):.0%} open")
    print(f"route                {answered / seconds:>10,.0f} rows/s, first byte {first:.2f} s")
    print(f"boosters, all rows   {len(rows) / everything:>10,.0f} rows/s")
    print(f"boosters, open rows  {len(rows) / opened:>10,.0f} rows/s, the closed ones for nothing")
    print(f"route / boosters     {everything / seconds:>10.0%} of all rows")
    print(f"                     {opened / seconds:>10.0%} of the open rows alone")
    print(f"the same by work     {all_work / work:>10.0%} and {open_work / work:.0%}")
    libraries = library_rate(panel, ensemble, rows, own.thread_count)
    share = answered / seconds / libraries
    print(f"the libraries' own   {libraries:>10,.0f} rows/s; route / libraries {share:.0%}")
    print(f"memory above idle    {above:>10,.0f} MB")


if __name__ == "__main__":
    main()
