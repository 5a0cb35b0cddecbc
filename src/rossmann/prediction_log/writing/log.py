"""The prediction log: every answered row is kept, behind the answer and never in its way.

``put`` leaves an entry in memory. One thread turns what is there to a file of the spool, every
``flush_seconds``; another moves files to the database. So a database that is locked, slow, full or
away delays neither answers nor files, and a disk that is full delays no answer.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rossmann.logging_config import get_logger
from rossmann.prediction_log.database.store_protocol import LogStore, StoreFactory
from rossmann.prediction_log.records import LoggedPrediction
from rossmann.prediction_log.writing.database_shipper import MOST_ROWS, DatabaseShipper
from rossmann.prediction_log.writing.disk_spool import DiskSpool
from rossmann.prediction_log.writing.spool_writer import FILE_ROWS, MemoryQueue, SpoolWriter
from rossmann.settings import Settings


def open_store(url: str) -> LogStore:
    """The store in SQLite or PostgreSQL; raises ``SettingsError`` for a URL that is neither."""
    from rossmann.prediction_log.database.sql_store import (
        SqlLogStore,  # a quarter of a second: not before it starts
    )

    return SqlLogStore(url)


MEMORY_ROWS: Final = 1_000_000
"""Most rows in memory: some 50 MB."""
_REST: Final = 4
"""Moving rows to the database takes at most one part in five of a core's time."""
_TOGETHER: Final = 5
"""Flushes that are moved to the database at once: many rows touch a page of an index once."""


@dataclass(frozen=True, slots=True)
class LogStatus:
    """What the log of this process holds and did.

    ``queue_rows`` are in memory only; ``spool_rows`` are safe on disk and wait for the database.
    ``kept_rows`` were acknowledged (on disk) and ``written_rows`` reached the database, both since
    the start, the latter with what other processes left. ``dropped_rows`` found memory and spool
    full; ``refused_rows`` were set aside, because the database does not take them.
    ``seconds_since_success``: since the database last took rows; None where it has not yet.
    """

    queue_rows: int
    queue_limit: int
    spool_files: int
    spool_rows: int
    spool_bytes: int
    spool_limit: int
    kept_rows: int
    written_rows: int
    dropped_rows: int
    refused_rows: int
    last_error: str
    seconds_since_success: float | None


class PredictionLog:
    """The log of one process. ``open_store`` chooses the database's real part."""

    def __init__(
        self,
        url: str,
        spool_folder: Path,
        flush_seconds: float = 1.0,
        spool_bytes: int = 512 * 2**20,
        keep_days: int = 0,
        memory_rows: int = MEMORY_ROWS,
        open_store: StoreFactory = open_store,
    ) -> None:
        self._flush_seconds = flush_seconds
        self._intake = MemoryQueue(memory_rows, min(FILE_ROWS, memory_rows))
        self._spool = DiskSpool(spool_folder, spool_bytes)
        self.spooler = SpoolWriter(self._intake, self._spool)
        self.shipper = DatabaseShipper(self._spool, url, open_store, keep_days)
        self._files = threading.Event()
        self._ending = threading.Event()
        self._eager = threading.Event()
        self._deadline: float | None = None
        self._threads = (
            threading.Thread(target=self._keep, name="log-spool", daemon=True),
            threading.Thread(target=self._ship, name="log-ship", daemon=True),
        )

    def log(self, entry: LoggedPrediction) -> None:
        """Log an answer. Waits for nothing and raises nothing; takes some microseconds."""
        self._intake.put(entry)

    def start(self) -> None:
        """Begin to write. Needs neither database nor disk to be there."""
        for thread in self._threads:
            thread.start()

    def close(self, seconds: float = 5.0) -> None:
        """Take no more, put all that waits on disk, and give the database so long to take it.

        What it does not take is kept, and written by whoever runs next.
        """
        self._intake.close()
        self._deadline = time.monotonic() + seconds
        self._ending.set()
        self._eager.set()
        self._intake.high_water.set()
        self._files.set()
        for thread in self._threads:
            if thread.is_alive():
                thread.join(max(0.0, self._deadline + 1 - time.monotonic()))
        if any(thread.is_alive() for thread in self._threads):
            return  # it hangs in a call of the database: the end of the process lets go of the rest
        self.shipper.close()
        self._spool.close()
        if self._intake.rows:
            get_logger("prediction_log").error("rows are lost at the end", rows=self._intake.rows)

    def flush(self, seconds: float = 5.0) -> bool:
        """Wait until all that was put is on disk; False where it was not in that time."""
        return self._wait_for(lambda: self._intake.rows == 0, seconds)

    def drain(self, seconds: float = 30.0) -> bool:
        """Wait until all that was put is in the database; False where it was not in that time."""
        self._eager.set()
        try:
            return self._wait_for(lambda: self._intake.rows + self._spool.size[0] == 0, seconds)
        finally:
            if not self._ending.is_set():
                self._eager.clear()

    def state(self) -> LogStatus:
        """What the log holds and did; reads a few numbers, touches neither disk nor database."""
        files, rows, size = self._spool.size
        since = self.shipper.last_success
        return LogStatus(
            queue_rows=self._intake.rows,
            queue_limit=self._intake.most_rows,
            spool_files=files,
            spool_rows=rows,
            spool_bytes=size,
            spool_limit=self._spool.most_bytes,
            kept_rows=self.spooler.kept,
            written_rows=self.shipper.written,
            dropped_rows=self._intake.dropped,
            refused_rows=self.shipper.refused,
            last_error="; ".join(
                filter(None, (self.spooler.trouble.error, self.shipper.trouble.error))
            ),
            seconds_since_success=None if since is None else time.monotonic() - since,
        )

    def _wait_for(self, done: Callable[[], bool], seconds: float) -> bool:
        end = time.monotonic() + seconds
        while not done():
            if time.monotonic() > end:
                return False
            self._intake.high_water.set()
            time.sleep(0.005)
        return True

    def _keep(self) -> None:
        while True:
            ending = self._ending.is_set()
            self._intake.high_water.clear()
            if _survive(self.spooler.step, self.spooler.trouble.failed) and self._spool.size[0]:
                self._files.set()
            if ending:
                return
            # While nothing can be written, a queue that is long is no reason to hurry.
            wake = self._ending if self.spooler.trouble.error else self._intake.high_water
            wake.wait(self._flush_seconds)

    def _ship(self) -> None:
        while True:
            all_kept = not self._threads[0].is_alive()
            self._files.clear()
            begun, before = time.thread_time(), self.shipper.written
            more = _survive(self.shipper.step, self.shipper.trouble.failed)
            self._rest(time.thread_time() - begun, self.shipper.written > before)
            if self._ending.is_set():
                late = self._deadline is not None and time.monotonic() > self._deadline
                if late or (all_kept and not more):
                    return
                if not more:
                    time.sleep(0.01)
            elif self.shipper.trouble.error:
                self._ending.wait(self.shipper.trouble.wait)
            elif not more:
                self._files.wait(self._flush_seconds)

    def _rest(self, busy: float, moved: bool) -> None:
        """Leave the processor to answers after ``busy`` seconds of work, while there is room.

        What waits is safe on disk. Under a load that takes all of a core, moving rows as they come
        would take half of it.
        """
        if not self._eager.is_set() and self._spool.size[2] < self._spool.most_bytes / 2:
            caught_up = moved and self._spool.size[1] < MOST_ROWS
            together = _TOGETHER * self._flush_seconds
            self._eager.wait(max(_REST * busy, together if caught_up else 0.0))


def _survive(step: Callable[[], bool], tell: Callable[[str], None]) -> bool:
    """One step of a thread that nothing may end."""
    try:
        return step()
    except Exception as error:  # noqa: BLE001 - the log outlives any surprise
        tell(f"fault of the program: {error!r}"[:500])
        return False


def open_log(settings: Settings) -> PredictionLog | None:
    """The prediction log that the settings name, not yet started; None where it is off.

    Touches neither database nor disk.
    """
    if not settings.prediction_log:
        return None
    return PredictionLog(
        settings.log_url,
        settings.log_spool_dir,
        settings.log_flush_seconds,
        # Each worker has its share, so that all together keep to the bound.
        max(1, settings.log_spool_mb * 2**20 // settings.workers),
        settings.log_keep_days,
    )
