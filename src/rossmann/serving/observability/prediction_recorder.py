"""What was answered, handed to the prediction log behind the answer.

MERGED: What is left to do once an answer is sent, so that whoever asked does not wait for it.

Nor does anybody whose answer is ready at the same turn of the event loop: all of them are sent
first. What comes in later is begun after it, so whoever was answered finds it done.
"""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TypeVarTuple

import numpy as np
import numpy.typing as npt
from starlette.background import BackgroundTask

from rossmann.models.inference.forecaster import Forecast
from rossmann.prediction_log.records import Endpoint, LoggedPrediction, LoggedRole
from rossmann.prediction_log.writing.log import PredictionLog
from rossmann.schema import StoreDays
from rossmann.serving.observability.access_log import RequestRecord
from rossmann.serving.runtime.version_manager import SelectedVersion


class PredictionRecorder:
    """Notes answers in ``log``; notes nothing where there is none."""

    def __init__(self, log: PredictionLog | None) -> None:
        self._log = log

    def record(
        self,
        door: Endpoint,
        line: RequestRecord,
        picked: SelectedVersion,
        rows: StoreDays,
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
        self._log.log(
            LoggedPrediction(
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


Given = TypeVarTuple("Given")


def run_next_tick(work: Callable[[*Given], object], *given: *Given) -> None:
    """Do ``work``, which must be short and wait for nothing, in the event loop's next turn."""
    asyncio.get_running_loop().call_soon(work, *given)


class NextTickTask(BackgroundTask):
    """The same as a response's ``background``, when all of it is sent.

    Plain: the framework would take a thread for it.
    """

    def __init__(self, work: Callable[[*Given], object], *given: *Given) -> None:
        self._work, self._given = work, given

    async def __call__(self) -> None:
        """Leave it for the next turn."""
        run_next_tick(self._work, *self._given)
