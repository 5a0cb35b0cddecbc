"""Which versions are in memory, and which one is Production: loaded beside, then swapped.

Requests read plain attributes and never wait for the registry. One background thread asks it
every few seconds; a version that was promoted is loaded and warmed while the old one answers.
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
from rossmann.serving.runtime.registry_snapshot import (
    NO_PRODUCTION_MESSAGE,
    ModelRegistry,
    RegistrySnapshot,
    cached_production,
)
from rossmann.serving.runtime.version_cache import LoadedVersion, VersionCache, VersionKey

_LOOK_AGAIN: Final = 1.0
"""Seconds for which the registry is not asked again about a number that it does not have."""


@dataclass(frozen=True, slots=True)
class SelectedVersion:
    """The version that answers one request, and the stage it has."""

    served: LoadedVersion
    stage: str


class VersionManager:
    """A bounded cache of versions, of which one is Production; safe to share between threads."""

    def __init__(
        self,
        registry: ModelRegistry,
        cache: Path,
        make: Callable[[Path], Forecaster],
        keep: int = 4,
    ) -> None:
        self._registry = registry
        self._folder = cache
        self._cache = VersionCache(registry, cache, make, keep)
        self._polling = threading.Lock()
        self._production: LoadedVersion | None = None
        self._seen = RegistrySnapshot()
        self._looked = 0.0
        self._away = ""
        self._behind = ""
        self._pinned: int | None = None
        self._besides: Callable[[], None] | None = None
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self.reloads = 0
        """How often another Production version came into service, since the start."""
        self.failed_reloads = 0
        """How often one could not be had; each further try counts again."""
        self._logger = get_logger("versions")

    @property
    def production(self) -> LoadedVersion | None:
        """The version that answers as Production."""
        return self._production

    @property
    def snapshot(self) -> RegistrySnapshot:
        """What the registry said last."""
        return self._seen

    @property
    def reason(self) -> str:
        """What is amiss, empty when nothing is."""
        return "; ".join(filter(None, (self._away, self._behind)))

    @property
    def registry_unreachable(self) -> bool:
        """Whether the registry did not answer when it was last asked."""
        return bool(self._away)

    @property
    def loaded(self) -> list[int]:
        """Numbers of the versions in memory."""
        return self._cache.numbers

    def start(self) -> None:
        """Load Production, or its local copy while it cannot be had from the registry.

        Raises ``NoModel`` where neither can be had, saying how to make one.
        """
        self.poll()
        if self._production is not None:
            return
        if not self._away and self._seen.version_in_stage(Stage.PRODUCTION) is None:
            raise ModelUnavailableError(NO_PRODUCTION_MESSAGE)
        version, folder = cached_production(self._folder, self.reason)
        # No run: the registry's word on it comes with the first poll that succeeds.
        self._production = self._cache.add_local(version, folder)
        if not self._seen.runs:
            self._seen = RegistrySnapshot({version: ""}, {version: Stage.PRODUCTION})
        self._logger.warning("serving from the local copy", version=version, reason=self.reason)

    def poll(self) -> None:
        """Ask the registry once, and take over a new Production version."""
        # One at a time: an older look must not undo what a newer one did.
        with self._polling:
            try:
                seen = self._look()
            except ServiceError as error:
                self._away = f"the registry is away: {error}"
            else:
                self._away = ""
                self._follow(seen)
        if self._besides is not None:
            self._besides()

    def on_poll(self, call: Callable[[], None]) -> None:
        """From now on ``call`` behind every poll, and once as soon as ``follow`` begins."""
        self._besides = call

    def pin(self, version: int | None) -> None:
        """Let no other version push this one out of memory; None: none is kept so."""
        self._pinned = version

    def _look(self) -> RegistrySnapshot:
        try:
            found = self._registry.versions()
        finally:
            self._looked = time.monotonic()
        seen = RegistrySnapshot(
            {v.version: v.run_id for v in found}, {v.version: v.stage for v in found}
        )
        self._seen = seen
        return seen

    def _follow(self, seen: RegistrySnapshot) -> None:
        version, now = seen.version_in_stage(Stage.PRODUCTION), self._production
        if version is None:
            still = "" if now is None else f"; version {now.version} goes on answering"
            self._behind = f"the registry has no Production version{still}"
            return
        if now is None or (now.version, now.run_id) != (version, seen.runs[version]):
            try:
                self._production = self._obtain((version, seen.runs[version]))
            except (ModelError, ServiceError) as error:
                self._behind = f"version {version} is Production but cannot be had: {error}"
                self.failed_reloads += 1
                self._logger.warning("new version refused", version=version, reason=str(error))
                return
            self._cache.evict((version, ""))
            self.reloads += 1
            self._logger.info("in service", version=version)
        self._behind = self._remember(version)

    def _remember(self, version: int) -> str:
        """Note on disk what is Production; gives what is amiss, and is tried with each poll."""
        try:
            save_last_production(self._folder, version)
        except OSError as error:
            return f"version {version} cannot be noted for a start without the registry: {error}"
        return ""

    def _obtain(self, key: VersionKey) -> LoadedVersion:
        return self._cache.get_or_load(key, self._stays)

    def _stays(self, key: VersionKey) -> bool:
        now = self._production
        return (now is not None and key == now.key) or key[0] == self._pinned

    def get_loaded(self, wanted: str | int) -> SelectedVersion | None:
        """The version for a request, if it is in memory; never waits.

        None where it is not, or there is none: ``load`` then finds out.
        """
        if wanted == Stage.PRODUCTION:
            now = self._production
            return None if now is None else SelectedVersion(now, Stage.PRODUCTION)
        seen = self._seen
        version = seen.resolve(wanted)
        if version is None or version not in seen.runs:
            return None
        served = self._cache.get((version, seen.runs[version]))
        return None if served is None else SelectedVersion(served, seen.stages[version])

    def load(self, wanted: str | int) -> SelectedVersion:
        """The same, loading it where needed; may take seconds.

        Raises ``UnknownVersion`` (naming those there are), ``NoModel``, ``ServiceError`` when the
        registry must be asked and is away, ``DamagedModel``.
        """
        picked = self.get_loaded(wanted)
        if picked is not None:
            return picked
        if wanted == Stage.PRODUCTION:
            raise ModelUnavailableError(NO_PRODUCTION_MESSAGE)
        seen = self._seen
        if seen.resolve(wanted) not in seen.runs and self._is_possible(wanted):
            seen = self._look_again()
        version = seen.resolve(wanted)
        if version is None or version not in seen.runs:
            raise VersionNotFoundError(seen.not_found_message(wanted))
        return SelectedVersion(self._obtain((version, seen.runs[version])), seen.stages[version])

    def _is_possible(self, wanted: str | int) -> bool:
        """Whether a registry could have it: none is asked about any nonsense."""
        return wanted == Stage.STAGING or self._seen.resolve(wanted) is not None

    def _look_again(self) -> RegistrySnapshot:
        """What the registry says now, or said shortly before; raises ``ServiceError``.

        However many ask, it is asked by one of them, and the others wait a moment at most.
        """
        if self._polling.acquire(timeout=_LOOK_AGAIN):
            try:
                if time.monotonic() - self._looked > _LOOK_AGAIN:
                    return self._look()
            finally:
                self._polling.release()
        if self._away:
            raise ServiceError(self._away)
        return self._seen

    def replace_panel(
        self, make: Callable[[Path], Forecaster], change: Callable[[Forecaster], Forecaster]
    ) -> None:
        """Put ``change`` of every version in memory in its place; from now on load with ``make``.

        The old ones answer until all are changed, and finish what they began. What ``change``
        raises leaves everything as it was.
        """
        with self._polling:
            self._cache.replace_all(make, change, self._swap)

    def _swap(self, loaded: dict[VersionKey, LoadedVersion]) -> None:
        now = self._production
        self._production = now if now is None else loaded.get(now.key, now)

    def start_polling(self, seconds: float, also: Callable[[], None] = lambda: None) -> None:
        """Poll, and call ``also``, every ``seconds`` in a background thread until ``close``."""
        self._thread = threading.Thread(
            target=self._run, args=(seconds, also), name="versions", daemon=True
        )
        self._thread.start()

    def _run(self, seconds: float, also: Callable[[], None]) -> None:
        wait = seconds if self._besides is None else 0.0
        while not self._stop.wait(wait):
            wait = seconds
            try:
                self.poll()
                also()
            except Exception:  # the last resort of this thread: it must outlive any surprise
                self._logger.exception("a poll failed")

    def close(self) -> None:
        """Stop polling."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout=5)
