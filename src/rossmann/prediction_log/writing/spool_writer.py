"""The first step behind an answer: entries become files of the spool.

MERGED: Where answers are left for the log: in memory, bounded by rows, never in the way.
"""

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

CHUNK: Final = 1_024
"""Entries that are taken at once."""


class MemoryQueue:
    """A queue of entries that holds at most ``most_rows`` rows.

    An entry that finds it full is refused, and counted. The newest is refused rather than the
    oldest thrown away: what is missing from the log is then one gap with a beginning and an end.
    Rows count until ``settle`` says that they are kept elsewhere.
    """

    def __init__(self, most_rows: int, hurry_rows: int) -> None:
        self.most_rows = most_rows
        self.high_water = threading.Event()
        """Set where so many rows wait that they should be taken before their time."""
        self._hurry_rows = hurry_rows
        self._lock = threading.Lock()
        self._entries: deque[LoggedPrediction] = deque()
        self._rows = 0
        self._dropped = 0
        self._open = True

    @property
    def rows(self) -> int:
        """Rows that are held here, or were taken and are not kept elsewhere yet."""
        return self._rows

    @property
    def dropped(self) -> int:
        """Rows that were refused, or given up, so far."""
        return self._dropped

    def put(self, entry: LoggedPrediction) -> bool:
        """Leave an entry; False where it was refused. Waits for nothing."""
        count = len(entry.rows)
        with self._lock:
            # One that is larger than all the room is taken when there is nothing else.
            if not self._open or (self._rows and self._rows + count > self.most_rows):
                self._dropped += count
                return False
            self._entries.append(entry)
            self._rows += count
        if self._rows >= self._hurry_rows:
            self.high_water.set()
        return True

    def take(self, most_rows: int, at_least_one: bool = True) -> list[LoggedPrediction]:
        """The oldest entries of so many rows: few, so that this takes no time."""
        taken: list[LoggedPrediction] = []
        rows = 0
        while self._entries and len(taken) < CHUNK:
            rows += len(self._entries[0].rows)
            if rows > most_rows and (taken or not at_least_one):
                break
            taken.append(self._entries.popleft())
        return taken

    def acknowledge(self, rows: int, dropped: int = 0) -> None:
        """Say that so many rows are kept elsewhere, and so many given up."""
        with self._lock:
            self._rows -= rows + dropped
            self._dropped += dropped

    def close(self) -> None:
        """Refuse what comes from now on."""
        with self._lock:
            self._open = False


FILE_ROWS: Final = 50_000
"""A file holds about so many rows at most: it is written to the database in one go."""
_PAUSE: Final = 0.001


class SpoolWriter:
    """Takes what waits in the intake to the spool; one thread calls it."""

    def __init__(self, intake: MemoryQueue, spool: DiskSpool) -> None:
        self.trouble = RetryBackoff("prediction log: rows wait in memory")
        self.kept = 0
        self._intake = intake
        self._spool = spool
        self._held: Batch | None = None
        self._next = 1
        self._dropped = 0
        self._told = 0

    def step(self) -> bool:
        """Write all that waits; False where it cannot be written now, and stays in memory.

        What comes meanwhile waits for the next step: who ran after it would convert a few rows at
        a time for as long as any come.
        """
        self._tell_dropped()
        left = self._intake.rows
        while True:
            if self._held is None and left > 0:
                self._held = self._collect(min(left, FILE_ROWS))
            if self._held is None:
                return True
            if self._spool.full:
                limit = f"{self._spool.most_bytes / 1e6:,.0f} MB"
                self.trouble.failed(f"the spool is full ({limit}): the database takes nothing")
                return False
            try:
                self._spool.write(self._held)
            except OSError as error:
                self.trouble.failed(f"cannot write the spool: {error}")
                return False
            self.trouble.succeeded()
            self.kept += len(self._held)
            self._intake.acknowledge(len(self._held))
            left -= len(self._held)
            self._held = None

    def _collect(self, most_rows: int) -> Batch | None:
        parts: list[BatchColumns] = []
        rows = 0
        while rows < most_rows:
            entries = self._intake.take(most_rows - rows, at_least_one=not parts)
            if not entries:
                break
            parts += self._convert(entries)
            rows = sum(len(part.rows["row"]) for part in parts)
        return to_batch(parts) if parts else None

    def _convert(self, entries: list[LoggedPrediction]) -> list[BatchColumns]:
        """Entries as columns; one that cannot be a line of the log costs no other."""
        try:
            columns = to_columns(entries, self._next, _give_way)
        except Exception as error:  # noqa: BLE001 - the log outlives any entry
            if len(entries) > 1:
                return [part for entry in entries for part in self._convert([entry])]
            get_logger("prediction_log").error("dropped an entry", reason=repr(error)[:500])
            self._intake.acknowledge(0, dropped=len(entries[0].rows))
            return []
        self._next += len(entries)
        return [columns]

    def _tell_dropped(self) -> None:
        """Once when rows begin to be refused, and once, with their number, when that is over."""
        now = self._intake.dropped
        log = get_logger("prediction_log")
        if now > self._dropped and self._dropped == self._told:
            log.error("rows are dropped from now on: memory is full", why=self.trouble.error)
        elif now == self._dropped > self._told and not self.trouble.error:
            log.error("rows were dropped, which is over", rows=now - self._told)
            self._told = now
        self._dropped = now


def _give_way() -> None:
    """A turn for the threads that answer."""
    time.sleep(_PAUSE)
