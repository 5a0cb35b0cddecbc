"""What the log needs of a database: the seam where tests put one that fails."""

from collections.abc import Callable, Sequence
from datetime import date, datetime
from typing import Protocol

from rossmann.errors import ServiceError
from rossmann.prediction_log.records import Batch


class RejectedRowsError(ServiceError):
    """The database answers, but does not take these rows."""


class LogStore(Protocol):
    """Where batches go in the end."""

    def write(self, writer: str, batches: Sequence[tuple[int, Batch]]) -> None:
        """Write what is not there yet, all or nothing; numbers rise.

        Raises ``ServiceError``; where the rows themselves are at fault, ``RefusedRows``.
        """

    def claim_pruning(self, today: date) -> bool:
        """Whether the caller, and nobody else, is to prune today."""

    def prune(self, before: datetime, most_rows: int) -> int:
        """Delete some rows answered before then; how many, 0 when none is left."""

    def close(self) -> None:
        """Let go of connections."""


StoreFactory = Callable[[str], LogStore]
