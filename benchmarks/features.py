"""Times of the features: arrays of the panel, training matrix, one row, Kaggle's test rows.

    python benchmarks/features.py            the data in use (ROSSMANN_DATA_DIR)

Prints the best of several runs in milliseconds; the arrays are built in a temporary folder.
"""

import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from rossmann.data.make_dataset import make_dataset
from rossmann.data.panel.panel import build_panel, open_panel
from rossmann.schema import MAX_HORIZON
from rossmann.settings import load_settings

KAGGLE_ROWS = 41_088


def best_ms(call: Callable[[], object], runs: int, repeat: int = 1) -> float:
    """The shortest time of ``call`` over ``runs``, each of ``repeat`` calls."""
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        for _ in range(repeat):
            call()
        times.append((time.perf_counter() - start) / repeat)
    return 1000 * min(times)


def main() -> None:
    """Build the panel, time the matrices, print the table."""
    settings = load_settings()
    info = make_dataset(settings)
    with tempfile.TemporaryDirectory() as folder:
        ignore_panels = shutil.ignore_patterns("panel-*")
        folder_copy = shutil.copytree(info.folder, Path(folder) / "data", ignore=ignore_panels)
        copy = replace(info, folder=Path(folder_copy))
        start = time.perf_counter()
        build_panel(copy, settings.thread_count)
        built = 1000 * (time.perf_counter() - start)
        panel = open_panel(copy)
        rows, _ = panel.sales_rows()
        horizon = np.random.default_rng(0).integers(1, MAX_HORIZON + 1, len(rows))
        usable = np.nonzero(rows.day - horizon - panel.first_day >= settings.history_days)[0]
        training, origins = rows.take(usable), (rows.day - horizon)[usable]
        last = panel.last_day
        one = panel.store_schedule(int(panel.store_numbers[0]), np.array([last + 1]))
        days = last + 1 + np.arange(KAGGLE_ROWS, dtype=np.int32) % MAX_HORIZON
        kaggle_rows = replace(training.take(np.arange(KAGGLE_ROWS) % len(training)), day=days)
        panel.matrix(one, last)  # compiled, or read from the cache
        times = {
            f"matrix, {len(training):,} rows": best_ms(lambda: panel.matrix(training, origins), 3),
            f"matrix, {KAGGLE_ROWS:,} rows": best_ms(lambda: panel.matrix(kaggle_rows, last), 5),
            "matrix, 1 row": best_ms(lambda: panel.matrix(one, last), 5, 200),
        }
        print(f"data: {info.dataset}, {info.rows:,} rows")
        print(f"{f'arrays, {settings.thread_count} threads':24}{built:12,.1f} ms")
        for name, milliseconds in times.items():
            print(f"{name:24}{milliseconds:12,.3f} ms, one thread")


if __name__ == "__main__":
    main()
