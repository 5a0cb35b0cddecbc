"""LRU cache of loaded versions: each is loaded once, however many requests name it."""

import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from rossmann.errors import ServiceError
from rossmann.models.inference.forecaster import Forecaster
from rossmann.models.registry.model_cache import cached_version
from rossmann.serving.runtime.registry_snapshot import ModelRegistry

VersionKey = tuple[int, str]
"""A version's number and run: a new registry uses the same numbers again."""


@dataclass(frozen=True, slots=True)
class LoadedVersion:
    """A version in memory, warmed up."""

    version: int
    run_id: str
    forecaster: Forecaster

    @property
    def key(self) -> VersionKey:
        """Its key in the cache."""
        return self.version, self.run_id


class VersionCache:
    """Safe to share between threads; evicts the least recently used version."""

    def __init__(
        self,
        registry: ModelRegistry,
        folder: Path,
        make: Callable[[Path], Forecaster],
        max_versions: int,
    ) -> None:
        self._registry = registry
        self._folder = folder
        self._make = make
        self._max_versions = max_versions
        self._lock = threading.Lock()
        self._load_locks: dict[VersionKey, threading.Lock] = {}
        self._loaded: dict[VersionKey, LoadedVersion] = {}
        self._used: dict[VersionKey, float] = {}

    @property
    def numbers(self) -> list[int]:
        """Numbers of the versions in memory, sorted."""
        return sorted(version for version, _ in list(self._loaded))

    def get(self, key: VersionKey) -> LoadedVersion | None:
        """The version, if it is in memory; never blocks."""
        served = self._loaded.get(key)
        if served is not None:
            self._used[key] = time.monotonic()
        return served

    def add_local(self, version: int, folder: Path) -> LoadedVersion:
        """Add a version from a local folder, whose run is unknown."""
        served = LoadedVersion(version, "", self._make(folder))
        self._loaded[served.key] = served
        return served

    def evict(self, key: VersionKey) -> None:
        """Remove a version."""
        self._loaded.pop(key, None)

    def get_or_load(
        self, key: VersionKey, is_pinned: Callable[[VersionKey], bool]
    ) -> LoadedVersion:
        """The version from memory, else from its local copy, else from the registry.

        ``is_pinned``: which other versions must not be evicted for it.
        """
        with self._lock:
            load_lock = self._load_locks.setdefault(key, threading.Lock())
        # One lock for each version: a slow download must not delay Production.
        with load_lock:
            while (served := self._loaded.get(key)) is None:
                make = self._make
                version = LoadedVersion(*key, make(self._files(*key)))
                with self._lock:
                    # After ``replace_all`` in between, it would answer from the old panel.
                    if make is self._make:
                        self._loaded[key] = version
            with self._lock:
                self._load_locks.pop(key, None)
                self._used[key] = time.monotonic()
                self._evict_oldest([k for k in self._loaded if k != key and not is_pinned(k)])
        return served

    def _files(self, version: int, run_id: str) -> Path:
        folder = cached_version(self._folder, version, run_id)
        try:
            return folder or self._registry.fetch(version, self._folder)
        except OSError as error:
            raise ServiceError(
                f"version {version} cannot be kept in {self._folder}: {error.strerror or error}"
            ) from error

    def _evict_oldest(self, candidates: Iterable[VersionKey]) -> None:
        by_use = sorted(candidates, key=lambda key: self._used.get(key, 0.0))
        for oldest in by_use[: max(len(self._loaded) - self._max_versions, 0)]:
            del self._loaded[oldest]
            self._used.pop(oldest, None)

    def replace_all(
        self,
        make: Callable[[Path], Forecaster],
        change: Callable[[Forecaster], Forecaster],
        swap: Callable[[dict[VersionKey, LoadedVersion]], None],
    ) -> None:
        """Replace every version by ``change`` of it; load with ``make`` from now on.

        ``swap`` gets the new versions before any other is loaded. An error of ``change`` leaves
        all as it was.
        """
        # No version may be loaded meanwhile: it would keep the old panel.
        with self._lock:
            loaded = {
                key: replace(served, forecaster=change(served.forecaster))
                for key, served in self._loaded.items()
            }
            swap(loaded)
            self._make, self._loaded = make, loaded
