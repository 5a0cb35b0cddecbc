"""Trained models on disk: written atomically, read, and searched for unregistered ones.

A folder records the process that wrote it. A folder whose process has ended, and that no version in
the registry comes from, was left by a kill between training and registration.
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
from rossmann.models.evaluation.backtest import WindowScore
from rossmann.settings import Settings

WINDOWS_FILE: Final = "windows.json"
OWNER_FILE: Final = ".maker.json"


@dataclass(frozen=True)
class TrainedModel:
    """A trained model on disk: its folder, its card and the scores of its backtest windows."""

    folder: Path
    card: dict[str, Any]
    windows: list[WindowScore]


class PendingFolder:
    """``draft``: the folder to fill; after the block, ``folder`` is its final path."""

    def __init__(self, draft: Path) -> None:
        self.draft = draft
        self.folder = draft


def trained_dir(settings: Settings) -> Path:
    """The parent of the trained models' folders."""
    return settings.data_dir / "trained"


@contextmanager
def publish_folder(parent: Path) -> Iterator[PendingFolder]:
    """A folder that appears in ``parent`` in one step, named after the time, after the block."""
    with staging_folder(parent) as draft:
        pending = PendingFolder(draft)
        yield pending
        (draft / OWNER_FILE).write_text(ProcessIdentity.current().to_json(), "utf-8")
        pending.folder = _rename_to_timestamp(draft, parent)


def _rename_to_timestamp(draft: Path, parent: Path) -> Path:
    stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
    number = 1
    while True:
        target = parent / (stamp if number == 1 else f"{stamp}-{number}")
        number += 1
        if target.exists():
            continue
        try:
            return draft.rename(target)
        except OSError:
            if not target.exists():  # else another process took the name meanwhile
                raise


def write_windows(folder: Path, scores: list[WindowScore]) -> None:
    """Write the scores of the backtest windows into a trained model's folder."""
    text = json.dumps([score.as_dict() for score in scores], indent=1)
    (folder / WINDOWS_FILE).write_text(text, "utf-8")


def read_trained(folder: Path) -> TrainedModel:
    """Read what ``train`` wrote; raises ``CorruptModelError`` where a file is lost or altered."""
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
    parent: Path, fingerprint: str, registered: Collection[str]
) -> TrainedModel | None:
    """The newest trained model of that training fingerprint that was never registered, or None.

    ``registered``: SHA-256 of the card of each version in the registry. Abandoned drafts are
    removed.
    """
    if not parent.is_dir():
        return None
    remove_stale(parent)
    for card_file in sorted(parent.glob(f"*/{CARD_FILE}"), reverse=True):
        with suppress(CorruptModelError):
            if _is_abandoned(card_file.parent) and sha256(card_file) not in registered:
                trained = read_trained(card_file.parent)
                if trained.card.get("recipe") == fingerprint:
                    return trained
    return None


def _is_abandoned(folder: Path) -> bool:
    """Whether the process that would register it has ended."""
    try:
        owner = ProcessIdentity.from_json((folder / OWNER_FILE).read_text("utf-8"))
    except OSError:
        return False
    return owner is not None and owner.has_exited()
