"""Versions in memory, a bounded number of them: each loaded once, however many ask for it."""

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
"""A version's number and its run: a registry that was made anew gives numbers again."""


@dataclass(frozen=True, slots=True)
class LoadedVersion:
    """A version in memory, ready to answer."""

    version: int
    run_id: str
    forecaster: Forecaster

    @property
    def key(self) -> VersionKey:
        """What it is kept by."""
        return self.version, self.run_id


class VersionCache:
    """Safe to share between threads; the least recently used goes first."""

    def __init__(
        self,
        registry: ModelRegistry,
        folder: Path,
        make: Callable[[Path], Forecaster],
        keep: int,
    ) -> None:
        self._registry = registry
        self._folder = folder
        self._make = make
        self._keep = keep
        self._lock = threading.Lock()
        self._turns: dict[VersionKey, threading.Lock] = {}
        self._loaded: dict[VersionKey, LoadedVersion] = {}
        self._used: dict[VersionKey, float] = {}

    @property
    def numbers(self) -> list[int]:
        """Of the versions in memory, in order."""
        return sorted(version for version, _ in list(self._loaded))

    def get(self, key: VersionKey) -> LoadedVersion | None:
        """The version, if it is in memory; never waits."""
        served = self._loaded.get(key)
        if served is not None:
            self._used[key] = time.monotonic()
        return served

    def add_local(self, version: int, folder: Path) -> LoadedVersion:
        """A version from a folder, of which the registry could not be asked."""
        served = LoadedVersion(version, "", self._make(folder))
        self._loaded[served.key] = served
        return served

    def evict(self, key: VersionKey) -> None:
        """Let go of a version."""
        self._loaded.pop(key, None)

    def get_or_load(self, key: VersionKey, spared: Callable[[VersionKey], bool]) -> LoadedVersion:
        """The version from memory, else from its local copy, else from the registry.

        ``spared``: which others may not go to make room for it.
        """
        with self._lock:
            turn = self._turns.setdefault(key, threading.Lock())
        # A turn for each version: what hangs in one download must not keep Production waiting.
        with turn:
            while (served := self._loaded.get(key)) is None:
                make = self._make
                made = LoadedVersion(*key, make(self._files(*key)))
                with self._lock:
                    # Else ``renew`` came between: this one would answer from what it left behind.
                    if make is self._make:
                        self._loaded[key] = made
            with self._lock:
                self._turns.pop(key, None)
                self._used[key] = time.monotonic()
                self._forget([k for k in self._loaded if k != key and not spared(k)])
        return served

    def _files(self, version: int, run_id: str) -> Path:
        folder = cached_version(self._folder, version, run_id)
        try:
            return folder or self._registry.fetch(version, self._folder)
        except OSError as error:
            raise ServiceError(
                f"version {version} cannot be kept in {self._folder}: {error.strerror or error}"
            ) from error

    def _forget(self, candidates: Iterable[VersionKey]) -> None:
        by_use = sorted(candidates, key=lambda key: self._used.get(key, 0.0))
        for oldest in by_use[: max(len(self._loaded) - self._keep, 0)]:
            del self._loaded[oldest]
            self._used.pop(oldest, None)

    def replace_all(
        self,
        make: Callable[[Path], Forecaster],
        change: Callable[[Forecaster], Forecaster],
        swap: Callable[[dict[VersionKey, LoadedVersion]], None],
    ) -> None:
        """Put ``change`` of every version in its place; from now on load with ``make``.

        ``swap`` is told of the new ones before any other is loaded. What ``change`` raises leaves
        everything as it was.
        """
        # No version may be loaded meanwhile: it would keep what the others leave behind.
        with self._lock:
            loaded = {
                key: replace(served, forecaster=change(served.forecaster))
                for key, served in self._loaded.items()
            }
            swap(loaded)
            self._make, self._loaded = make, loaded
