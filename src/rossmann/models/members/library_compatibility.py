"""Whether the installed boosters can read a version's files, by what each library promises.

A file that a library cannot read is worse than an error: LightGBM ends the whole process over a
broken tree. So the releases are compared, and the digests checked, before a file is opened.

- XGBoost, "Introduction to Model IO" (release 3.2): models in JSON and UBJSON stay readable by
  later releases; the reverse is not promised. UBJSON came with 1.6.
- LightGBM, issue 4407: files of a release N.x are to be readable by the releases of the same N;
  across N they were not always (issue 6082: a file of 3.3 did not load in 4.0).
- CatBoost, issue 543: a model of an older release can be applied by a newer one ("we guarantee");
  the format is stable since 0.4.1.

None promises that an older release reads a newer one's file, so that is refused throughout.
"""

import importlib.metadata
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from rossmann.errors import CorruptModelError

Release = tuple[int, int]


@dataclass(frozen=True)
class CompatibilityRule:
    """``names``: the distributions that hold the library. ``oldest``: first release whose files
    are readable, as (major, minor). ``same_major``: only those of the installed major release.
    """

    names: tuple[str, ...]
    oldest: Release
    same_major: bool = False

    def can_read(self, installed: Release, written: Release) -> bool:
        """Whether the installed release reads what the other one wrote."""
        same = not self.same_major or installed[0] == written[0]
        return same and self.oldest <= written <= installed


COMPATIBILITY: Final[dict[str, CompatibilityRule]] = {
    "lightgbm": CompatibilityRule(("lightgbm",), (3, 0), same_major=True),
    "xgboost": CompatibilityRule(("xgboost-cpu", "xgboost"), (1, 6)),
    "catboost": CompatibilityRule(("catboost",), (0, 5)),
}


def installed_libraries(members: Iterable[str]) -> dict[str, str]:
    """The installed release of each member's library, by the name of its distribution."""
    return dict(_installed(COMPATIBILITY[member]) for member in members)


def check_compatibility(card: Mapping[str, Any], folder: Path) -> None:
    """Raise ``DamagedModel``, with what to do, unless every member of the version is readable."""
    told = card.get("libraries")
    for member in card["weights"]:
        promise = COMPATIBILITY[member]
        name, installed = _installed(promise)
        written = _written(told, promise)
        release = _parse(written)
        if release is None:
            raise CorruptModelError(
                f"the card in {folder} does not say which release of {name} made the version:"
                " train a new one (rossmann train)"
            )
        if not promise.can_read(_parse(installed) or (0, 0), release):
            raise CorruptModelError(
                f"the version in {folder} was made by {name} {written}, which {name} {installed}"
                f" cannot be trusted to read: install {name}=={written}, or train a new version"
                " (rossmann train), or bring the version before back (rossmann rollback)"
            )


def load_errors() -> tuple[type[Exception], ...]:
    """What the libraries raise for a file that is none of theirs."""
    from catboost import CatBoostError
    from lightgbm.basic import LightGBMError
    from xgboost.core import XGBoostError

    return (CatBoostError, LightGBMError, XGBoostError, OSError, ValueError, KeyError, RuntimeError)


def _installed(promise: CompatibilityRule) -> tuple[str, str]:
    for name in promise.names:
        try:
            return name, importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    raise CorruptModelError(f"{promise.names[0]} is not installed: install it to load this version")


def _written(told: object, promise: CompatibilityRule) -> str:
    if not isinstance(told, Mapping):
        return ""
    return next((str(told[name]) for name in promise.names if name in told), "")


def _parse(text: str) -> Release | None:
    found = re.match(r"(\d+)\.(\d+)", text)
    return None if found is None else (int(found[1]), int(found[2]))
