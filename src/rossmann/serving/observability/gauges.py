"""Collector of the service's state for Prometheus, once a second in each worker."""

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

_REFRESH_SECONDS: Final = 1.0


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
        self._log_status: Callable[[], LogStatus] | None = None
        self._cpu = _CounterTotal(metrics.cpu)
        self._reloads = _CounterTotal(metrics.taken_over)
        self._failed_reloads = _CounterTotal(metrics.refused)
        self._written = _CounterTotal(metrics.log_written)
        self._dropped = _CounterTotal(metrics.log_dropped)
        self._rejected = _CounterTotal(metrics.log_refused)

    def track_prediction_log(self, status: Callable[[], LogStatus]) -> None:
        """Also collect the prediction log's status; ``status`` must not block."""
        self._log_status = status

    def refresh(self) -> None:
        """Read everything once; takes some 50 microseconds."""
        with self._lock:
            self._read_model()
            self._read_process()
            if self._log_status is not None:
                with suppress(OSError):  # its disk is not available
                    self._read_log(self._log_status())

    def render(self) -> bytes:
        """The response body of ``GET /metrics``."""
        self.refresh()
        return self._metrics.render()

    @asynccontextmanager
    async def refreshing(self) -> AsyncIterator[None]:
        """Refresh every second while the application runs."""
        task = asyncio.create_task(self._refresh_forever())
        try:
            yield
        finally:
            task.cancel()

    async def _refresh_forever(self) -> None:
        while True:
            self.refresh()
            await asyncio.sleep(_REFRESH_SECONDS)

    def _read_model(self) -> None:
        metrics, versions = self._metrics, self._service.versions
        production = versions.production
        numbers = {
            Stage.PRODUCTION: production.version if production else 0,
            Stage.STAGING: versions.snapshot.version_in_stage(Stage.STAGING) or 0,
        }
        for stage, number in numbers.items():
            metrics.model_version.labels(stage).set(number)
            metrics.model_version_lowest.labels(stage).set(number)
        metrics.degraded.set(1 if self._service.degraded_reason else 0)
        metrics.registry_away.set(1 if versions.registry_unreachable else 0)
        age = self._today() - self._service.panel.info.last_day
        metrics.history_age.set(age.days)
        self._reloads.set(versions.reloads)
        self._failed_reloads.set(versions.failed_reloads)

    def _read_process(self) -> None:
        metrics = self._metrics
        metrics.requests_in_flight.set(metrics.in_flight)
        metrics.memory.set(self._process.memory_info().rss)
        self._cpu.set(time.process_time())

    def _read_log(self, status: LogStatus) -> None:
        metrics = self._metrics
        metrics.log_queue_rows.set(status.queue_rows)
        metrics.log_spool_rows.set(status.spool_rows)
        metrics.log_spool_bytes.set(status.spool_bytes)
        if status.seconds_since_success is not None:
            metrics.log_success.set(time.time() - status.seconds_since_success)
        self._written.set(status.written_rows)
        self._dropped.set(status.dropped_rows)
        self._rejected.set(status.rejected_rows)


class _CounterTotal:
    """Sets a counter to a total that another object counts."""

    def __init__(self, counter: Counter) -> None:
        self._counter = counter
        self._total = 0.0

    def set(self, total: float) -> None:
        if total > self._total:
            self._counter.inc(total - self._total)
            self._total = total
