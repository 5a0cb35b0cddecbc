"""What the prediction log costs: ``python benchmarks/prediction_log.py [URL]``.

Prints the cost of handing over an answer, how many rows a second reach disk and database, the room
that a row takes, and how long another thread waits for its turn while 1,000 answers a second are
logged, beside the same without a log. Takes half a minute. Without a URL, SQLite in a temporary
folder; a URL must name an empty database.
"""

import gc
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from rossmann.prediction_log.records import LoggedPrediction, make_batch
from rossmann.prediction_log.writing.log import PredictionLog
from rossmann.schema import StoreDays

RATE = 1_000
SECONDS = 8


def entry(rows: int) -> LoggedPrediction:
    """An answer of so many rows, with bounds of one level."""
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


def waits(log: PredictionLog | None) -> np.ndarray:
    """How late a thread is that wants its turn each millisecond and logs each time, in ms."""
    late = []
    due = time.perf_counter()
    for _ in range(RATE * SECONDS):
        due += 1 / RATE
        time.sleep(max(0.0, due - time.perf_counter()))
        late.append(time.perf_counter() - due)
        if log is not None:
            log.log(entry(1))
        else:
            entry(1)
    return np.array(late) * 1e3


def speed(log: PredictionLog, entries: list[LoggedPrediction], name: str) -> None:
    """Print rows a second to disk and to the database."""
    rows = sum(len(e.rows) for e in entries)
    begun = time.perf_counter()
    for one in entries:
        log.log(one)
    handed = time.perf_counter() - begun
    log.flush(60)
    kept = time.perf_counter() - begun
    log.drain(120)
    written = time.perf_counter() - begun
    print(
        f"{name}: {handed / len(entries) * 1e6:.1f} us to hand over one;"
        f" {rows / kept:,.0f} rows/s to disk, {rows / written:,.0f} rows/s to the database"
    )


def main() -> None:
    """Print all of it."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "log.db"
        url = sys.argv[1] if len(sys.argv) > 1 else f"sqlite:///{file}"
        log = PredictionLog(url, Path(folder) / "spool")
        log.start()
        speed(log, [entry(1) for _ in range(20_000)], "20,000 answers of one row")
        before = file.stat().st_size if file.exists() else 0
        speed(log, [entry(41_088) for _ in range(5)], "5 answers of 41,088 rows")
        if before:
            print(f"a row of those takes {(file.stat().st_size - before) / 205_440:.0f} bytes")
        for rows, count in ((1, 1), (1, 1_000), (41_088, 1)):
            size = len(make_batch([entry(rows)] * count, 1).encode())
            print(f"a file of {count:,} answers of {rows:,} rows: {size / 1e3:,.1f} kB")
        # As in a service that is up: else a sweep over all that it imported counts as the log's.
        gc.collect()
        gc.freeze()
        for name, used in (("without a log", None), ("with a log", log)):
            late = waits(used)
            p50, p99, p999 = np.quantile(late, (0.5, 0.99, 0.999))
            print(f"{name}: a turn comes late by p50 {p50:.2f}, p99 {p99:.2f}, p99.9 {p999:.2f} ms")
        log.close()


if __name__ == "__main__":
    main()
