"""``staging_folder`` and ``remove_stale``: atomic folders, removal after errors and kills."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from rossmann.filesystem.atomic_write import PREFIX, remove_stale, staging_folder

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
