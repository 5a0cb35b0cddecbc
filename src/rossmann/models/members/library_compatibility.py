"""Check that the installed booster libraries can read a version's files.

LightGBM ends the whole process on a file that it cannot read. So the releases are compared, by
what each library promises, and the digests checked before a file is opened.

- XGBoost, "Introduction to Model IO" (release 3.2): models in JSON and UBJSON stay readable by
  later releases; the reverse is not promised. UBJSON came with 1.6.
- LightGBM, issue 4407: files of a release N.x are to be readable by the releases of the same N;
  across N they were not always (issue 6082: a file of 3.3 did not load in 4.0).
- CatBoost, issue 543: a model of an older release can be applied by a newer one ("we guarantee");
  the format is stable since 0.4.1.

No library promises that an older release reads a newer one's file: that is always an error.
"""

import importlib.metadata
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from rossmann.errors import CorruptModelError, NotInstalledError, missing_package_message
from rossmann.installation import shell_command

Release = tuple[int, int]


@dataclass(frozen=True)
class CompatibilityRule:
    """Whose files a library reads.

    ``distributions``: names of the packages that hold it. ``oldest``: first release whose files
    are readable, as (major, minor). ``same_major``: only those of the installed major release.
    """

    distributions: tuple[str, ...]
    oldest: Release
    same_major: bool = False

    def can_read(self, installed: Release, written: Release) -> bool:
        """Whether the installed release reads what the other one wrote."""
        same_major = not self.same_major or installed[0] == written[0]
        return same_major and self.oldest <= written <= installed


COMPATIBILITY: Final[dict[str, CompatibilityRule]] = {
    "lightgbm": CompatibilityRule(("lightgbm",), (3, 0), same_major=True),
    "xgboost": CompatibilityRule(("xgboost-cpu", "xgboost"), (1, 6)),
    "catboost": CompatibilityRule(("catboost",), (0, 5)),
}


def installed_libraries(members: Iterable[str]) -> dict[str, str]:
    """The installed release of each member's library, by the name of its distribution."""
    return dict(_installed(COMPATIBILITY[member]) for member in members)


def check_compatibility(card: Mapping[str, Any], folder: Path) -> None:
    """Raises ``CorruptModelError``, with what to do, for a version with an unreadable member.

    A library that is not installed reads nothing: forecasts do not need it, and drivers say so.
    """
    libraries = card.get("libraries")
    for member in card["weights"]:
        rule = COMPATIBILITY[member]
        name, installed = _installed(rule)
        if not installed:
            continue
        written = _written(libraries, rule)
        release = _parse(written)
        if release is None:
            raise CorruptModelError(
                f"the card in {folder} does not say which release of {name} made the version:"
                f" train a new one ({shell_command('train')})"
            )
        if not rule.can_read(_parse(installed) or (0, 0), release):
            raise CorruptModelError(
                f"the version in {folder} was made by {name} {written}, which {name} {installed}"
                f" cannot be trusted to read: install {name}=={written}, or train a new version"
                f" ({shell_command('train')}), or bring the version before back"
                f" ({shell_command('rollback')})"
            )


def load_errors() -> tuple[type[Exception], ...]:
    """What the libraries raise for a file that they cannot read.

    Raises ``NotInstalledError`` where one of them is not installed.
    """
    try:
        from catboost import CatBoostError
        from lightgbm.basic import LightGBMError
        from xgboost.core import XGBoostError
    except ModuleNotFoundError as error:
        raise NotInstalledError(f"no drivers: {missing_package_message(error)}") from error

    return (CatBoostError, LightGBMError, XGBoostError, OSError, ValueError, KeyError, RuntimeError)


def _installed(rule: CompatibilityRule) -> tuple[str, str]:
    """The library's name and release; the release is "" where it is not installed."""
    for name in rule.distributions:
        try:
            return name, importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return rule.distributions[0], ""


def _written(libraries: object, rule: CompatibilityRule) -> str:
    if not isinstance(libraries, Mapping):
        return ""
    return next((str(libraries[name]) for name in rule.distributions if name in libraries), "")


def _parse(text: str) -> Release | None:
    match = re.match(r"(\d+)\.(\d+)", text)
    return None if match is None else (int(match[1]), int(match[2]))
