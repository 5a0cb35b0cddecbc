"""Time the features: the panel's arrays, the training matrix, one row, and Kaggle's test length.

    python benchmarks/features.py            the data in use (ROSSMANN_DATA_DIR)

Prints the best of several runs in milliseconds; the arrays are built anew in a temporary folder.
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
    """The least time of ``call`` over ``runs``, each of ``repeat`` calls."""
    times = []
    for _ in range(runs):
        begun = time.perf_counter()
        for _ in range(repeat):
            call()
        times.append((time.perf_counter() - begun) / repeat)
    return 1000 * min(times)


def main() -> None:
    """Build the panel anew, time the gathers, print the table."""
    settings = load_settings()
    info = make_dataset(settings)
    with tempfile.TemporaryDirectory() as folder:
        tables = shutil.ignore_patterns("panel-*")
        fresh = shutil.copytree(info.folder, Path(folder) / "data", ignore=tables)
        copy = replace(info, folder=Path(fresh))
        begun = time.perf_counter()
        build_panel(copy, settings.thread_count)
        built = 1000 * (time.perf_counter() - begun)
        panel = open_panel(copy)
        rows, _ = panel.sales_rows()
        horizon = np.random.default_rng(0).integers(1, MAX_HORIZON + 1, len(rows))
        kept = np.nonzero(rows.day - horizon - panel.first_day >= settings.history_days)[0]
        training, origins = rows.take(kept), (rows.day - horizon)[kept]
        last = panel.last_day
        one = panel.store_schedule(int(panel.store_numbers[0]), np.array([last + 1]))
        ahead = last + 1 + np.arange(KAGGLE_ROWS, dtype=np.int32) % MAX_HORIZON
        many = replace(training.take(np.arange(KAGGLE_ROWS) % len(training)), day=ahead)
        panel.matrix(one, last)  # compiled, or read from the cache
        times = {
            f"matrix, {len(training):,} rows": best_ms(lambda: panel.matrix(training, origins), 3),
            f"matrix, {KAGGLE_ROWS:,} rows": best_ms(lambda: panel.matrix(many, last), 5),
            "matrix, 1 row": best_ms(lambda: panel.matrix(one, last), 5, 200),
        }
        print(f"data: {info.dataset}, {info.rows:,} rows")
        print(f"{f'arrays, {settings.thread_count} threads':24}{built:12,.1f} ms")
        for name, took in times.items():
            print(f"{name:24}{took:12,.3f} ms, one thread")


if __name__ == "__main__":
    main()
