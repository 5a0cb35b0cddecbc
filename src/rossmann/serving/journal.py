"""What was answered, handed to the prediction log behind the answer."""

from datetime import UTC, datetime

import numpy as np
import numpy.typing as npt

from rossmann.monitoring.prediction_log import Door, Entry, LoggedRole, PredictionLog
from rossmann.schema import Rows
from rossmann.serving.forecaster import Forecast
from rossmann.serving.versions import Picked
from rossmann.serving.watch import Line


class Journal:
    """Notes answers in ``log``; notes nothing where there is none."""

    def __init__(self, log: PredictionLog | None) -> None:
        self._log = log

    def note(
        self,
        door: Door,
        line: Line,
        picked: Picked,
        rows: Rows,
        forecast: Forecast,
        seconds: float,
        role: LoggedRole = "answer",
        first_row: int = 0,
        places: npt.NDArray[np.int64] | None = None,
        at: datetime | None = None,
    ) -> None:
        """Note ``rows`` and their forecast; ``seconds``: what they took since they came in.

        ``places``: where the rows stood in the request, if not one after another. ``at``: the
        moment of the answer, where it is noted in parts.
        """
        if self._log is None:
            return
        self._log.put(
            Entry(
                request_id=line.request_id,
                answered_at=at or datetime.now(UTC),
                door=door,
                role=role,
                caller=line.caller,
                model_version=picked.served.version,
                model_stage=picked.stage,
                as_of=forecast.as_of,
                objective=forecast.objective,
                rows=rows,
                sales=forecast.sales,
                bounds=tuple((band.level, band.lower, band.upper) for band in forecast.bands),
                latency_seconds=seconds,
                first_row=first_row,
                places=places,
            )
        )
