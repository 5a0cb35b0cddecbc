"""Cost of the prediction log: ``python benchmarks/prediction_log.py [URL]``.

Prints the time to log an entry, rows per second to disk and to the database, bytes per row, and the
delay of another thread while 1,000 entries a second are logged, against the same without a log.
Takes half a minute. Without a URL, SQLite in a temporary folder; a URL must name an empty database.
"""

import gc
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from rossmann.prediction_log.records import LoggedPrediction, to_batch, to_columns
from rossmann.prediction_log.writing.log import PredictionLog
from rossmann.schema import StoreDays

RATE = 1_000
SECONDS = 8


def make_entry(rows: int) -> LoggedPrediction:
    """An entry with so many rows, with bounds of one level."""
    flags = np.ones(rows, np.uint8)
    stores = np.resize(np.arange(1, 1116, dtype=np.int32), rows)
    days = (16_650 + np.arange(rows) // 1115 % 48).astype(np.int32)
    sales = np.random.default_rng(1).random(rows) * 9_000
    return LoggedPrediction(
        "c2f1a4e8b9d04c6f8a1b2c3d4e5f6071",
        datetime.now(UTC),
        "predict",
        "answer",
        "planner",
        3,
        "Production",
        16_649,
        "accuracy",
        StoreDays(stores, days, flags, flags, 0 * flags, flags),
        sales,
        ((0.8, sales * 0.9, sales * 1.1),),
        0.001,
    )


def thread_delays(log: PredictionLog | None) -> np.ndarray:
    """Delays in ms of a thread that wakes each millisecond and logs an entry each time."""
    delays = []
    due = time.perf_counter()
    for _ in range(RATE * SECONDS):
        due += 1 / RATE
        time.sleep(max(0.0, due - time.perf_counter()))
        delays.append(time.perf_counter() - due)
        entry = make_entry(1)
        if log is not None:
            log.log(entry)
    return np.array(delays) * 1e3


def print_speed(log: PredictionLog, entries: list[LoggedPrediction], name: str) -> None:
    """Print rows per second to disk and to the database; closes the log."""
    rows = sum(len(entry.rows) for entry in entries)
    log.start()
    start = time.perf_counter()
    for entry in entries:
        log.log(entry)
    logged = time.perf_counter() - start
    log.flush(60)
    spooled = time.perf_counter() - start
    log.close(120)
    written = time.perf_counter() - start
    print(
        f"{name}: {logged / len(entries) * 1e6:.1f} us to log one;"
        f" {rows / spooled:,.0f} rows/s to disk, {rows / written:,.0f} rows/s to the database"
    )


def main() -> None:
    """Print all measures."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "log.db"
        url = sys.argv[1] if len(sys.argv) > 1 else f"sqlite:///{file}"
        spool = Path(folder) / "spool"
        singles = [make_entry(1) for _ in range(20_000)]
        large = [make_entry(41_088) for _ in range(5)]
        print_speed(PredictionLog(url, spool), singles, "20,000 requests of one row")
        before = file.stat().st_size if file.exists() else 0
        print_speed(PredictionLog(url, spool), large, "5 requests of 41,088 rows")
        if before:
            print(f"a row of those takes {(file.stat().st_size - before) / 205_440:.0f} bytes")
        for rows, count in ((1, 1), (1, 1_000), (41_088, 1)):
            batch = to_batch([to_columns([make_entry(rows)] * count, 1)])
            size = len(batch.encode())
            print(f"a file of {count:,} requests of {rows:,} rows: {size / 1e3:,.1f} kB")
        # As in a running service; otherwise garbage collection of imported objects would count.
        gc.collect()
        gc.freeze()
        log = PredictionLog(url, spool)
        log.start()
        for name, used in (("without a log", None), ("with a log", log)):
            p50, p99, p999 = np.quantile(thread_delays(used), (0.5, 0.99, 0.999))
            print(
                f"{name}: a thread is delayed by p50 {p50:.2f}, p99 {p99:.2f}, p99.9 {p999:.2f} ms"
            )
        log.close()


if __name__ == "__main__":
    main()
