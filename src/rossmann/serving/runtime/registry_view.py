"""The registry as the service sees it: protocol, snapshot, what a start needs, loaded versions.

Loaded versions are kept in an LRU cache: each is loaded once, however many requests name it.
"""

# ruff: noqa: D102 -- each method of a protocol is documented where it is defined

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from rossmann.errors import ModelUnavailableError, ServiceError
from rossmann.installation import shell_command
from rossmann.models.inference.forecaster import Forecaster
from rossmann.models.registry.model_cache import cached_version, last_production
from rossmann.models.registry.model_version import ExpectedProduction
from rossmann.schema import MODEL_NAME, Stage

if TYPE_CHECKING:
    from rossmann.models.registry.model_version import ModelVersion

_HIGHEST: Final = 2**31 - 1
VersionKey = tuple[int, str]
"""A version's number and run: a new registry uses the same numbers again."""


@dataclass(frozen=True, slots=True)
class RegistrySnapshot:
    """Run and stage of each version at one time."""

    runs: dict[int, str] = field(default_factory=dict)
    stages: dict[int, Stage] = field(default_factory=dict)

    def version_in_stage(self, stage: Stage) -> int | None:
        """The version in that stage, or None."""
        return next((v for v, s in self.stages.items() if s is stage), None)

    def resolve(self, requested: str | int) -> int | None:
        """The number of a requested stage or version, whether it exists or not.

        None for an empty stage, and for what is neither.
        """
        if requested in (Stage.PRODUCTION, Stage.STAGING):
            return self.version_in_stage(Stage(requested))
        if isinstance(requested, str):
            if not (requested.isascii() and requested.isdigit() and len(requested) < 10):
                return None
            requested = int(requested)
        return requested if 1 <= requested <= _HIGHEST else None

    def not_found_message(self, requested: str | int) -> str:
        """The error message for an unknown version, with those that exist."""
        stages = [
            f"{stage} (version {version})"
            for stage in (Stage.PRODUCTION, Stage.STAGING)
            if (version := self.version_in_stage(stage)) is not None
        ]
        numbers = ", ".join(map(str, sorted(self.runs))) or "none"
        if requested in (Stage.PRODUCTION, Stage.STAGING):
            what = f"no version is in {requested}"
        else:
            # str() raises for a number of thousands of digits.
            huge = isinstance(requested, int) and abs(requested) > _HIGHEST
            what = f"there is no version {'of that number' if huge else str(requested)[:40]}"
        return f"{what}; there are: {', '.join([*stages, f'versions {numbers}'])}"


class ModelRegistry(Protocol):
    """What the service needs of the registry; ``models.registry`` has the real one."""

    def versions(self) -> Sequence["ModelVersion"]: ...
    def fetch(self, version: int, cache: Path) -> Path: ...
    def promote(
        self, version: int, reason: str, who: str, expected: ExpectedProduction = "any"
    ) -> "ModelVersion": ...
    def rollback(self, reason: str, who: str) -> "ModelVersion": ...


def no_production_message() -> str:
    """That no version answers, and how to make one."""
    return f"there is no Production version of {MODEL_NAME}: {_how_to_train()}"


def _how_to_train() -> str:
    steps = ("train", "validate VERSION", "promote VERSION")
    return f"make one with: {shell_command('up')} (or: {', '.join(map(shell_command, steps))})"


STARTUP_TIMEOUT: Final = 2.0
"""Seconds that a start waits for the registry where a local copy exists."""


def has_cached_production(cache: Path) -> bool:
    """Whether a complete copy of the last Production version is on disk."""
    version = last_production(cache)
    return version is not None and cached_version(cache, version) is not None


def require_startable(registry: ModelRegistry, cache: Path) -> None:
    """Raise ``ModelUnavailableError`` where a start would; loads nothing."""
    try:
        versions = registry.versions()
    except ServiceError as error:
        cached_production(cache, f"the registry is away: {error}")
        return
    if all(version.stage is not Stage.PRODUCTION for version in versions):
        raise ModelUnavailableError(no_production_message())


def cached_production(cache: Path, reason: str) -> tuple[int, Path]:
    """Number and folder of the last Production version's copy.

    Raises ``ModelUnavailableError``; its message begins with ``reason``.
    """
    version = last_production(cache)
    folder = None if version is None else cached_version(cache, version)
    if version is None or folder is None:
        raise ModelUnavailableError(
            f"{reason}; and {cache} holds no whole copy of a Production version. If there never "
            f"was one, {_how_to_train()}"
        )
    return version, folder


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
