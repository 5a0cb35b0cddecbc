"""One answered request, as it is handed to the prediction log."""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

import numpy as np
import numpy.typing as npt

from rossmann.schema import FloatArray, Objective, Rows

Door = Literal["predict", "file", "explain"]
LoggedRole = Literal["answer", "challenger", "shadow"]
"""What the caller got; what a challenger answered in its share; what nobody but the log saw."""
Bounds = tuple[tuple[float, FloatArray, FloatArray], ...]


@dataclass(frozen=True, slots=True)
class Entry:
    """A request, or a part of a large one, with n rows and their forecasts.

    ``answered_at``: in UTC. ``as_of``: days since 1970-01-01. ``sales``: shape (n,), in sales.
    ``bounds``: for each level its lower and upper bounds, each of shape (n,). ``first_row``: the
    place of the first row in the request, where the request is logged in parts; ``places``: the
    place of each row (n,), where they do not follow one another. The arrays are kept as they are
    until they are written: nobody may change them after.
    """

    request_id: str
    answered_at: datetime
    door: Door
    role: LoggedRole
    caller: str
    model_version: int
    model_stage: str
    as_of: int
    objective: Objective
    rows: Rows
    sales: FloatArray
    bounds: Bounds
    latency_seconds: float
    first_row: int = 0
    places: npt.NDArray[np.int64] | None = None
