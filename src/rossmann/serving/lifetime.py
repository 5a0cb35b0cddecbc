"""The parts that a running service is made of: begun together, ended in turn."""

import asyncio
import gc
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Final

from rossmann.monitoring.prediction_log import PredictionLog
from rossmann.serving.experiment_report import ExperimentReport
from rossmann.serving.file_route import FilePredictor
from rossmann.serving.gauges import Gauges
from rossmann.serving.predict import Predictor
from rossmann.serving.request_log import RequestLog
from rossmann.serving.runtime import Service
from rossmann.serving.security import Guard
from rossmann.serving.trial import Trial

_OBJECTS: Final = 25_000
"""New objects (some 3 MB) after which Python looks for those that only name each other."""


@dataclass(frozen=True, slots=True)
class Parts:
    """What lives as long as the application; the last three are None where they are off."""

    service: Service
    guard: Guard
    gauges: Gauges
    predictor: Predictor
    files: FilePredictor
    report: ExperimentReport
    log: PredictionLog | None
    trial: Trial | None
    lines: RequestLog | None

    @asynccontextmanager
    async def running(
        self, reload_seconds: float, core: AbstractContextManager[object]
    ) -> AsyncIterator[None]:
        """Begin all; end them when the block ends, those that others hand work to last.

        ``core``: within it the loop may keep to one, and threads that take turns with it.
        """
        self.service.versions.follow(reload_seconds, self.service.refresh)
        if self.trial is not None:
            self.trial.start()
        # What is loaded stays: a full collection that walks over it would hold up requests (some
        # 100 ms), and each logged answer, which lives for a second, brings one nearer.
        gc.collect()
        gc.freeze()
        # The same for the small ones: at 700 objects they are a twentieth of a busy worker's time.
        before = gc.get_threshold()
        gc.set_threshold(_OBJECTS, 20, 50)
        with core:
            for part in (self.log, self.lines):
                if part is not None:
                    part.start()
            async with self.gauges.keeping():
                yield
        gc.set_threshold(*before)
        self.service.versions.close()
        self.predictor.close()
        self.files.close()
        for ending in (self.trial, self.report, self.log, self.lines):
            if ending is not None:
                await asyncio.to_thread(ending.close)
        await self.guard.close()
