"""When a process deletes old rows by itself: once a day, and never on the word of a set clock."""

import time
from datetime import UTC, date, datetime, timedelta
from typing import Final

from rossmann.logs import get_logger

_CLOCK_SLACK: Final = 3_600


class Pruning:
    """When old rows are to be deleted, and how far that is."""

    def __init__(self, keep_days: int) -> None:
        self.mine = False
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
        self._day, self.mine, self._deleted = datetime.now(UTC).date(), False, 0
