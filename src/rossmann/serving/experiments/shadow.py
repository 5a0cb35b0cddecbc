"""Shadow deployment: a challenger forecasts answered rows in the background, for the log only.

Answered requests wait in a bounded queue for one low-priority thread. What does not fit is dropped
and counted: no response waits for a challenger.
"""

import os
import sys
import threading
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from rossmann.errors import RequestError
from rossmann.logging_config import get_logger
from rossmann.models.inference.forecaster import Forecast, ForecastRequest
from rossmann.serving.experiments.experiment import Experiment
from rossmann.serving.observability.metrics import Metrics
from rossmann.serving.observability.prediction_recorder import PredictCall, PredictionRecorder
from rossmann.serving.runtime.service import supported_levels
from rossmann.serving.runtime.version_manager import SelectedVersion, VersionManager
from rossmann.settings import Settings

if TYPE_CHECKING:
    from rossmann.data.panel.panel import Panel

MAX_QUEUED_ROWS: Final = 200_000
"""Queued rows at most: two of the largest requests, some 5 MB."""
_NICENESS: Final = 10
"""Scheduling priority of the thread: lower than the default 0."""


@dataclass(frozen=True, slots=True)
class ShadowJob:
    """An answered request with the panel and origin of its answer."""

    call: PredictCall
    panel: "Panel"
    request: ForecastRequest
    origin: int


class ShadowRunner:
    """The queue and its thread; safe to share between threads."""

    def __init__(
        self,
        experiment: Experiment,
        recorder: PredictionRecorder,
        metrics: Metrics,
        max_rows: int = MAX_QUEUED_ROWS,
    ) -> None:
        self._experiment = experiment
        self._recorder = recorder
        self._metrics = metrics
        self._max_rows = max_rows
        self._wake = threading.Condition()
        self._jobs: deque[ShadowJob] = deque()
        self._deadline: float | None = None
        self._thread = threading.Thread(target=self._run, name="shadow", daemon=True)
        self._logger = get_logger("shadow")
        self.waiting = 0
        """Rows that are queued or being forecast."""
        self.done = self.dropped = self.failed = 0
        """Rows since the start: forecast, refused by a full queue, failed with an error."""
        self.last_error = ""

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def submit(self, job: ShadowJob) -> None:
        """Queue an answered request, or drop it. Does not block and raises nothing."""
        count = len(job.request.rows)
        with self._wake:
            # A request that is larger than the queue is accepted when the queue is empty.
            full = self.waiting > 0 and self.waiting + count > self._max_rows
            if full or self._deadline is not None:
                self.dropped += count
            else:
                self._jobs.append(job)
                self.waiting += count
                self._wake.notify()
                return
        self._metrics.experiment_rows("dropped", count)

    def close(self, seconds: float = 2.0) -> None:
        """Accept no more jobs, work on the queue for so long, and drop the rest."""
        with self._wake:
            self._deadline = time.monotonic() + seconds
            self._wake.notify()
        if self._thread.is_alive():
            self._thread.join(seconds + 1)

    def _run(self) -> None:
        _lower_priority()
        while (job := self._next()) is not None:
            count = len(job.request.rows)
            try:
                outcome = "shadow" if self._forecast(job) else "none"
            except Exception as error:  # noqa: BLE001 - it must not end this thread
                outcome = "failed"
                self._log_failure(repr(error)[:400])
            with self._wake:
                self.waiting -= count
                self.done += count if outcome == "shadow" else 0
                self.failed += count if outcome == "failed" else 0
            if outcome != "none":
                self._metrics.experiment_rows(outcome, count)

    def _next(self) -> ShadowJob | None:
        with self._wake:
            while not self._jobs:
                if self._deadline is not None:
                    return None
                self._wake.wait()
            if self._deadline is not None and time.monotonic() > self._deadline:
                self.dropped += self.waiting
                return None
            return self._jobs.popleft()

    def _forecast(self, job: ShadowJob) -> bool:
        """Forecast and record; False where there is no challenger."""
        version = self._experiment.challenger(job.panel)
        if version is None:
            return False
        call = replace(job.call, version=version, started=time.perf_counter())
        forecast = _shadow_forecast(version, job)
        self._recorder.record(call.finished(), job.request.rows, forecast, "shadow")
        return True

    def _log_failure(self, error: str) -> None:
        if error != self.last_error:
            self._logger.warning("the challenger failed", reason=error)
        self.last_error = error


def _shadow_forecast(version: SelectedVersion, job: ShadowJob) -> Forecast:
    forecaster = version.served.forecaster.single_threaded()
    # The log has no quantiles.
    request = replace(job.request, as_of=job.origin, quantiles=())
    try:
        forecaster.resolve_origin(request)
    except RequestError:
        # The answer may have levels that the challenger is not calibrated for.
        supported = supported_levels(forecaster.ensemble.card)
        levels = tuple(x for x in request.levels if min(supported) <= x <= max(supported))
        request = replace(request, levels=levels)
        forecaster.resolve_origin(request)
    predicted = forecaster.predict_rows(request, job.origin)
    return Forecast(predicted.sales, job.origin, predicted.intervals, (), request.objective)


def _lower_priority() -> None:
    """Lower this thread's priority: on Linux only, elsewhere it is the whole process's."""
    if sys.platform == "linux":
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)


@dataclass(frozen=True, slots=True)
class RunningExperiment:
    """An experiment; ``shadow`` is set where the challenger only runs in the background."""

    experiment: Experiment
    shadow: ShadowRunner | None

    def start(self) -> None:
        """Start the shadow thread."""
        if self.shadow is not None:
            self.shadow.start()

    def close(self) -> None:
        """End the shadow thread, within seconds."""
        if self.shadow is not None:
            self.shadow.close()


def build_experiment(
    settings: Settings, versions: VersionManager, recorder: PredictionRecorder, metrics: Metrics
) -> RunningExperiment | None:
    """The experiment of the settings; its challenger is refreshed with every registry poll."""
    if settings.experiment == "off":
        return None
    experiment = Experiment(settings, versions)
    versions.on_poll(experiment.refresh_challenger)
    runs_shadow = experiment.mode == "shadow"
    return RunningExperiment(
        experiment, ShadowRunner(experiment, recorder, metrics) if runs_shadow else None
    )
