"""Protocol of the prediction log's database; tests implement it with stores that fail.

It stands apart from ``sql_store``, whose import of SQLAlchemy takes a quarter of a second.
"""

from collections.abc import Callable, Sequence
from datetime import date, datetime
from typing import Protocol

from rossmann.errors import ServiceError
from rossmann.prediction_log.records import Batch


class RejectedRowsError(ServiceError):
    """The database works, but rejects these rows."""


class LogStore(Protocol):
    """Stores batches permanently."""

    def write(self, writer: str, batches: Sequence[tuple[int, Batch]]) -> None:
        """Write the (number, batch) pairs that are not stored yet, all or none; numbers rise.

        Raises ``ServiceError``, or ``RejectedRowsError`` where the rows themselves are invalid.
        """

    def claim_pruning(self, today: date) -> bool:
        """True for one caller a day: it is the one that prunes."""

    def prune(self, before: datetime, max_rows: int) -> int:
        """Delete some rows answered before then; returns how many, 0 where none is left."""

    def close(self) -> None:
        """Close the connections."""


StoreFactory = Callable[[str], LogStore]
