"""The second step behind an answer: files of the spool become rows of the database.

MERGED: When a process deletes old rows by itself: once a day, and never on the word of a set clock.

MERGED: What goes wrong is said once, waited out with growing patience, and said again when it ends.
"""

import time
from datetime import UTC, date, datetime, timedelta
from typing import Final

from rossmann.errors import RossmannError
from rossmann.logging_config import get_logger
from rossmann.prediction_log.database.store_protocol import (
    LogStore,
    RejectedRowsError,
    StoreFactory,
)
from rossmann.prediction_log.records import Batch, CorruptBatchError, decode
from rossmann.prediction_log.writing.disk_spool import DiskSpool, SpooledFile

_CLOCK_SLACK: Final = 3_600


class PruneSchedule:
    """When old rows are to be deleted, and how far that is."""

    def __init__(self, keep_days: int) -> None:
        self.claimed = False
        self._keep_days = keep_days
        self._day: date | None = None
        self._deleted = 0
        # By how much the clock runs ahead of the time that passes: a clock that was set to another
        # year must not empty the log.
        self._offset = time.time() - time.monotonic()
        self._moved = False

    def due(self) -> datetime | None:
        """Rows answered before that moment are to go; None where nothing is due today."""
        now = datetime.now(UTC)
        moved = abs(time.time() - time.monotonic() - self._offset) > _CLOCK_SLACK
        if moved and not self._moved:
            self._moved = True
            get_logger("prediction_log").warning("the clock was set: old rows stay until a restart")
        if not self._keep_days or self._day == now.date() or self._moved:
            return None
        return now - timedelta(days=self._keep_days)

    def count(self, deleted: int) -> None:
        """So many were deleted in a step; none: it is done for today."""
        self._deleted += deleted
        if not deleted:
            self.done(mine=True)

    def done(self, mine: bool) -> None:
        """Nothing more is to be done today."""
        if mine and self._deleted:
            get_logger("prediction_log").info("deleted old rows", rows=self._deleted)
        self._day, self.claimed, self._deleted = datetime.now(UTC).date(), False, 0


FIRST_WAIT: Final = 0.25
LONGEST_WAIT: Final = 30.0


class RetryBackoff:
    """The state of one thing that may fail: ``text`` is empty while it does not."""

    def __init__(self, what: str) -> None:
        self.error = ""
        self._what = what
        self._wait = 0.0
        self._next = 0.0

    @property
    def wait(self) -> float:
        """Seconds until it is worth another try."""
        return max(0.0, self._next - time.monotonic())

    def failed(self, text: str) -> None:
        """It failed: log that, unless it fails the same way as before, and wait longer."""
        if text != self.error:
            get_logger("prediction_log").warning(self._what, reason=text)
        self.error = text
        self._wait = min(LONGEST_WAIT, self._wait * 2 or FIRST_WAIT)
        self._next = time.monotonic() + self._wait

    def succeeded(self) -> None:
        """It works."""
        if self.error:
            get_logger("prediction_log").info(f"{self._what}: over")
        self.error, self._wait, self._next = "", 0.0, 0.0


MOST_ROWS: Final = 20_000
MOST_FILES: Final = 200
ADOPT_SECONDS: Final = 5.0
PRUNE_ROWS: Final = 5_000
_REFUSALS: Final = 3


class DatabaseShipper:
    """Moves files in order; one thread calls it.

    ``keep_days``: rows answered longer ago are deleted once a day, by one process of all that
    share the database; 0 keeps all.
    """

    def __init__(
        self, spool: DiskSpool, url: str, open_store: StoreFactory, keep_days: int
    ) -> None:
        self.trouble = RetryBackoff("prediction log: rows wait in the spool")
        self.written = 0
        self.refused = 0
        self.last_success: float | None = None
        self._spool = spool
        self._url = url
        self._open_store = open_store
        self._store: LogStore | None = None
        self._adopt_at = 0.0
        self._refusals = 0
        self._pruning = PruneSchedule(keep_days)

    def step(self) -> bool:
        """Move some files, or do other work that is due; False where nothing is left to do now."""
        try:
            self._adopt()
            files = self._spool.next_files(*self._most())
            more = self._move(files) if files else self._prune()
        except (RossmannError, OSError) as error:
            self.trouble.failed(str(error))
            return False
        self.trouble.succeeded()
        return more

    def close(self) -> None:
        """Let go of the database."""
        if self._store is not None:
            self._store.close()

    def _most(self) -> tuple[int, int]:
        # After a refusal one file at a time, to find the one that is at fault.
        return (MOST_ROWS, MOST_FILES) if self._refusals == 0 else (1, 1)

    def _adopt(self) -> None:
        if time.monotonic() >= self._adopt_at:
            found = self._spool.adopt_orphans()
            self._adopt_at = time.monotonic() + ADOPT_SECONDS
            if found:
                get_logger("prediction_log").info("took over what others left", folders=found)

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
            self._refusals += 1
            if self._refusals > _REFUSALS and len(files) == 1:
                self._set_aside(files[0], str(error))
                return True
            raise
        self._refusals = 0
        self.last_success = time.monotonic()
        self._spool.remove([file for file, _ in batches])
        self.written += sum(len(batch) for _, batch in batches)
        return True

    def _read(self, files: list[SpooledFile]) -> list[tuple[SpooledFile, Batch]]:
        """The files up to the first that cannot be read; that one, where it comes first, goes."""
        found: list[tuple[SpooledFile, Batch]] = []
        for file in files:
            try:
                found.append((file, decode(file.path.read_bytes())))
            except (CorruptBatchError, FileNotFoundError) as error:
                if not found:
                    self._set_aside(file, str(error))
                break
        return found

    def _set_aside(self, file: SpooledFile, reason: str) -> None:
        self._refusals = 0
        self.refused += file.rows
        self._spool.quarantine(file, reason)

    def _prune(self) -> bool:
        before = self._pruning.due()
        if before is None:
            return False
        store = self._open()
        if not self._pruning.claimed and not store.claim_pruning(datetime.now(UTC).date()):
            self._pruning.done(mine=False)
            return False
        self._pruning.claimed = True
        deleted = store.prune(before, PRUNE_ROWS)
        self._pruning.count(deleted)
        return deleted > 0
