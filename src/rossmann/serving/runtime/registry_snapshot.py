"""What the registry said last, as a value: which version is in which stage.

MERGED: When the service may start: with a Production version, or with its local copy.

MERGED: What the service needs from the parts below it; tests put small ones in their place.
"""
# ruff: noqa: D102 -- each method of a protocol is documented where it is defined

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from rossmann.errors import ModelUnavailableError, ServiceError
from rossmann.models.registry.model_cache import cached_version, last_production
from rossmann.models.registry.model_version import ExpectedProduction
from rossmann.schema import MODEL_NAME, Stage

if TYPE_CHECKING:
    from rossmann.models.registry.model_version import ModelVersion


_HIGHEST: Final = 2**31 - 1


@dataclass(frozen=True, slots=True)
class RegistrySnapshot:
    """Each version's run and stage."""

    runs: dict[int, str] = field(default_factory=dict)
    stages: dict[int, Stage] = field(default_factory=dict)

    def version_in_stage(self, stage: Stage) -> int | None:
        """The version in that stage, or None."""
        return next((v for v, s in self.stages.items() if s is stage), None)

    def resolve(self, wanted: str | int) -> int | None:
        """The version that ``wanted`` (a stage or a number) means, whether there is one or not.

        None for an empty stage, and for what is neither.
        """
        if wanted in (Stage.PRODUCTION, Stage.STAGING):
            return self.version_in_stage(Stage(wanted))
        if isinstance(wanted, str):
            if not (wanted.isascii() and wanted.isdigit() and len(wanted) < 10):
                return None
            wanted = int(wanted)
        return wanted if 1 <= wanted <= _HIGHEST else None

    def not_found_message(self, wanted: str | int) -> str:
        """That there is no such version, and which there are."""
        stages = [
            f"{stage} (version {version})"
            for stage in (Stage.PRODUCTION, Stage.STAGING)
            if (version := self.version_in_stage(stage)) is not None
        ]
        numbers = ", ".join(map(str, sorted(self.runs))) or "none"
        if wanted in (Stage.PRODUCTION, Stage.STAGING):
            what = f"no version is in {wanted}"
        else:
            # Not str() of any number: one of thousands of digits raises.
            huge = isinstance(wanted, int) and abs(wanted) > _HIGHEST
            what = f"there is no version {'of that number' if huge else str(wanted)[:40]}"
        return f"{what}; there are: {', '.join([*stages, f'versions {numbers}'])}"


class ModelRegistry(Protocol):
    """What the service needs of the registry."""

    def versions(self) -> Sequence["ModelVersion"]: ...
    def fetch(self, version: int, cache: Path) -> Path: ...
    def promote(
        self, version: int, reason: str, who: str, expected: ExpectedProduction = "any"
    ) -> "ModelVersion": ...
    def rollback(self, reason: str, who: str) -> "ModelVersion": ...


_MAKE_ONE: Final = (
    "make one with: bash scripts/launch_dashboard.sh (or: rossmann train, rossmann validate "
    "VERSION, rossmann promote VERSION)"
)
NO_PRODUCTION_MESSAGE: Final = f"there is no Production version of {MODEL_NAME}: {_MAKE_ONE}"


STARTUP_TIMEOUT: Final = 2.0
"""Seconds for the registry to answer in, at a start that can do without it."""


def has_cached_production(cache: Path) -> bool:
    """Whether a start can do without the registry."""
    version = last_production(cache)
    return version is not None and cached_version(cache, version) is not None


def require_startable(registry: ModelRegistry, cache: Path) -> None:
    """Raise ``NoModel`` where ``Versions.start`` would; loads nothing."""
    try:
        found = registry.versions()
    except ServiceError as error:
        cached_production(cache, f"the registry is away: {error}")
        return
    if all(version.stage is not Stage.PRODUCTION for version in found):
        raise ModelUnavailableError(NO_PRODUCTION_MESSAGE)


def cached_production(cache: Path, why: str) -> tuple[int, Path]:
    """The last Production version and its local copy; raises ``NoModel``, with ``why`` before."""
    version = last_production(cache)
    folder = None if version is None else cached_version(cache, version)
    if version is None or folder is None:
        raise ModelUnavailableError(
            f"{why}; and {cache} holds no whole copy of a Production version. If there never was "
            f"one, {_MAKE_ONE}"
        )
    return version, folder
