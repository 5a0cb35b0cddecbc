"""Files of a model version: the card, the members, and a SHA-256 digest of each.

``ensemble.json``, the card, names the other files' digests; the registry keeps the card's own.
"""

import hashlib
import json
from pathlib import Path
from typing import Any, Final

from rossmann.errors import CorruptModelError
from rossmann.installation import shell_command

CARD_FILE: Final = "ensemble.json"


def _remedy() -> str:
    train, rollback = shell_command("train"), shell_command("rollback")
    return f"train again ({train}), or bring the version before back ({rollback})"


def sha256(path: Path) -> str:
    """Digest of a file's content, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_card(folder: Path) -> dict[str, Any]:
    """The version's card; raises ``CorruptModelError`` where it is missing or no JSON object."""
    try:
        card = json.loads((folder / CARD_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CorruptModelError(f"{folder / CARD_FILE} cannot be read: {error}") from error
    if not isinstance(card, dict):
        raise CorruptModelError(f"{folder / CARD_FILE} is no JSON object")
    return card


def write_card(folder: Path, card: dict[str, Any], names: list[str]) -> dict[str, Any]:
    """Write the card with the digest of each file of ``names``; returns it as written."""
    card = {**card, "files": {name: sha256(folder / name) for name in names}}
    text = json.dumps(card, indent=1, sort_keys=True)
    (folder / CARD_FILE).write_text(text + "\n", "utf-8")
    return card


def member_files(folder: Path) -> dict[str, str]:
    """The version's files other than the card, with the digests that it names."""
    files = read_card(folder).get("files")
    if not isinstance(files, dict) or not files:
        raise CorruptModelError(f"{folder / CARD_FILE} names no files")
    for name in files:
        if Path(name).name != name or name.startswith("."):
            raise CorruptModelError(
                f"{folder / CARD_FILE} names {name!r}, which is no plain file name"
            )
    return {str(name): str(digest) for name, digest in files.items()}


def verify_digests(folder: Path, card_digest: str | None = None) -> None:
    """Check every file's digest; raises ``CorruptModelError`` naming the file that differs.

    ``card_digest``: SHA-256 of the card as the registry knows it; None where unknown.
    """
    if card_digest and (folder / CARD_FILE).is_file():
        _verify_file(folder / CARD_FILE, card_digest)
    for name, digest in member_files(folder).items():
        _verify_file(folder / name, digest)


def _verify_file(path: Path, digest: str) -> None:
    if not path.is_file():
        raise CorruptModelError(f"{path} is missing: {_remedy()}")
    actual = sha256(path)
    if actual != digest:
        raise CorruptModelError(
            f"{path} is damaged (its digest is {actual[:12]}…, not {digest[:12]}…): {_remedy()}"
        )
