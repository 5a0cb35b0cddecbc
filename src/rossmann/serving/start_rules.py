"""When the service may start: with a Production version, or with its local copy."""

from pathlib import Path
from typing import Final

from rossmann.errors import NoModel, ServiceError
from rossmann.models.model_cache import last_production, local_copy
from rossmann.schema import MODEL_NAME, Stage
from rossmann.serving.ports import RegistryLike

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
