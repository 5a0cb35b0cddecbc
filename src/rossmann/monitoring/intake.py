"""Where answers are left for the log: in memory, bounded by rows, never in the way."""

import threading
from collections import deque
from typing import Final

from rossmann.monitoring.entries import Entry

CHUNK: Final = 1_024
"""Entries that are taken at once."""


class Intake:
    """A queue of entries that holds at most ``most_rows`` rows.

    An entry that finds it full is refused, and counted. The newest is refused rather than the
    oldest thrown away: what is missing from the log is then one gap with a beginning and an end.
    Rows count until ``settle`` says that they are kept elsewhere.
    """

    def __init__(self, most_rows: int, hurry_rows: int) -> None:
        self.most_rows = most_rows
        self.hurry = threading.Event()
        """Set where so many rows wait that they should be taken before their time."""
        self._hurry_rows = hurry_rows
        self._lock = threading.Lock()
        self._entries: deque[Entry] = deque()
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

    def put(self, entry: Entry) -> bool:
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
            self.hurry.set()
        return True

    def take(self, most_rows: int, at_least_one: bool = True) -> list[Entry]:
        """The oldest entries of so many rows: few, so that this takes no time."""
        taken: list[Entry] = []
        rows = 0
        while self._entries and len(taken) < CHUNK:
            rows += len(self._entries[0].rows)
            if rows > most_rows and (taken or not at_least_one):
                break
            taken.append(self._entries.popleft())
        return taken

    def settle(self, rows: int, dropped: int = 0) -> None:
        """Say that so many rows are kept elsewhere, and so many given up."""
        with self._lock:
            self._rows -= rows + dropped
            self._dropped += dropped

    def close(self) -> None:
        """Refuse what comes from now on."""
        with self._lock:
            self._open = False
