"""What the registry said last, as a value: which version is in which stage.

MERGED: When the service may start: with a Production version, or with its local copy.

MERGED: What the service needs from the parts below it; tests put small ones in their place.
"""
# ruff: noqa: D102 -- each method of a protocol is documented where it is defined

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Final, Protocol

from rossmann.errors import NoModel, ServiceError
from rossmann.models.registry.model_cache import last_production, local_copy
from rossmann.models.registry.model_version import Expected
from rossmann.schema import MODEL_NAME, Stage

_HIGHEST: Final = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Seen:
    """Each version's run and stage."""

    runs: dict[int, str] = field(default_factory=dict)
    stages: dict[int, Stage] = field(default_factory=dict)

    def in_stage(self, stage: Stage) -> int | None:
        """The version in that stage, or None."""
        return next((v for v, s in self.stages.items() if s is stage), None)

    def number(self, wanted: str | int) -> int | None:
        """The version that ``wanted`` (a stage or a number) means, whether there is one or not.

        None for an empty stage, and for what is neither.
        """
        if wanted in (Stage.PRODUCTION, Stage.STAGING):
            return self.in_stage(Stage(wanted))
        if isinstance(wanted, str):
            if not (wanted.isascii() and wanted.isdigit() and len(wanted) < 10):
                return None
            wanted = int(wanted)
        return wanted if 1 <= wanted <= _HIGHEST else None

    def names(self, wanted: str | int) -> str:
        """That there is no such version, and which there are."""
        stages = [
            f"{stage} (version {version})"
            for stage in (Stage.PRODUCTION, Stage.STAGING)
            if (version := self.in_stage(stage)) is not None
        ]
        numbers = ", ".join(map(str, sorted(self.runs))) or "none"
        if wanted in (Stage.PRODUCTION, Stage.STAGING):
            what = f"no version is in {wanted}"
        else:
            # Not str() of any number: one of thousands of digits raises.
            huge = isinstance(wanted, int) and abs(wanted) > _HIGHEST
            what = f"there is no version {'of that number' if huge else str(wanted)[:40]}"
        return f"{what}; there are: {', '.join([*stages, f'versions {numbers}'])}"


class VersionLike(Protocol):
    """A version in the registry."""

    @property
    def version(self) -> int: ...
    @property
    def stage(self) -> Stage: ...
    @property
    def run_id(self) -> str: ...
    @property
    def created(self) -> datetime: ...
    @property
    def tags(self) -> dict[str, str]: ...


class RegistryLike(Protocol):
    """What the service needs of the registry."""

    def versions(self) -> Sequence[VersionLike]: ...
    def fetch(self, version: int, cache: Path) -> Path: ...
    def promote(
        self, version: int, reason: str, who: str, expected: Expected = "any"
    ) -> VersionLike: ...
    def rollback(self, reason: str, who: str) -> VersionLike: ...


_MAKE_ONE: Final = (
    "make one with: bash scripts/launch_dashboard.sh (or: rossmann train, rossmann validate "
    "VERSION, rossmann promote VERSION)"
)
NO_PRODUCTION: Final = f"there is no Production version of {MODEL_NAME}: {_MAKE_ONE}"


HURRY: Final = 2.0
"""Seconds for the registry to answer in, at a start that can do without it."""


def has_copy(cache: Path) -> bool:
    """Whether a start can do without the registry."""
    version = last_production(cache)
    return version is not None and local_copy(cache, version) is not None


def find_start(registry: RegistryLike, cache: Path) -> None:
    """Raise ``NoModel`` where ``Versions.start`` would; loads nothing."""
    try:
        found = registry.versions()
    except ServiceError as error:
        last_copy(cache, f"the registry is away: {error}")
        return
    if all(version.stage is not Stage.PRODUCTION for version in found):
        raise NoModel(NO_PRODUCTION)


def last_copy(cache: Path, why: str) -> tuple[int, Path]:
    """The last Production version and its local copy; raises ``NoModel``, with ``why`` before."""
    version = last_production(cache)
    folder = None if version is None else local_copy(cache, version)
    if version is None or folder is None:
        raise NoModel(
            f"{why}; and {cache} holds no whole copy of a Production version. If there never was "
            f"one, {_MAKE_ONE}"
        )
    return version, folder
