"""Asynchronous prediction log of one process: queue in memory, disk spool, database.

``log`` leaves an entry in memory. One thread writes the entries to a spool file every
``flush_seconds``; another moves files to the database. So a database that is locked, slow, full or
unreachable delays neither responses nor files, and a full disk delays no response.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rossmann.logging_config import get_logger
from rossmann.prediction_log.records import LoggedPrediction, LogStore, StoreFactory
from rossmann.prediction_log.writing.database_shipper import MAX_ROWS, DatabaseShipper
from rossmann.prediction_log.writing.disk_spool import DiskSpool
from rossmann.prediction_log.writing.spool_writer import MAX_FILE_ROWS, MemoryQueue, SpoolWriter
from rossmann.settings import Settings

_REST_RATIO: Final = 4
"""Moving rows to the database takes at most one part in five of a core's time."""
_FLUSHES_PER_WRITE: Final = 5
"""Flushes that are written to the database at once: many rows then share an index page."""


def open_store(url: str) -> LogStore:
    """The store in SQLite or PostgreSQL; raises ``SettingsError`` for a URL that is neither."""
    # Its import takes a quarter of a second: not before the log starts.
    from rossmann.prediction_log.database.sql_store import SqlLogStore

    return SqlLogStore(url)


@dataclass(frozen=True, slots=True)
class LogOptions:
    """Bounds of a log: ``memory_rows`` take some 50 MB; ``keep_days`` 0 keeps all rows."""

    flush_seconds: float = 1.0
    spool_bytes: int = 512 * 2**20
    keep_days: int = 0
    memory_rows: int = 1_000_000


@dataclass(frozen=True, slots=True)
class LogStatus:
    """Contents and totals of the log of this process.

    ``queue_rows`` are in memory only; ``acknowledged_rows`` are the rows put on disk since the
    start, ``spool_rows`` those that still wait there. ``written_rows`` reached the database, with
    those of processes that ended. ``dropped_rows`` found memory and spool full;
    ``rejected_rows`` were rejected by the database and quarantined.
    ``seconds_since_success``: since the database last took rows; None where it has not yet.
    """

    queue_rows: int
    queue_limit: int
    spool_files: int
    spool_rows: int
    spool_bytes: int
    spool_limit: int
    acknowledged_rows: int
    written_rows: int
    dropped_rows: int
    rejected_rows: int
    last_error: str
    seconds_since_success: float | None


class PredictionLog:
    """The log of one process. ``open_store`` opens the database; tests pass stores that fail."""

    def __init__(
        self,
        url: str,
        spool_folder: Path,
        options: LogOptions = LogOptions(),
        open_store: StoreFactory = open_store,
    ) -> None:
        self._flush_seconds = options.flush_seconds
        memory_rows = options.memory_rows
        self._queue = MemoryQueue(memory_rows, min(MAX_FILE_ROWS, memory_rows))
        self._spool = DiskSpool(spool_folder, options.spool_bytes)
        self.spool_writer = SpoolWriter(self._queue, self._spool)
        self.shipper = DatabaseShipper(self._spool, url, open_store, options.keep_days)
        self._files_ready = threading.Event()
        self._closing = threading.Event()
        self._deadline: float | None = None
        self._threads = (
            threading.Thread(target=self._run_spool_writer, name="log-spool", daemon=True),
            threading.Thread(target=self._run_shipper, name="log-ship", daemon=True),
        )

    def log(self, entry: LoggedPrediction) -> None:
        """Log a response. Never blocks and never raises; takes some microseconds."""
        self._queue.put(entry)

    def start(self) -> None:
        """Start to write. Works without database and disk."""
        for thread in self._threads:
            thread.start()

    def close(self, seconds: float = 5.0) -> None:
        """Accept no more entries, write all to disk, and ship for at most ``seconds``.

        Rows that the database has not taken until then stay on disk, for the next process.
        """
        self._queue.close()
        self._deadline = time.monotonic() + seconds
        self._closing.set()
        self._queue.high_water.set()
        self._files_ready.set()
        for thread in self._threads:
            if thread.is_alive():
                thread.join(max(0.0, self._deadline + 1 - time.monotonic()))
        if any(thread.is_alive() for thread in self._threads):
            return  # a call of the database hangs: the end of the process releases the rest
        self.shipper.close()
        self._spool.close()
        if self._queue.rows:
            get_logger("prediction_log").error("rows are lost at the end", rows=self._queue.rows)

    def flush(self, seconds: float = 5.0) -> bool:
        """Wait until all entries are on disk; False on timeout."""
        end = time.monotonic() + seconds
        while self._queue.rows:
            if time.monotonic() > end:
                return False
            self._queue.high_water.set()
            time.sleep(0.005)
        return True

    def status(self) -> LogStatus:
        """Contents and totals; reads a few numbers, touches neither disk nor database."""
        size = self._spool.size
        errors = (self.spool_writer.backoff.error, self.shipper.backoff.error)
        success = self.shipper.last_success
        return LogStatus(
            queue_rows=self._queue.rows,
            queue_limit=self._queue.max_rows,
            spool_files=size.files,
            spool_rows=size.rows,
            spool_bytes=size.bytes,
            spool_limit=self._spool.max_bytes,
            acknowledged_rows=self.spool_writer.acknowledged_rows,
            written_rows=self.shipper.written_rows,
            dropped_rows=self._queue.dropped,
            rejected_rows=self.shipper.rejected_rows,
            last_error="; ".join(filter(None, errors)),
            seconds_since_success=None if success is None else time.monotonic() - success,
        )

    def _run_spool_writer(self) -> None:
        writer = self.spool_writer
        while True:
            closing = self._closing.is_set()
            self._queue.high_water.clear()
            if _step_safely(writer.step, writer.backoff.failed) and self._spool.size.files:
                self._files_ready.set()
            if closing:
                return
            # While nothing can be written, a long queue is no reason to try early.
            wake = self._closing if writer.backoff.error else self._queue.high_water
            wake.wait(self._flush_seconds)

    def _run_shipper(self) -> None:
        shipper = self.shipper
        while True:
            all_spooled = not self._threads[0].is_alive()
            self._files_ready.clear()
            started, rows_before = time.thread_time(), shipper.written_rows
            more = _step_safely(shipper.step, shipper.backoff.failed)
            self._rest(time.thread_time() - started, shipper.written_rows > rows_before)
            if self._closing.is_set():
                late = self._deadline is not None and time.monotonic() > self._deadline
                if late or (all_spooled and not more):
                    return
                if not more:
                    time.sleep(0.01)
            elif shipper.backoff.error:
                self._closing.wait(shipper.backoff.remaining_seconds)
            elif not more:
                self._files_ready.wait(self._flush_seconds)

    def _rest(self, busy: float, moved: bool) -> None:
        """Leave the core to requests after ``busy`` seconds of work, while the spool has room.

        Spooled rows are safe on disk. Under a load that takes all of a core, moving rows as they
        arrive would take half of it.
        """
        size = self._spool.size
        if not self._closing.is_set() and size.bytes < self._spool.max_bytes / 2:
            caught_up = moved and size.rows < MAX_ROWS
            interval = _FLUSHES_PER_WRITE * self._flush_seconds
            self._closing.wait(max(_REST_RATIO * busy, interval if caught_up else 0.0))


def _step_safely(step: Callable[[], bool], on_error: Callable[[str], None]) -> bool:
    """One step of a thread that no error may end."""
    try:
        return step()
    except Exception as error:  # noqa: BLE001 - logging goes on after any error
        on_error(f"fault of the program: {error!r}"[:500])
        return False


def open_log(settings: Settings) -> PredictionLog | None:
    """The prediction log that the settings name, not yet started; None where it is off.

    Touches neither database nor disk.
    """
    if not settings.prediction_log:
        return None
    options = LogOptions(
        flush_seconds=settings.log_flush_seconds,
        # Each worker has its share, so that all of them stay within the bound.
        spool_bytes=max(1, settings.log_spool_mb * 2**20 // settings.workers),
        keep_days=settings.log_keep_days,
    )
    return PredictionLog(settings.log_url, settings.log_spool_dir, options)
