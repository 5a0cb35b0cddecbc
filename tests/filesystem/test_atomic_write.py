"""``staging_folder`` and ``remove_stale``: atomic folders, removal after errors and kills."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from rossmann.filesystem.atomic_write import (
    PREFIX,
    make_private_folder,
    private_files,
    remove_stale,
    staging_folder,
    write_text_atomic,
)

HOLD_STAGING_FOLDER = """
import sys, time
from pathlib import Path
from rossmann.filesystem.atomic_write import staging_folder
with staging_folder(Path(sys.argv[1])) as folder:
    (folder / "half").touch()
    print("writes", flush=True)
    time.sleep(600)
"""


def test_staging_folder_is_removed_unless_renamed(tmp_path: Path) -> None:
    with staging_folder(tmp_path / "deep") as folder:
        (folder / "file").touch()
    assert list((tmp_path / "deep").iterdir()) == []
    with staging_folder(tmp_path) as folder:
        (folder / "file").touch()
        folder.rename(tmp_path / "whole")
    assert (tmp_path / "whole" / "file").is_file()
    assert (tmp_path / "whole").stat().st_mode & 0o777 == 0o755


def test_staging_folder_is_removed_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(KeyError), staging_folder(tmp_path) as folder:
        (folder / "half").touch()
        raise KeyError
    assert list(tmp_path.iterdir()) == []


def test_old_staging_folder_without_a_lock_is_removed(tmp_path: Path) -> None:
    folder = tmp_path / f"{PREFIX}old"
    folder.mkdir()
    assert remove_stale(tmp_path, older_than=3600) == []
    os.utime(folder, (1, 1))
    assert remove_stale(tmp_path, older_than=3600) == [folder]
    assert list(tmp_path.iterdir()) == []


def test_only_staging_folders_of_ended_processes_are_removed(tmp_path: Path) -> None:
    other = subprocess.Popen(
        [sys.executable, "-c", HOLD_STAGING_FOLDER, str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert other.stdout is not None
        assert other.stdout.readline() == "writes\n"
        assert remove_stale(tmp_path) == []
        with staging_folder(tmp_path) as own:
            assert remove_stale(tmp_path) == []
            assert own.is_dir()
        os.kill(other.pid, signal.SIGKILL)
        other.wait(30)
        (leftover,) = tmp_path.iterdir()
        assert (leftover / "half").is_file()
        with staging_folder(tmp_path) as own:
            assert list(tmp_path.iterdir()) == [own]
    finally:
        other.kill()
        other.communicate()


def modes(folder: Path) -> dict[str, int]:
    paths = [folder, *folder.rglob("*")]
    return {path.name: path.lstat().st_mode & 0o777 for path in paths}


def test_private_files_are_for_their_owner_alone(tmp_path: Path) -> None:
    with private_files(), staging_folder(tmp_path / "made") as folder:
        write_text_atomic(folder / "file", "sales")
        folder.rename(tmp_path / "made" / "whole")
    assert modes(tmp_path / "made") == {"made": 0o700, "whole": 0o700, "file": 0o600}
    (tmp_path / "after").touch()
    assert (tmp_path / "after").stat().st_mode & 0o777 == 0o644


def test_private_folder_closes_what_an_earlier_release_left_open(tmp_path: Path) -> None:
    folder, outside = tmp_path / "logs", tmp_path / "outside"
    (folder / "sub").mkdir(parents=True)
    outside.write_text("another's")
    for name in ("api.log", "log.db"):
        (folder / name).touch(0o644)
    (folder / "link").symlink_to(outside)
    make_private_folder(folder)
    found = modes(folder)
    assert (found["logs"], found["api.log"], found["log.db"]) == (0o700, 0o600, 0o600)
    assert outside.stat().st_mode & 0o777 == 0o644
