"""Folders appear whole or not at all, and what a killed process left is swept."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from rossmann.filesystem.atomic_write import PREFIX, remove_stale, staging_folder

HOLD = """
import sys, time
from pathlib import Path
from rossmann.filesystem.atomic_write import staging_folder
with staging_folder(Path(sys.argv[1])) as draft:
    (draft / "half").touch()
    print("writes", flush=True)
    time.sleep(600)
"""


def test_a_draft_is_gone_unless_it_was_renamed(tmp_path: Path) -> None:
    with staging_folder(tmp_path / "deep") as draft:
        (draft / "file").touch()
    assert list((tmp_path / "deep").iterdir()) == []
    with staging_folder(tmp_path) as draft:
        (draft / "file").touch()
        draft.rename(tmp_path / "whole")
    assert (tmp_path / "whole" / "file").is_file()
    assert (tmp_path / "whole").stat().st_mode & 0o777 == 0o755


def test_an_error_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyError), staging_folder(tmp_path) as draft:
        (draft / "half").touch()
        raise KeyError
    assert list(tmp_path.iterdir()) == []


def test_a_draft_without_a_lock_is_swept_when_it_is_old(tmp_path: Path) -> None:
    draft = tmp_path / f"{PREFIX}old"
    draft.mkdir()
    assert remove_stale(tmp_path, older_than=3600) == []
    os.utime(draft, (1, 1))
    assert remove_stale(tmp_path, older_than=3600) == [draft]
    assert list(tmp_path.iterdir()) == []


def test_only_drafts_of_ended_processes_are_swept(tmp_path: Path) -> None:
    other = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert other.stdout is not None
        assert other.stdout.readline() == "writes\n"
        assert remove_stale(tmp_path) == []
        with staging_folder(tmp_path) as mine:
            assert remove_stale(tmp_path) == []
            assert mine.is_dir()
        os.kill(other.pid, signal.SIGKILL)
        other.wait(30)
        (left,) = tmp_path.iterdir()
        assert (left / "half").is_file()
        with staging_folder(tmp_path) as mine:
            assert list(tmp_path.iterdir()) == [mine]
    finally:
        other.kill()
        other.communicate()
