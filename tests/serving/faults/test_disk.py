"""The disk: full, or with a damaged file on it."""

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rossmann.errors import ServiceError
from rossmann.filesystem.atomic_write import PREFIX
from rossmann.models.registry.model_cache import last_production
from rossmann.serving.runtime.version_manager import VersionManager

Call = Callable[..., Any]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 kB, mounted where versions are kept."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    if os.getuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("only root can mount a small file system, and not everywhere")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(disk: Path) -> Path:
    """Leave no room; gives the file to remove."""
    path = disk / "full"
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 4096)
        except OSError:
            return path


def test_full_disk_costs_no_answer_and_recovers(
    small_disk: Path, registry: Any, make_forecaster: Any
) -> None:
    """What cannot be kept cannot be taken over: the version before goes on, and it says why."""
    versions = VersionManager(registry, small_disk, make_forecaster)
    versions.start()
    filling = fill(small_disk)
    registry.promote(2, "", "")
    versions.poll()
    now = versions.production
    assert now is not None and now.version == 1
    assert "version 2 is Production but cannot be had" in versions.reason
    assert "No space left on device" in versions.reason
    with pytest.raises(ServiceError, match="No space left on device"):
        versions.load(3)
    assert list(small_disk.glob(f"{PREFIX}*")) == []
    filling.unlink()
    versions.poll()
    now = versions.production
    assert now is not None and now.version == 2 and versions.reason == ""
    assert last_production(small_disk) == 2


def test_what_is_production_is_noted_as_soon_as_there_is_room(
    small_disk: Path, registry: Any, make_forecaster: Any
) -> None:
    versions = VersionManager(registry, small_disk, make_forecaster)
    versions.start()
    versions.load(2)  # it is in memory, so that only the note needs room
    filling = fill(small_disk)
    registry.promote(2, "", "")
    versions.poll()
    now = versions.production
    assert now is not None and now.version == 2
    assert "cannot be noted" in versions.reason and last_production(small_disk) == 1
    filling.unlink()
    versions.poll()
    assert versions.reason == "" and last_production(small_disk) == 2


@pytest.mark.parametrize("name", ["lightgbm.npz", "ensemble.json"])
def test_a_copy_that_is_damaged_on_disk_is_fetched_again(
    name: str, run_door: Call, between: Any, registered: list[int], promote: Call, health: Call,
    ask: Call, row: Call, cache: Path,
) -> None:  # fmt: skip
    promote(registered[0])
    uri = between.url
    first = run_door(mlflow_tracking_uri=uri)
    truth = ask(first.url, {"inputs": [row()]}).json()["predictions"]
    first.stop()
    path = cache / str(registered[0]) / name
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    second = run_door(mlflow_tracking_uri=uri)
    told = health(second.url)
    assert (told["status"], told["model_version"]) == ("healthy", registered[0])
    assert ask(second.url, {"inputs": [row()]}).json()["predictions"] == truth
    assert path.read_bytes() == whole
    assert "Traceback" not in second.stop()
