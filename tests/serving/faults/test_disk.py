"""Faults of the disk: full, or with a damaged file."""

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
    """A mounted file system of 64 kB for the model cache."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    if os.getuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("only root can mount a small file system, and not everywhere")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(disk: Path) -> Path:
    """Write a file that fills the disk."""
    path = disk / "full"
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 4096)
        except OSError:
            return path


def production_number(versions: VersionManager) -> int | None:
    return None if versions.production is None else versions.production.version


def test_full_disk_keeps_the_previous_version_and_recovers(
    small_disk: Path, registry: Any, make_forecaster: Any
) -> None:
    """A version that cannot be cached is not served; the reason is reported."""
    versions = VersionManager(registry, small_disk, make_forecaster)
    versions.start()
    filling = fill(small_disk)
    registry.promote(2, "", "")
    versions.poll()
    assert production_number(versions) == 1
    assert "version 2 is Production but cannot be had" in versions.reason
    assert "No space left on device" in versions.reason
    with pytest.raises(ServiceError, match="No space left on device"):
        versions.load(3)
    assert list(small_disk.glob(f"{PREFIX}*")) == []
    filling.unlink()
    versions.poll()
    assert production_number(versions) == 2 and versions.reason == ""
    assert last_production(small_disk) == 2


def test_production_record_is_written_once_there_is_space(
    small_disk: Path, registry: Any, make_forecaster: Any
) -> None:
    versions = VersionManager(registry, small_disk, make_forecaster)
    versions.start()
    versions.load(2)  # in memory: only the record needs space
    filling = fill(small_disk)
    registry.promote(2, "", "")
    versions.poll()
    assert production_number(versions) == 2
    assert "cannot be noted" in versions.reason and last_production(small_disk) == 1
    filling.unlink()
    versions.poll()
    assert versions.reason == "" and last_production(small_disk) == 2


@pytest.mark.parametrize(
    "name", ["ensemble.json", pytest.param("lightgbm.npz", marks=pytest.mark.nightly)]
)
def test_damaged_cached_file_is_downloaded_again(
    name: str, run_service: Call, mlflow_proxy: Any, registered_versions: list[int], promote: Call,
    get_health: Call, post_predict: Call, row: Call, model_cache: Path,
) -> None:  # fmt: skip
    promote(registered_versions[0])
    uri = mlflow_proxy.url
    first = run_service(mlflow_tracking_uri=uri)
    expected = post_predict(first.url, {"inputs": [row()]}).json()["predictions"]
    first.stop()
    path = model_cache / str(registered_versions[0]) / name
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    second = run_service(mlflow_tracking_uri=uri)
    health = get_health(second.url)
    assert (health["status"], health["model_version"]) == ("healthy", registered_versions[0])
    assert post_predict(second.url, {"inputs": [row()]}).json()["predictions"] == expected
    assert path.read_bytes() == content
    assert "Traceback" not in second.stop()
