"""The folders of trained versions: put in place whole, and found again if they were not registered.

A folder says which process made it. A folder of a process that has ended, and that no version in
the registry comes from, was left behind by a kill between training and registration.
"""

import json
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, Final

from rossmann.errors import CorruptModelError
from rossmann.filesystem.atomic_write import remove_stale, staging_folder
from rossmann.filesystem.process_identity import ProcessIdentity
from rossmann.models.ensemble.artifact_files import CARD_FILE, read_card, sha256, verify_digests
from rossmann.models.evaluation.windows import WindowScore
from rossmann.settings import Settings

WINDOWS_FILE: Final = "windows.json"
OWNER_FILE: Final = ".maker.json"


def trained_dir(settings: Settings) -> Path:
    """Where trained versions lie, a folder for each."""
    return settings.data_dir / "trained"


class PendingFolder:
    """``draft``: the folder to fill; after the block, ``folder`` is where it stands."""

    def __init__(self, draft: Path) -> None:
        self.draft = draft
        self.folder = draft


@contextmanager
def publish_folder(home: Path) -> Iterator[PendingFolder]:
    """A folder in ``home`` that appears in one step, named after the time, when the block ends."""
    with staging_folder(home) as draft:
        place = PendingFolder(draft)
        yield place
        (draft / OWNER_FILE).write_text(ProcessIdentity.current().to_json(), "utf-8")
        place.folder = _put(draft, home)


def _put(draft: Path, home: Path) -> Path:
    stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
    number = 1
    while True:
        target = home / (stamp if number == 1 else f"{stamp}-{number}")
        number += 1
        if target.exists():
            continue
        try:
            return draft.rename(target)
        except OSError:
            if not target.exists():  # else another process took the name meanwhile
                raise


def write_windows(folder: Path, scores: "list[WindowScore]") -> None:
    """Write the windows' scores beside the version."""
    text = json.dumps([score.as_dict() for score in scores], indent=1)
    (folder / WINDOWS_FILE).write_text(text, "utf-8")


def read_trained(folder: Path) -> "TrainedModel":
    """A trained version as ``train`` left it; raises ``DamagedModel`` where it is not whole."""

    verify_digests(folder)
    try:
        stored: list[dict[str, Any]] = json.loads((folder / WINDOWS_FILE).read_text("utf-8"))
        windows = [
            WindowScore(**{**window, "origin": date.fromisoformat(window["origin"])})
            for window in stored
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CorruptModelError(f"{folder / WINDOWS_FILE} cannot be read: {error}") from error
    return TrainedModel(folder, read_card(folder), windows)


def find_unregistered(
    home: Path, recipe: str, registered: Collection[str]
) -> "TrainedModel | None":
    """The newest version of that recipe that was trained and never registered; None without one.

    ``registered``: SHA-256 of the card of each version in the registry. Drafts that were left
    behind are removed.
    """
    if not home.is_dir():
        return None
    remove_stale(home)
    for folder in sorted(home.glob(f"*/{CARD_FILE}"), reverse=True):
        with suppress(CorruptModelError):
            if _is_abandoned(folder.parent) and sha256(folder) not in registered:
                found = read_trained(folder.parent)
                if found.card.get("recipe") == recipe:
                    return found
    return None


def _is_abandoned(folder: Path) -> bool:
    """Whether no other process may be about to register it."""
    try:
        maker = ProcessIdentity.from_json((folder / OWNER_FILE).read_text("utf-8"))
    except OSError:
        return False
    return maker is not None and maker.has_exited()


@dataclass(frozen=True)
class TrainedModel:
    """A trained version on disk: the ensemble's folder, its card and its windows."""

    folder: Path
    card: dict[str, Any]
    windows: list[WindowScore]
