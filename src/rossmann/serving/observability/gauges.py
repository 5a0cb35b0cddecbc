"""Looks at the service's state once a second, and puts it where Prometheus asks for it.

Each worker tells its own; whichever is asked then knows that of all.
"""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from datetime import UTC, date, datetime
from typing import Final

import psutil
from prometheus_client import Counter

from rossmann.prediction_log.writing.log import LogStatus
from rossmann.schema import Stage
from rossmann.serving.observability.metrics import Metrics
from rossmann.serving.runtime.service import Service

_EVERY: Final = 1.0


class StateCollector:
    """Reads the state of one worker; safe to share between threads."""

    def __init__(
        self,
        metrics: Metrics,
        service: Service,
        today: Callable[[], date] = lambda: datetime.now(UTC).date(),
    ) -> None:
        self._metrics = metrics
        self._service = service
        self._today = today
        self._process = psutil.Process()
        self._lock = threading.Lock()
        self._log: Callable[[], LogStatus] | None = None
        self._cpu = _Total(metrics.cpu)
        self._taken_over = _Total(metrics.taken_over)
        self._refused = _Total(metrics.refused)
        self._written = _Total(metrics.log_written)
        self._dropped = _Total(metrics.log_dropped)
        self._set_aside = _Total(metrics.log_refused)

    def track_prediction_log(self, state: Callable[[], LogStatus]) -> None:
        """From now on tell the prediction log's state too; ``state`` must not wait."""
        self._log = state

    def refresh(self) -> None:
        """Read everything once; takes some 50 microseconds."""
        with self._lock:
            self._read_model()
            self._read_process()
            if self._log is not None:
                with suppress(OSError):  # its disk is away: the rest is told all the same
                    self._read_log(self._log())

    def render(self) -> bytes:
        """What ``GET /metrics`` tells, as of now."""
        self.refresh()
        return self._metrics.render()

    @asynccontextmanager
    async def refreshing(self) -> AsyncIterator[None]:
        """Refresh every second while the application runs."""
        task = asyncio.create_task(self._keep())
        try:
            yield
        finally:
            task.cancel()

    async def _keep(self) -> None:
        while True:
            self.refresh()
            await asyncio.sleep(_EVERY)

    def _read_model(self) -> None:
        metrics, versions = self._metrics, self._service.versions
        now = versions.production
        numbers = {
            Stage.PRODUCTION: now.version if now else 0,
            Stage.STAGING: versions.snapshot.version_in_stage(Stage.STAGING) or 0,
        }
        for stage, number in numbers.items():
            metrics.model_version.labels(stage).set(number)
            metrics.model_version_lowest.labels(stage).set(number)
        metrics.degraded.set(1 if self._service.degraded_reason else 0)
        metrics.registry_away.set(1 if versions.registry_unreachable else 0)
        age = self._today() - self._service.panel.info.last_day
        metrics.history_age.set(age.days)
        self._taken_over.reach(versions.reloads)
        self._refused.reach(versions.failed_reloads)

    def _read_process(self) -> None:
        metrics = self._metrics
        metrics.requests_in_flight.set(metrics.in_flight)
        metrics.memory.set(self._process.memory_info().rss)
        self._cpu.reach(time.process_time())

    def _read_log(self, state: LogStatus) -> None:
        metrics = self._metrics
        metrics.log_queue_rows.set(state.queue_rows)
        metrics.log_spool_rows.set(state.spool_rows)
        metrics.log_spool_bytes.set(state.spool_bytes)
        if state.seconds_since_success is not None:
            metrics.log_success.set(time.time() - state.seconds_since_success)
        self._written.reach(state.written_rows)
        self._dropped.reach(state.dropped_rows)
        self._set_aside.reach(state.rejected_rows)


class _Total:
    """Moves a counter to where a total of ours has come."""

    def __init__(self, counter: Counter) -> None:
        self._counter = counter
        self._reached = 0.0

    def reach(self, total: float) -> None:
        if total > self._reached:
            self._counter.inc(total - self._reached)
            self._reached = total
