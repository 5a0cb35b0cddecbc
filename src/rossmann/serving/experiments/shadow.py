"""The challenger behind every answer: it forecasts the same rows, and only the log sees it.

Rows come in after their answer was sent, and wait in a bounded queue for one thread of low
priority. What finds the queue full is dropped and counted: no answer waits for a challenger.

MERGED: The parts of an experiment together, as the settings ask for them.
"""

import os
import sys
import threading
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from rossmann.errors import RequestError
from rossmann.logging_config import get_logger
from rossmann.models.inference.forecaster import Forecast
from rossmann.prediction_log.records import Endpoint
from rossmann.schema import Objective, StoreDays
from rossmann.serving.experiments.experiment import Experiment
from rossmann.serving.observability.access_log import RequestRecord
from rossmann.serving.observability.metrics import Metrics
from rossmann.serving.observability.prediction_recorder import PredictionRecorder
from rossmann.serving.runtime.service import supported_levels
from rossmann.serving.runtime.version_manager import SelectedVersion, VersionManager
from rossmann.settings import Settings

if TYPE_CHECKING:
    from rossmann.data.panel.panel import Panel


MAX_QUEUED_ROWS: Final = 200_000
"""Rows that may wait: two of the largest requests, some 5 MB."""
_NICER: Final = 10
"""By how much the system may prefer other threads to this one."""


@dataclass(frozen=True, slots=True)
class ShadowJob:
    """An answered request: the same rows, as of the same origin, over the same panel."""

    door: Endpoint
    line: RequestRecord
    panel: "Panel"
    rows: StoreDays
    origin: int
    levels: tuple[float, ...]
    objective: Objective


class ShadowRunner:
    """The queue and its thread; safe to share between threads."""

    def __init__(
        self,
        experiment: Experiment,
        journal: PredictionRecorder,
        metrics: Metrics,
        most_rows: int = MAX_QUEUED_ROWS,
    ) -> None:
        self._experiment = experiment
        self._journal = journal
        self._metrics = metrics
        self._most_rows = most_rows
        self._wake = threading.Condition()
        self._jobs: deque[ShadowJob] = deque()
        self._ending: float | None = None
        self._thread = threading.Thread(target=self._run, name="shadow", daemon=True)
        self._logger = get_logger("shadow")
        self.waiting = 0
        """Rows that wait, or are being forecast."""
        self.done = self.dropped = self.failed = 0
        """Rows since the start: forecast, refused by a full queue, not forecast by a fault."""
        self.last_error = ""

    def start(self) -> None:
        """Begin to work."""
        self._thread.start()

    def submit(self, job: ShadowJob) -> None:
        """Leave an answered request. Waits for nothing and raises nothing."""
        count = len(job.rows)
        with self._wake:
            # One that is larger than all the room is taken when there is nothing else.
            full = self.waiting > 0 and self.waiting + count > self._most_rows
            if full or self._ending is not None:
                self.dropped += count
            else:
                self._jobs.append(job)
                self.waiting += count
                self._wake.notify()
                return
        self._metrics.experiment("dropped", count)

    def close(self, seconds: float = 2.0) -> None:
        """Take no more, and work on what waits for so long; the rest is dropped."""
        with self._wake:
            self._ending = time.monotonic() + seconds
            self._wake.notify()
        if self._thread.is_alive():
            self._thread.join(seconds + 1)

    def _run(self) -> None:
        _step_back()
        while (job := self._next()) is not None:
            count = len(job.rows)
            try:
                outcome = "shadow" if self._work(job) else "none"
            except Exception as error:  # noqa: BLE001 - it must not end this thread
                outcome = "failed"
                self._tell(repr(error)[:400])
            with self._wake:
                self.waiting -= count
                self.done += count if outcome == "shadow" else 0
                self.failed += count if outcome == "failed" else 0
            if outcome != "none":
                self._metrics.experiment(outcome, count)

    def _next(self) -> ShadowJob | None:
        with self._wake:
            while not self._jobs:
                if self._ending is not None:
                    return None
                self._wake.wait()
            if self._ending is not None and time.monotonic() > self._ending:
                self.dropped += self.waiting
                return None
            return self._jobs.popleft()

    def _work(self, job: ShadowJob) -> bool:
        """Forecast and log; False where there is no challenger."""
        picked = self._experiment.challenger(job.panel)
        if picked is None:
            return False
        begun = time.perf_counter()
        forecast = _forecast(picked, job)
        took = time.perf_counter() - begun
        self._journal.record(job.door, job.line, picked, job.rows, forecast, took, "shadow")
        return True

    def _tell(self, error: str) -> None:
        if error != self.last_error:
            self._logger.warning("the challenger failed", reason=error)
        self.last_error = error


def _forecast(picked: SelectedVersion, job: ShadowJob) -> Forecast:
    forecaster = picked.served.forecaster.single_threaded()
    levels = job.levels
    try:
        forecaster.resolve_origin(job.rows, job.origin, levels, job.objective)
    except RequestError:
        # The answer may have levels that the challenger is not calibrated for.
        known = supported_levels(forecaster.ensemble.card)
        levels = tuple(level for level in levels if min(known) <= level <= max(known))
        forecaster.resolve_origin(job.rows, job.origin, levels, job.objective)
    sales, bands = forecaster.predict_rows(job.rows, job.origin, levels, job.objective)
    return Forecast(sales, job.origin, bands, (), job.objective)


def _step_back() -> None:
    """On Linux a thread has a priority of its own; elsewhere it would be the whole process."""
    if sys.platform == "linux":
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICER)


@dataclass(frozen=True, slots=True)
class RunningExperiment:
    """An experiment that runs; ``shadow`` where the challenger works behind the answers."""

    experiment: Experiment
    shadow: ShadowRunner | None

    def start(self) -> None:
        """Begin to work."""
        if self.shadow is not None:
            self.shadow.start()

    def close(self) -> None:
        """End, after some seconds at most."""
        if self.shadow is not None:
            self.shadow.close()


def build_experiment(
    settings: Settings, versions: VersionManager, journal: PredictionRecorder, metrics: Metrics
) -> RunningExperiment | None:
    """The experiment that the settings ask for, its challenger looked for with every poll."""
    if settings.experiment == "off":
        return None
    experiment = Experiment(settings, versions)
    versions.on_poll(experiment.refresh_challenger)
    shadows = experiment.mode == "shadow"
    return RunningExperiment(
        experiment, ShadowRunner(experiment, journal, metrics) if shadows else None
    )
