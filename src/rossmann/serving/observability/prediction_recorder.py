"""Recording of predictions: answered rows go to the prediction log after the response is sent."""

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from time import perf_counter

import numpy as np
import numpy.typing as npt

from rossmann.models.inference.forecaster import Forecast
from rossmann.prediction_log.records import Endpoint, LoggedPrediction, LoggedRole
from rossmann.prediction_log.writing.log import PredictionLog
from rossmann.schema import StoreDays
from rossmann.serving.observability.access_log import RequestRecord
from rossmann.serving.runtime.version_manager import SelectedVersion

RowIndex = npt.NDArray[np.int64]
"""Positions of rows in a request, (n,)."""


@dataclass(frozen=True, slots=True)
class PredictCall:
    """A call that is being answered: its endpoint, access-log record, version and start time.

    ``started``: ``perf_counter`` when it came in. ``seconds``: how long the answer took, once it
    is known.
    """

    endpoint: Endpoint
    record: RequestRecord
    version: SelectedVersion
    started: float
    seconds: float = 0.0

    def finished(self) -> "PredictCall":
        """The same with the time that it took until now."""
        return replace(self, seconds=perf_counter() - self.started)

    def by_version(self, version: SelectedVersion) -> "PredictCall":
        """The same, answered by another version."""
        return replace(self, version=version)


class PredictionRecorder:
    """Hands answered rows to ``log``; does nothing without one."""

    def __init__(self, log: PredictionLog | None) -> None:
        self._log = log

    def record(
        self,
        call: PredictCall,
        rows: StoreDays,
        forecast: Forecast,
        role: LoggedRole = "answer",
        positions: int | RowIndex = 0,
        answered_at: datetime | None = None,
    ) -> None:
        """Record ``rows`` and their forecast.

        ``positions``: where the rows are in the request: the first of consecutive ones, or all
        (n,). ``answered_at``: the time of the answer where its parts are recorded one by one.
        """
        if self._log is None:
            return
        self._log.log(
            LoggedPrediction(
                request_id=call.record.request_id,
                answered_at=answered_at or datetime.now(UTC),
                endpoint=call.endpoint,
                role=role,
                caller=call.record.caller,
                model_version=call.version.served.version,
                model_stage=call.version.stage,
                as_of=forecast.as_of,
                objective=forecast.objective,
                rows=rows,
                sales=forecast.sales,
                bounds=tuple((i.level, i.lower, i.upper) for i in forecast.intervals),
                latency_seconds=call.seconds,
                first_row=positions if isinstance(positions, int) else 0,
                row_numbers=None if isinstance(positions, int) else positions,
                training=call.version.served.forecaster.training_span,
            )
        )
