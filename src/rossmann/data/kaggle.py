"""Fetches the real tables from Kaggle, for who has an account and has accepted its rules."""

import importlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Final

from rossmann.errors import MissingData
from rossmann.settings import Settings

COMPETITION: Final = "rossmann-store-sales"
_TABLES: Final = ("train.csv", "store.csv", "test.csv")

Download = Callable[[str], str]
"""Fetches a competition's files by its name and returns their folder."""


def get_tables(
    settings: Settings, report: Callable[[str], None], download: Download | None = None
) -> list[Path]:
    """Put the real tables into ``raw_dir`` and return their paths.

    ``download``: kagglehub's by default. Raises ``MissingData``, saying where to put the files by
    hand, where the package or Kaggle's credentials are missing or Kaggle refuses.
    """
    fetch = download or _kagglehub(settings)
    report(f"fetching {COMPETITION} from Kaggle")
    try:
        source = Path(fetch(COMPETITION))
    except (OSError, RuntimeError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise MissingData(f"Kaggle refuses: {reason}. {_by_hand(settings)}") from error
    absent = [name for name in _TABLES if not (source / name).is_file()]
    if absent:
        raise MissingData(f"Kaggle's copy has no {', '.join(absent)}. {_by_hand(settings)}")
    return [_put(source / name, settings.raw_dir, report) for name in _TABLES]


def _kagglehub(settings: Settings) -> Download:
    try:
        download: Download = importlib.import_module("kagglehub").competition_download
    except ImportError as error:
        raise MissingData(
            f"kagglehub is not installed (pip install kagglehub). {_by_hand(settings)}"
        ) from error
    return download


def _by_hand(settings: Settings) -> str:
    return (
        f"To do it by hand: accept the rules of {COMPETITION} on Kaggle, download its files, and"
        f" put train.csv, store.csv and test.csv into {settings.raw_dir}"
    )


def _put(source: Path, folder: Path, report: Callable[[str], None]) -> Path:
    """Copy beside the place and rename: a table that is there is whole."""
    folder.mkdir(parents=True, exist_ok=True)
    place = folder / source.name
    draft = folder / f".{source.name}.draft"
    shutil.copyfile(source, draft)
    draft.replace(place)
    report(str(place))
    return place
