"""A process that logs until it is killed, and prints how many entries are on disk.

Arguments: URL of the database, folder of the spool, and the step at which it kills itself, or
``never``. Each entry has two rows.
"""

import os
import signal
import sys
from collections.abc import Sequence
from datetime import UTC, date, datetime
from pathlib import Path

import numpy as np

from rossmann.prediction_log.records import Batch, LoggedPrediction, LogStore
from rossmann.prediction_log.writing.log import LogOptions, PredictionLog, open_store
from rossmann.schema import StoreDays

FATAL_CALL = 3
"""The process kills itself at this call."""


def kill_self() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class KillingStore:
    def __init__(self, url: str, step: str) -> None:
        self.real: LogStore = open_store(url)
        self.step = step
        self.calls = 0

    def write(self, writer: str, batches: Sequence[tuple[int, Batch]]) -> None:
        self.calls += 1
        last = self.calls == FATAL_CALL
        if last and self.step == "before the transaction":
            kill_self()
        if last and self.step == "within the transaction":
            import rossmann.prediction_log.database.sql_store as module

            module._insert = lambda *_: kill_self()  # type: ignore[assignment]
        self.real.write(writer, batches)
        if last and self.step == "after the commit":
            kill_self()

    def claim_pruning(self, today: date) -> bool:
        return self.real.claim_pruning(today)

    def prune(self, before: datetime, max_rows: int) -> int:
        return self.real.prune(before, max_rows)

    def close(self) -> None:
        self.real.close()


def make_entry(number: int) -> LoggedPrediction:
    flags = np.ones(2, np.uint8)
    rows = StoreDays(np.arange(1, 3, dtype=np.int32), np.full(2, 16_650, np.int32), *[flags] * 4)
    return LoggedPrediction(
        request_id=f"{os.getpid()}-{number}",
        answered_at=datetime.now(UTC),
        endpoint="predict",
        role="answer",
        caller="",
        model_version=1,
        model_stage="Production",
        as_of=16_640,
        objective="accuracy",
        rows=rows,
        sales=np.full(2, float(number)),
        bounds=(),
        latency_seconds=0.001,
    )


def main() -> None:
    url, folder, step = sys.argv[1:]
    if step in ("before the rename", "after the rename"):
        rename = Path.rename
        calls = 0

        def killing_rename(self: Path, target: Path) -> Path:
            nonlocal calls
            calls += 1
            if calls == FATAL_CALL and step == "before the rename":
                kill_self()
            renamed = rename(self, target)
            if calls == FATAL_CALL:
                kill_self()
            return renamed

        Path.rename = killing_rename  # type: ignore[assignment]
    log = PredictionLog(
        url, Path(folder), LogOptions(flush_seconds=0.005), lambda url: KillingStore(url, step)
    )
    log.start()
    number = 0
    while True:
        for _ in range(20):
            log.log(make_entry(number))
            number += 1
        if log.flush():
            sys.stdout.write(f"{number}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
