"""Prometheus metrics; their names are a promise to dashboards and alerts.

With several workers, each writes its values to files of one folder in memory that all of them
read, so that any worker renders the sum. Counts of a dead worker stay, so that no total goes down;
its gauges (memory, requests in flight) are left out.
"""

import os
import platform
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Literal

import psutil
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from rossmann.filesystem.locks import exclusive_lock, try_lock

MULTIPROC_DIR_VARIABLE: Final = "PROMETHEUS_MULTIPROC_DIR"
"""Read by prometheus-client at its import: set before a worker starts."""
_SHARED_MEMORY: Final = Path("/dev/shm")
_FOLDER_PREFIX: Final = "rossmann-metrics-"
_LOCK: Final = "lock"


def current_multiprocess_dir(environment: Mapping[str, str]) -> Path | None:
    """The folder that the workers of this service share; None for a single worker."""
    path = environment.get(MULTIPROC_DIR_VARIABLE)
    return Path(path) if path else None


@contextmanager
def multiprocess_dir(parent: Path | None = None) -> Iterator[Path]:
    """A new folder for the workers of one service, removed when the service ends.

    Not in the data folder: the files are memory-mapped, and on a full disk a write kills the
    process.
    """
    parent = parent or _default_parent()
    _remove_stale(parent)
    folder = Path(tempfile.mkdtemp(prefix=_FOLDER_PREFIX, dir=parent))
    try:
        with exclusive_lock(folder / _LOCK):
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def remove_dead_workers(folder: Path) -> None:
    """Remove the gauges of workers that died."""
    pids = {path.stem.rpartition("_")[2] for path in folder.glob("gauge_live*.db")}
    for pid in pids:
        if pid.isdecimal() and not _is_sibling(int(pid)):
            mark_process_dead(int(pid), str(folder))  # type: ignore[no-untyped-call]


def _is_sibling(pid: int) -> bool:
    """Whether it runs and has our parent: its pid may belong to another program by now."""
    if pid == os.getpid():
        return True
    try:
        worker = psutil.Process(pid)
        return bool(worker.ppid() == os.getppid() and worker.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def _default_parent() -> Path:
    usable = _SHARED_MEMORY.is_dir() and os.access(_SHARED_MEMORY, os.W_OK | os.X_OK)
    return _SHARED_MEMORY if usable else Path(tempfile.gettempdir())


def _remove_stale(parent: Path) -> None:
    """Remove folders of killed services: their lock is free."""
    for folder in parent.glob(f"{_FOLDER_PREFIX}*"):
        try:
            lock = try_lock(folder / _LOCK, os.O_RDWR)
        except OSError:
            continue  # another user's, or just being created
        if lock is not None:
            shutil.rmtree(folder, ignore_errors=True)
            os.close(lock)


_BUCKETS: Final = (
    *(0.00025, 0.0005, 0.001, 0.0015, 0.0025, 0.005, 0.01, 0.025, 0.05),
    *(0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0),
)
"""Seconds: from less than a one-row response to the longest batch."""
LABELS: Final = {
    "route": "pattern of the path, such as `/stores/{store}`; `unknown` for a path without route",
    "method": "HTTP method; `any` for a path that no route has, `other` for an unusual one",
    "code": "HTTP status code",
    "door": "endpoint: `predict`, `explain` or `file`",
    "type": "type of the warning, as in the response",
    "role": "`answer`, `challenger` or `shadow`; `dropped` or `failed` rows of the shadow",
    "stage": "`Production` or `Staging`; the value is 0 where no version is in it",
    "outcome": "`taken_over` or `refused`",
    "version": "release of the service",
    "python": "version of Python",
}
"""Meaning of each label."""
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
MultiprocessMode = Literal["livesum", "livemax", "livemin"]
"""How a gauge's values of several workers are combined."""


class Metrics:
    """All metrics of one application, in a registry of its own."""

    def __init__(self, version: str = "unknown") -> None:
        # Creation times would double the output, and are wrong with several workers.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        self._routes: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}
        self._row_counters: dict[str, Counter] = {}
        self._warning_counters: dict[str, Counter] = {}
        self.in_flight = 0
        """Requests in progress in this process; exported by ``StateCollector``."""
        self._add_traffic()
        self._add_model()
        self._add_process(version)
        self._add_log()

    def _add_traffic(self) -> None:
        self._requests = self._counter(
            "http_requests", "Requests answered", "route", "method", "code"
        )
        self._seconds = Histogram(
            "rossmann_http_request_seconds",
            "Time from a request's first byte to its answer's last, in seconds",
            ("route",),
            buckets=_BUCKETS,
            registry=self.registry,
        )
        self.requests_in_flight = self._gauge(
            "http_requests_in_flight", "Requests being answered", "livesum"
        )
        self._rows = self._counter("rows", "Rows forecast", "door")
        self._warnings = self._counter("warnings", "Rows with a warning", "type")
        self._experiments = self._counter(
            "experiment_rows",
            "Rows of an experiment, by who answered, and shadows that did not",
            "role",
        )
        self.rows_forecast("predict", 0)  # exported from the start: a rate needs a first value
        self.experiment_rows("answer", 0)

    def _add_model(self) -> None:
        self.model_version = self._gauge(
            "model_version", "Highest version that answers, by stage", "livemax", "stage"
        )
        self.model_version_lowest = self._gauge(
            "model_version_lowest", "The same, the lowest of the workers'", "livemin", "stage"
        )
        reloads = self._counter(
            "model_reloads", "New Production versions, taken over or refused", "outcome"
        )
        self.taken_over, self.refused = reloads.labels("taken_over"), reloads.labels("refused")
        self.history_age = self._gauge(
            "history_age_days", "Days from the last day of history to today (UTC)", "livemax"
        )
        self.degraded = self._gauge("degraded", "1 while something is amiss", "livemax")
        self.registry_away = self._gauge(
            "registry_away", "1 while the model registry does not answer", "livemax"
        )

    def _add_process(self, version: str) -> None:
        self.workers = self._gauge("workers", "Processes that answer", "livesum")
        self.workers.set(1)
        self.worker_starts = self._counter("worker_starts", "Processes begun")
        self.worker_starts.inc()
        newest = self._gauge(
            "newest_start_time_seconds", "When the newest worker began (Unix time)", "livemax"
        )
        newest.set(time.time())
        self.memory = self._gauge(
            "process_resident_memory_bytes", "Memory of all workers", "livesum"
        )
        self.cpu = self._counter("process_cpu_seconds", "CPU time of all workers, in seconds")
        build = self._gauge("build_info", "Always 1", "livemax", "version", "python")
        build.labels(version, platform.python_version()).set(1)

    def _add_log(self) -> None:
        self.log_queue_rows = self._gauge(
            "prediction_log_queue_rows", "Rows in memory that wait to be logged", "livesum"
        )
        self.log_spool_rows = self._gauge(
            "prediction_log_spool_rows", "Rows on disk that wait for the database", "livesum"
        )
        self.log_spool_bytes = self._gauge(
            "prediction_log_spool_bytes", "Bytes of these rows", "livesum"
        )
        self.log_success = self._gauge(
            "prediction_log_last_success_timestamp_seconds",
            "When the database last took rows (Unix time), 0 before it first did",
            "livemax",
        )
        self.log_written = self._counter("prediction_log_written", "Rows in the database")
        self.log_dropped = self._counter(
            "prediction_log_dropped", "Rows that were lost: memory and spool were full"
        )
        self.log_refused = self._counter(
            "prediction_log_refused", "Rows set aside: the database does not take them"
        )

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"rossmann_{name}", text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, mode: MultiprocessMode, *labels: str) -> Gauge:
        return Gauge(
            f"rossmann_{name}", text, labels, registry=self.registry, multiprocess_mode=mode
        )

    def request_finished(self, route: str | None, method: str, code: int, seconds: float) -> None:
        """Count a request; ``route`` is the path's pattern, None for a path that no route has."""
        key = (route or "unknown", method if route else "any", code)
        # Cached: a look-up by labels costs more than the count itself.
        child = self._routes.get(key)
        if child is None:
            child = self._add_route(*key)
        child[0].inc()
        child[1].observe(seconds)

    def _add_route(self, route: str, method: str, code: int) -> tuple[Counter, Histogram]:
        # Labels must not hold what a client may choose freely: each value is kept for ever.
        label = method if method in _METHODS or method == "any" else "other"
        child = (self._requests.labels(route, label, str(code)), self._seconds.labels(route))
        if label == method:
            self._routes[route, method, code] = child
        return child

    def rows_forecast(self, endpoint: str, rows: int) -> None:
        """Count forecast rows of an endpoint: predict, explain, file."""
        child = self._row_counters.get(endpoint)
        if child is None:
            child = self._row_counters[endpoint] = self._rows.labels(endpoint)
        child.inc(rows)

    def experiment_rows(self, role: str, rows: int) -> None:
        """Count rows: of answer, challenger or shadow, or of a shadow dropped or failed."""
        self._experiments.labels(role).inc(rows)

    def rows_warned(self, warning_type: str, rows: int) -> None:
        """Count rows that were answered with a warning of that type."""
        child = self._warning_counters.get(warning_type)
        if child is None:
            child = self._warning_counters[warning_type] = self._warnings.labels(warning_type)
        child.inc(rows)

    def render(self) -> bytes:
        """The metrics of all workers in Prometheus' text format."""
        folder = current_multiprocess_dir(os.environ)
        if folder is None:
            return generate_latest(self.registry)
        remove_dead_workers(folder)
        combined = CollectorRegistry()
        MultiProcessCollector(combined, str(folder))  # type: ignore[no-untyped-call]
        return generate_latest(combined)
