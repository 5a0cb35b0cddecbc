"""Compares the service of two checkouts in one run: speed, time to start, memory.

    python benchmarks/compare_checkouts.py OLD [--data FOLDER] [--seconds 10] [--starts 5]

OLD is the other checkout; NEW is the one of this script, unless ``--new`` names another. FOLDER
(without it, ROSSMANN_DATA_DIR) holds a Production version; each service runs over a copy of it, on
the first core with one worker and one thread. Both are measured in alternating turns, so that noise
of the machine affects them alike. Prints new, old, and the median of the turns' ratios new / old.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import servers
from serving import compare_single_rows, print_result, request_bodies

from rossmann.data.make_dataset import current_dataset
from rossmann.data.panel.panel import open_panel
from rossmann.settings import Settings, load_settings

_MEMORY = "rossmann_process_resident_memory_bytes"


class Checkout:
    """A checkout whose service runs over its own copy of a data folder."""

    def __init__(self, source: Path, data: Path, settings: Settings) -> None:
        self.settings = settings
        self.environment = {"PYTHONPATH": str(source / "src"), "ROSSMANN_DATA_DIR": str(data)}
        code = "import rossmann; print(rossmann.__file__)"
        command = [sys.executable, "-c", code]
        imported = subprocess.run(
            command, env=self.environment, capture_output=True, text=True, check=True
        ).stdout
        if not Path(imported.strip()).is_relative_to(source / "src"):
            raise SystemExit(f"{source} is not imported: rossmann is {imported}")

    @contextmanager
    def run_service(self) -> Iterator[tuple[int, float]]:
        """Yields the port of the service, and the seconds from its start to ready."""
        start = time.perf_counter()
        with servers.run_service(self.settings, 1, self.environment) as port:
            yield port, time.perf_counter() - start

    def measure_start(self) -> tuple[float, float]:
        """Seconds to ready, and resident memory in MB right after."""
        with self.run_service() as (port, seconds):
            return seconds, servers.read_metric(port, _MEMORY) / 1e6


def main() -> None:
    """Copy the data, measure both checkouts, print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("old", type=Path)
    parser.add_argument("--new", type=Path, default=Path(__file__).parents[1])
    parser.add_argument("--data", type=Path, default=load_settings().data_dir)
    parser.add_argument("--seconds", type=float, default=10, help="load on each service")
    parser.add_argument("--starts", type=int, default=5, help="starts of each service")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="compare-checkouts-") as scratch:
        folders = [Path(scratch) / name for name in ("old", "new")]
        for folder in folders:
            shutil.copytree(args.data, folder, symlinks=True)
        new_data = load_settings(data_dir=folders[1])
        with servers.run_registry(new_data) as port:
            settings = new_data.model_copy(update={"mlflow_port": port})
            old, new = (
                Checkout(source.resolve(), folder, settings)
                for source, folder in zip((args.old, args.new), folders, strict=True)
            )
            _compare_starts(old, new, args.starts)
            bodies, _ = request_bodies(open_panel(current_dataset(new_data)))
            with old.run_service() as (old_port, _), new.run_service() as (new_port, _):
                compare_single_rows(old_port, new_port, bodies, args.seconds)
                memory = [servers.read_metric(port, _MEMORY) / 1e6 for port in (new_port, old_port)]
                print_result("resident memory after the load, MB", *memory)


def _compare_starts(old: Checkout, new: Checkout, count: int) -> None:
    for checkout in (old, new):
        checkout.measure_start()  # fills the caches of compiled code and of the model
    turns = []
    for index in range(count):
        if index % 2:
            second, first = new.measure_start(), old.measure_start()
        else:
            first, second = old.measure_start(), new.measure_start()
        turns.append((first, second))
    times = np.array(turns)  # turn, checkout, measure
    for measure, name in enumerate(("start to healthy, s", "resident memory idle, MB")):
        old_values, new_values = times[:, 0, measure], times[:, 1, measure]
        ratio = float(np.median(new_values / old_values))
        print_result(name, float(np.median(new_values)), float(np.median(old_values)), ratio)


if __name__ == "__main__":
    main()
