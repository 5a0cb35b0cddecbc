"""The loaded versions, and which one is Production; a new one is loaded first, then swapped in.

Requests read plain attributes and never wait for the registry. One background thread polls it
every few seconds; a promoted version is loaded and warmed up while the old one answers.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rossmann.errors import ModelError, ModelUnavailableError, ServiceError, VersionNotFoundError
from rossmann.logging_config import get_logger
from rossmann.models.inference.forecaster import Forecaster
from rossmann.models.registry.model_cache import save_last_production
from rossmann.schema import Stage
from rossmann.serving.runtime.registry_view import (
    LoadedVersion,
    ModelRegistry,
    RegistrySnapshot,
    VersionCache,
    VersionKey,
    cached_production,
    no_production_message,
)

_MIN_POLL_SECONDS: Final = 1.0
"""Seconds for which an unknown version is not looked up again in the registry."""


@dataclass(frozen=True, slots=True)
class SelectedVersion:
    """The version that answers one request, and its stage."""

    served: LoadedVersion
    stage: str


class VersionManager:
    """A bounded cache of versions, of which one is Production; safe to share between threads."""

    def __init__(
        self,
        registry: ModelRegistry,
        cache: Path,
        make: Callable[[Path], Forecaster],
        max_versions: int = 4,
    ) -> None:
        self._registry = registry
        self._folder = cache
        self._cache = VersionCache(registry, cache, make, max_versions)
        self._polling = threading.Lock()
        self._production: LoadedVersion | None = None
        self._snapshot = RegistrySnapshot()
        self._polled_at = 0.0
        self._unreachable_reason = ""
        self._production_reason = ""
        self._pinned: int | None = None
        self._poll_callback: Callable[[], None] | None = None
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self.reloads = 0
        """How often a new Production version was put into service, since the start."""
        self.failed_reloads = 0
        """How often one could not be loaded; each try counts."""
        self._logger = get_logger("versions")

    @property
    def production(self) -> LoadedVersion | None:
        """The version that answers as Production."""
        return self._production

    @property
    def snapshot(self) -> RegistrySnapshot:
        """The registry's versions and stages at the last poll."""
        return self._snapshot

    @property
    def reason(self) -> str:
        """Why the service is degraded; empty where it is not."""
        return "; ".join(filter(None, (self._unreachable_reason, self._production_reason)))

    @property
    def registry_unreachable(self) -> bool:
        """Whether the registry did not answer the last request to it."""
        return bool(self._unreachable_reason)

    @property
    def loaded(self) -> list[int]:
        """Numbers of the versions in memory."""
        return self._cache.numbers

    def start(self) -> None:
        """Load Production, or its local copy while the registry is unreachable.

        Raises ``ModelUnavailableError`` where there is neither, with how to make one.
        """
        self.poll()
        if self._production is not None:
            return
        if (
            not self._unreachable_reason
            and self._snapshot.version_in_stage(Stage.PRODUCTION) is None
        ):
            raise ModelUnavailableError(no_production_message())
        version, folder = cached_production(self._folder, self.reason)
        # Its run is unknown until the first poll that succeeds.
        self._production = self._cache.add_local(version, folder)
        if not self._snapshot.runs:
            self._snapshot = RegistrySnapshot({version: ""}, {version: Stage.PRODUCTION})
        self._logger.warning("serving from the local copy", version=version, reason=self.reason)

    def poll(self) -> None:
        """Ask the registry once, and take over a new Production version."""
        # One at a time: an older answer must not replace a newer one.
        with self._polling:
            try:
                snapshot = self._fetch_snapshot()
            except ServiceError as error:
                self._unreachable_reason = f"the registry is away: {error}"
            else:
                self._unreachable_reason = ""
                self._follow(snapshot)
        if self._poll_callback is not None:
            self._poll_callback()

    def on_poll(self, call: Callable[[], None]) -> None:
        """Run ``call`` after every poll, and once when polling starts."""
        self._poll_callback = call

    def pin(self, version: int | None) -> None:
        """Keep this version in memory whatever else is loaded; None unpins."""
        self._pinned = version

    def _fetch_snapshot(self) -> RegistrySnapshot:
        try:
            versions = self._registry.versions()
        finally:
            self._polled_at = time.monotonic()
        self._snapshot = RegistrySnapshot(
            {v.version: v.run_id for v in versions}, {v.version: v.stage for v in versions}
        )
        return self._snapshot

    def _follow(self, snapshot: RegistrySnapshot) -> None:
        """Load the Production version of ``snapshot`` if it is another one."""
        version, current = snapshot.version_in_stage(Stage.PRODUCTION), self._production
        if version is None:
            still = "" if current is None else f"; version {current.version} goes on answering"
            self._production_reason = f"the registry has no Production version{still}"
            return
        key = version, snapshot.runs[version]
        if current is None or current.key != key:
            try:
                self._production = self._get_or_load(key)
            except (ModelError, ServiceError) as error:
                self._production_reason = (
                    f"version {version} is Production but cannot be had: {error}"
                )
                self.failed_reloads += 1
                self._logger.warning("new version refused", version=version, reason=str(error))
                return
            self._cache.evict((version, ""))
            self.reloads += 1
            self._logger.info("in service", version=version)
        self._production_reason = self._save_production(version)

    def _save_production(self, version: int) -> str:
        """Write to disk which version is Production; returns the error, if any."""
        try:
            save_last_production(self._folder, version)
        except OSError as error:
            return f"version {version} cannot be noted for a start without the registry: {error}"
        return ""

    def _get_or_load(self, key: VersionKey) -> LoadedVersion:
        return self._cache.get_or_load(key, self._is_pinned)

    def _is_pinned(self, key: VersionKey) -> bool:
        current = self._production
        return (current is not None and key == current.key) or key[0] == self._pinned

    def get_loaded(self, requested: str | int) -> SelectedVersion | None:
        """The version in a stage or of a number, if it is in memory; never blocks."""
        if requested == Stage.PRODUCTION:
            current = self._production
            return None if current is None else SelectedVersion(current, Stage.PRODUCTION)
        snapshot = self._snapshot
        version = snapshot.resolve(requested)
        if version is None or version not in snapshot.runs:
            return None
        served = self._cache.get((version, snapshot.runs[version]))
        return None if served is None else SelectedVersion(served, snapshot.stages[version])

    def load(self, requested: str | int) -> SelectedVersion:
        """The same, loaded where needed; may take seconds.

        Raises ``VersionNotFoundError`` (naming the versions there are), ``ModelUnavailableError``,
        ``CorruptModelError``, and ``ServiceError`` where the registry is needed and is
        unreachable.
        """
        loaded = self.get_loaded(requested)
        if loaded is not None:
            return loaded
        if requested == Stage.PRODUCTION:
            raise ModelUnavailableError(no_production_message())
        snapshot = self._snapshot
        if snapshot.resolve(requested) not in snapshot.runs and self._may_exist(requested):
            snapshot = self._refresh_snapshot()
        version = snapshot.resolve(requested)
        if version is None or version not in snapshot.runs:
            raise VersionNotFoundError(snapshot.not_found_message(requested))
        served = self._get_or_load((version, snapshot.runs[version]))
        return SelectedVersion(served, snapshot.stages[version])

    def _may_exist(self, requested: str | int) -> bool:
        """Whether the registry could have such a version."""
        return requested == Stage.STAGING or self._snapshot.resolve(requested) is not None

    def _refresh_snapshot(self) -> RegistrySnapshot:
        """A snapshot that is a second old at most; raises ``ServiceError``.

        One of the waiting requests queries the registry; the others wait for a second at most.
        """
        if self._polling.acquire(timeout=_MIN_POLL_SECONDS):
            try:
                if time.monotonic() - self._polled_at > _MIN_POLL_SECONDS:
                    return self._fetch_snapshot()
            finally:
                self._polling.release()
        if self._unreachable_reason:
            raise ServiceError(self._unreachable_reason)
        return self._snapshot

    def replace_panel(
        self, make: Callable[[Path], Forecaster], change: Callable[[Forecaster], Forecaster]
    ) -> None:
        """Replace every loaded version by ``change`` of it; load with ``make`` from now on.

        The old ones answer until all are changed. An error of ``change`` leaves all as it was.
        """
        with self._polling:
            self._cache.replace_all(make, change, self._swap)

    def _swap(self, loaded: dict[VersionKey, LoadedVersion]) -> None:
        current = self._production
        self._production = current if current is None else loaded.get(current.key, current)

    def start_polling(self, seconds: float, also: Callable[[], None] = lambda: None) -> None:
        """Poll, and call ``also``, every ``seconds`` in a background thread until ``close``."""
        self._thread = threading.Thread(
            target=self._run, args=(seconds, also), name="versions", daemon=True
        )
        self._thread.start()

    def _run(self, seconds: float, also: Callable[[], None]) -> None:
        wait = seconds if self._poll_callback is None else 0.0
        while not self._stop.wait(wait):
            wait = seconds
            try:
                self.poll()
                also()
            except Exception:  # the polling thread must go on
                self._logger.exception("a poll failed")

    def close(self) -> None:
        """Stop polling."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout=5)
