"""Bounded queue of logged predictions in memory, and the writer that moves them to spool files."""

import threading
import time
from collections import deque
from typing import Final

from rossmann.logging_config import get_logger
from rossmann.prediction_log.records import (
    Batch,
    BatchColumns,
    LoggedPrediction,
    to_batch,
    to_columns,
)
from rossmann.prediction_log.writing.database_shipper import RetryBackoff
from rossmann.prediction_log.writing.disk_spool import DiskSpool

MAX_ENTRIES: Final = 1_024
"""Entries that are taken from the queue at once."""
MAX_FILE_ROWS: Final = 50_000
"""Rows of a file, unless one entry has more: it is written to the database in one transaction."""
_PAUSE_SECONDS: Final = 0.001


class MemoryQueue:
    """A queue of entries that holds at most ``max_rows`` rows.

    An entry that finds it full is dropped, and counted. The newest is dropped rather than the
    oldest: what is missing from the log is then one gap with a beginning and an end.
    Rows count until ``acknowledge`` says that they are on disk.
    """

    def __init__(self, max_rows: int, high_water_rows: int) -> None:
        self.max_rows = max_rows
        self.high_water = threading.Event()
        """Set where so many rows wait that they should be taken early."""
        self._high_water_rows = high_water_rows
        self._lock = threading.Lock()
        self._entries: deque[LoggedPrediction] = deque()
        self._rows = 0
        self._dropped = 0
        self._open = True

    @property
    def rows(self) -> int:
        """Rows that are queued, or were taken and are not acknowledged yet."""
        return self._rows

    @property
    def dropped(self) -> int:
        """Rows that were dropped so far."""
        return self._dropped

    def put(self, entry: LoggedPrediction) -> bool:
        """Add an entry; False where it was dropped. Does not block."""
        count = len(entry.rows)
        with self._lock:
            # An entry larger than the bound is accepted when the queue is empty.
            if not self._open or (self._rows and self._rows + count > self.max_rows):
                self._dropped += count
                return False
            self._entries.append(entry)
            self._rows += count
        if self._rows >= self._high_water_rows:
            self.high_water.set()
        return True

    def take(self, max_rows: int, at_least_one: bool = True) -> list[LoggedPrediction]:
        """The oldest entries, of ``max_rows`` rows and ``MAX_ENTRIES`` entries at most."""
        entries: list[LoggedPrediction] = []
        rows = 0
        while self._entries and len(entries) < MAX_ENTRIES:
            rows += len(self._entries[0].rows)
            if rows > max_rows and (entries or not at_least_one):
                break
            entries.append(self._entries.popleft())
        return entries

    def acknowledge(self, rows: int, dropped: int = 0) -> None:
        """Count so many rows as written to disk, and so many as dropped."""
        with self._lock:
            self._rows -= rows + dropped
            self._dropped += dropped

    def close(self) -> None:
        """Drop all later entries."""
        with self._lock:
            self._open = False


class SpoolWriter:
    """Moves entries from the queue to the spool; used by one thread."""

    def __init__(self, queue: MemoryQueue, spool: DiskSpool) -> None:
        self.backoff = RetryBackoff("prediction log: rows wait in memory")
        self.acknowledged_rows = 0
        self._queue = queue
        self._spool = spool
        self._unwritten: Batch | None = None
        self._next_number = 1
        self._dropped = 0
        self._reported_dropped = 0

    def step(self) -> bool:
        """Write all entries of the queue; False where this fails, and they stay in memory.

        Entries that arrive meanwhile wait for the next step: else a few rows at a time would be
        converted for as long as any arrive.
        """
        self._log_dropped()
        remaining = self._queue.rows
        while True:
            if self._unwritten is None and remaining > 0:
                self._unwritten = self._take_batch(min(remaining, MAX_FILE_ROWS))
            if self._unwritten is None:
                return True
            if self._spool.full:
                limit = f"{self._spool.max_bytes / 1e6:,.0f} MB"
                self.backoff.failed(f"the spool is full ({limit}): the database takes nothing")
                return False
            try:
                self._spool.write(self._unwritten)
            except OSError as error:
                self.backoff.failed(f"cannot write the spool: {error}")
                return False
            self.backoff.succeeded()
            self.acknowledged_rows += len(self._unwritten)
            self._queue.acknowledge(len(self._unwritten))
            remaining -= len(self._unwritten)
            self._unwritten = None

    def _take_batch(self, max_rows: int) -> Batch | None:
        parts: list[BatchColumns] = []
        rows = 0
        while rows < max_rows:
            entries = self._queue.take(max_rows - rows, at_least_one=not parts)
            if not entries:
                break
            parts += self._convert(entries)
            rows = sum(len(part.rows["row"]) for part in parts)
        return to_batch(parts) if parts else None

    def _convert(self, entries: list[LoggedPrediction]) -> list[BatchColumns]:
        """Entries as columns; an invalid one is dropped, and no other with it."""
        try:
            columns = to_columns(entries, self._next_number, _yield_cpu)
        except Exception as error:  # noqa: BLE001 - an invalid entry must not end the thread
            if len(entries) > 1:
                return [part for entry in entries for part in self._convert([entry])]
            get_logger("prediction_log").error("dropped an entry", reason=repr(error)[:500])
            self._queue.acknowledge(0, dropped=len(entries[0].rows))
            return []
        self._next_number += len(entries)
        return [columns]

    def _log_dropped(self) -> None:
        """Log once when rows begin to be dropped, and once, with their number, when that ends."""
        dropped = self._queue.dropped
        log = get_logger("prediction_log")
        if dropped > self._dropped and self._dropped == self._reported_dropped:
            log.error("rows are dropped from now on: memory is full", why=self.backoff.error)
        elif dropped == self._dropped > self._reported_dropped and not self.backoff.error:
            log.error("rows were dropped, which is over", rows=dropped - self._reported_dropped)
            self._reported_dropped = dropped
        self._dropped = dropped


def _yield_cpu() -> None:
    """Let the threads that serve requests run."""
    time.sleep(_PAUSE_SECONDS)
