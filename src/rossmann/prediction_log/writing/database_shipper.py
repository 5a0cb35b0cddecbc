"""Moves spool files to the database, deletes old rows once a day, and retries with backoff.

Files are moved in order and deleted after the commit. A failure is logged when it begins and when
it ends; the wait between tries doubles up to a bound. No row is deleted after the clock was set.
"""

import time
from datetime import UTC, date, datetime, timedelta
from typing import Final

from rossmann.errors import RossmannError
from rossmann.logging_config import get_logger
from rossmann.prediction_log.records import (
    Batch,
    CorruptBatchError,
    LogStore,
    RejectedRowsError,
    StoreFactory,
    decode,
)
from rossmann.prediction_log.writing.disk_spool import DiskSpool, SpooledFile

MAX_ROWS: Final = 20_000
"""Rows that are written in one transaction."""
MAX_FILES: Final = 200
ADOPT_SECONDS: Final = 5.0
PRUNE_ROWS: Final = 5_000
MIN_WAIT_SECONDS: Final = 0.25
MAX_WAIT_SECONDS: Final = 30.0
_MAX_REJECTIONS: Final = 3
_CLOCK_TOLERANCE: Final = 3_600


class RetryBackoff:
    """Exponential backoff of one operation; ``error`` is empty while it works."""

    def __init__(self, description: str) -> None:
        self.error = ""
        self._description = description
        self._wait = 0.0
        self._retry_at = 0.0

    @property
    def remaining_seconds(self) -> float:
        """Seconds until the next try."""
        return max(0.0, self._retry_at - time.monotonic())

    def failed(self, error: str) -> None:
        """Log the failure, unless it is the same as before, and double the wait."""
        if error != self.error:
            get_logger("prediction_log").warning(self._description, reason=error)
        self.error = error
        self._wait = min(MAX_WAIT_SECONDS, self._wait * 2 or MIN_WAIT_SECONDS)
        self._retry_at = time.monotonic() + self._wait

    def succeeded(self) -> None:
        """Log the end of a failure."""
        if self.error:
            get_logger("prediction_log").info(f"{self._description}: over")
        self.error, self._wait, self._retry_at = "", 0.0, 0.0


class PruneSchedule:
    """When to delete old rows, and which; ``claimed``: this process deletes today's."""

    def __init__(self, keep_days: int) -> None:
        self.claimed = False
        self._keep_days = keep_days
        self._done_on: date | None = None
        self._deleted = 0
        # Difference of both clocks: a wall clock that was set to another year must not empty the
        # log.
        self._offset = time.time() - time.monotonic()
        self._clock_was_set = False

    def due(self) -> datetime | None:
        """Rows answered before that moment are to be deleted; None where nothing is due today."""
        now = datetime.now(UTC)
        was_set = abs(time.time() - time.monotonic() - self._offset) > _CLOCK_TOLERANCE
        if was_set and not self._clock_was_set:
            self._clock_was_set = True
            get_logger("prediction_log").warning("the clock was set: old rows stay until a restart")
        if not self._keep_days or self._done_on == now.date() or self._clock_was_set:
            return None
        return now - timedelta(days=self._keep_days)

    def add_deleted(self, rows: int) -> None:
        """Count the rows of one step; 0 finishes the day."""
        self._deleted += rows
        if not rows:
            self.finish_day()

    def finish_day(self) -> None:
        """Nothing is due until tomorrow."""
        if self._deleted:
            get_logger("prediction_log").info("deleted old rows", rows=self._deleted)
        self._done_on, self.claimed, self._deleted = datetime.now(UTC).date(), False, 0


class DatabaseShipper:
    """Moves files in order; used by one thread.

    ``keep_days``: rows answered longer ago are deleted once a day, by one process of all that
    share the database; 0 keeps all.
    """

    def __init__(
        self, spool: DiskSpool, url: str, open_store: StoreFactory, keep_days: int
    ) -> None:
        self.backoff = RetryBackoff("prediction log: rows wait in the spool")
        self.written_rows = 0
        self.rejected_rows = 0
        self.last_success: float | None = None
        self._spool = spool
        self._url = url
        self._open_store = open_store
        self._store: LogStore | None = None
        self._adopt_at = 0.0
        self._rejections = 0
        self._pruning = PruneSchedule(keep_days)

    def step(self) -> bool:
        """Move some files, or do other work that is due; False where nothing is left to do now."""
        try:
            self._adopt_orphans()
            # After a rejection one file at a time, to find the one with invalid rows.
            limits = (1, 1) if self._rejections else (MAX_ROWS, MAX_FILES)
            files = self._spool.next_files(*limits)
            more = self._move(files) if files else self._prune()
        except (RossmannError, OSError) as error:
            self.backoff.failed(str(error))
            return False
        self.backoff.succeeded()
        return more

    def close(self) -> None:
        """Close the connections to the database."""
        if self._store is not None:
            self._store.close()

    def _adopt_orphans(self) -> None:
        if time.monotonic() >= self._adopt_at:
            folders = self._spool.adopt_orphans()
            self._adopt_at = time.monotonic() + ADOPT_SECONDS
            if folders:
                get_logger("prediction_log").info("took over what others left", folders=folders)

    def _open(self) -> LogStore:
        if self._store is None:
            self._store = self._open_store(self._url)
        return self._store

    def _move(self, files: list[SpooledFile]) -> bool:
        batches = self._read(files)
        if not batches:
            return True
        try:
            self._open().write(files[0].writer, [(file.number, batch) for file, batch in batches])
        except RejectedRowsError as error:
            self._rejections += 1
            if self._rejections > _MAX_REJECTIONS and len(files) == 1:
                self._quarantine(files[0], str(error))
                return True
            raise
        self._rejections = 0
        self.last_success = time.monotonic()
        self._spool.remove([file for file, _ in batches])
        self.written_rows += sum(len(batch) for _, batch in batches)
        return True

    def _read(self, files: list[SpooledFile]) -> list[tuple[SpooledFile, Batch]]:
        """The files before the first unreadable one; that one is quarantined where it is first."""
        batches: list[tuple[SpooledFile, Batch]] = []
        for file in files:
            try:
                batches.append((file, decode(file.path.read_bytes())))
            except (CorruptBatchError, FileNotFoundError) as error:
                if not batches:
                    self._quarantine(file, str(error))
                break
        return batches

    def _quarantine(self, file: SpooledFile, reason: str) -> None:
        self._rejections = 0
        self.rejected_rows += file.rows
        self._spool.quarantine(file, reason)

    def _prune(self) -> bool:
        before = self._pruning.due()
        if before is None:
            return False
        store = self._open()
        if not self._pruning.claimed and not store.claim_pruning(datetime.now(UTC).date()):
            self._pruning.finish_day()
            return False
        self._pruning.claimed = True
        deleted = store.prune(before, PRUNE_ROWS)
        self._pruning.add_deleted(deleted)
        return deleted > 0
