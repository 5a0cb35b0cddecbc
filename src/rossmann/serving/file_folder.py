"""Where files lie while they are answered: a folder for each, gone when its request ends."""

import os
import shutil
import tempfile
from pathlib import Path
from typing import Final

from rossmann.settings import Settings

_PREFIX: Final = "rossmann-file-"


def drafts_dir(settings: Settings) -> Path | None:
    """The data folder's, which is a disk; None (the system's) where it cannot be written."""
    folder = settings.run_dir / "files"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    return folder if os.access(folder, os.W_OK) else None


def new_folder(parent: Path | None) -> Path:
    """An empty folder; its name tells whose it is."""
    return Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=parent))


def remove_leftovers(parent: Path | None) -> None:
    """Remove what processes left that were killed; called before this one makes any."""
    root = Path(tempfile.gettempdir()) if parent is None else parent
    for folder in root.glob(f"{_PREFIX}*"):
        number = folder.name.removeprefix(_PREFIX).partition("-")[0]
        if number.isdecimal() and (int(number) == os.getpid() or not _lives(int(number))):
            shutil.rmtree(folder, ignore_errors=True)


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True
