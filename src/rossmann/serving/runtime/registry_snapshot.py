"""The registry as the service sees it: its protocol, a snapshot, and what a start needs."""
# ruff: noqa: D102 -- each method of a protocol is documented where it is defined

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from rossmann.errors import ModelUnavailableError, ServiceError
from rossmann.installation import shell_command
from rossmann.models.registry.model_cache import cached_version, last_production
from rossmann.models.registry.model_version import ExpectedProduction
from rossmann.schema import MODEL_NAME, Stage

if TYPE_CHECKING:
    from rossmann.models.registry.model_version import ModelVersion


_HIGHEST: Final = 2**31 - 1


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
