"""The loaded versions while the registry changes, is unavailable or holds damaged files."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rossmann.errors import ModelUnavailableError, ServiceError, VersionNotFoundError
from rossmann.schema import Stage
from rossmann.serving.runtime.registry_view import require_startable
from rossmann.serving.runtime.version_manager import VersionManager

Open = Callable[..., VersionManager]


@pytest.fixture
def open_versions(registry: Any, make_forecaster: Any, tmp_path: Path) -> Open:
    """Creates version managers over one registry and cache, as after a restart."""

    def load(max_versions: int = 4) -> VersionManager:
        return VersionManager(registry, tmp_path / "models", make_forecaster, max_versions)

    return load


def production_version(versions: VersionManager) -> int:
    production = versions.production
    assert production is not None
    return production.version


def test_start_loads_production(open_versions: Open) -> None:
    versions = open_versions()
    versions.start()
    assert production_version(versions) == 1 and versions.reason == "" and versions.loaded == [1]


def test_start_without_production_version_fails(registry: Any, open_versions: Open) -> None:
    registry.by_version = {2: registry.by_version[2], 3: registry.by_version[3]}
    with pytest.raises(ModelUnavailableError, match=r"rossmann up .*rossmann promote VERSION"):
        open_versions().start()
    with pytest.raises(ModelUnavailableError, match=r"rossmann up .*rossmann promote VERSION"):
        require_startable(registry, Path("nowhere"))


def test_start_without_registry_and_local_copy_fails(
    registry: Any, open_versions: Open, tmp_path: Path
) -> None:
    registry.unavailable = True
    with pytest.raises(ModelUnavailableError, match=r"server is unreachable.*holds no whole copy"):
        open_versions().start()
    with pytest.raises(ModelUnavailableError, match="holds no whole copy"):
        require_startable(registry, tmp_path)


def test_start_from_the_local_copy_and_recovery(
    registry: Any, open_versions: Open, tmp_path: Path
) -> None:
    open_versions().start()
    registry.unavailable = True
    require_startable(registry, tmp_path / "models")
    versions = open_versions()
    versions.start()
    assert production_version(versions) == 1 and "server is unreachable" in versions.reason
    selected = versions.get_loaded(1)
    assert selected is not None and selected.stage == "Production"
    with pytest.raises(ServiceError, match="server is unreachable"):
        versions.load("Staging")
    registry.unavailable = False
    registry.promote(3, "", "")
    versions.poll()
    assert production_version(versions) == 3 and versions.reason == ""
    assert versions.load("Staging").served.version == 2


def test_local_copy_of_the_current_version_is_kept_after_recovery(
    registry: Any, open_versions: Open
) -> None:
    open_versions().start()
    registry.unavailable = True
    versions = open_versions()
    versions.start()
    registry.unavailable = False
    versions.poll()
    assert production_version(versions) == 1 and versions.reason == "" and versions.loaded == [1]


def test_production_stays_loaded_while_the_registry_is_unavailable(
    registry: Any, open_versions: Open
) -> None:
    versions = open_versions()
    versions.start()
    registry.unavailable = True
    versions.poll()
    assert production_version(versions) == 1 and "server is unreachable" in versions.reason
    with pytest.raises(ServiceError):
        versions.load(3)
    registry.unavailable = False
    versions.poll()
    assert versions.reason == ""


def test_poll_follows_a_promotion_and_a_rollback(registry: Any, open_versions: Open) -> None:
    versions = open_versions()
    versions.start()
    registry.promote(2, "", "")
    versions.poll()
    assert production_version(versions) == 2
    assert versions.snapshot.version_in_stage(Stage.STAGING) is None
    registry.rollback("", "")
    versions.poll()
    assert production_version(versions) == 1


def test_removed_production_version_stays_loaded(registry: Any, open_versions: Open) -> None:
    versions = open_versions()
    versions.start()
    del registry.by_version[1]
    versions.poll()
    assert production_version(versions) == 1
    assert "no Production version; version 1 goes on answering" in versions.reason


def test_damaged_production_version_is_not_loaded(registry: Any, open_versions: Open) -> None:
    versions = open_versions()
    versions.start()
    registry.add(13)
    registry.promote(13, "", "")
    versions.poll()
    assert production_version(versions) == 1
    assert "version 13 is Production but cannot be had" in versions.reason
    registry.promote(3, "", "")
    versions.poll()
    assert production_version(versions) == 3 and versions.reason == ""


def test_start_with_a_damaged_production_loads_the_last_valid_version(
    registry: Any, open_versions: Open
) -> None:
    open_versions().start()
    registry.add(13)
    registry.promote(13, "", "")
    versions = open_versions()
    versions.start()
    assert production_version(versions) == 1 and "version 13 is damaged" in versions.reason


def test_same_version_number_of_another_run_is_reloaded(registry: Any, open_versions: Open) -> None:
    versions = open_versions()
    versions.start()
    before = versions.production
    registry.add(1, Stage.PRODUCTION, "another-run")
    versions.poll()
    assert versions.production is not before and production_version(versions) == 1


def test_cache_is_bounded_and_never_evicts_production(registry: Any, open_versions: Open) -> None:
    for version in range(4, 9):
        registry.add(version)
    versions = open_versions(max_versions=3)
    versions.start()
    for version in (2, 3, 4, 5, 6, 7, 8):
        assert versions.load(version).served.version == version
        assert versions.get_loaded("Production") is not None
        assert len(versions.loaded) <= 3 and 1 in versions.loaded
    assert versions.loaded == [1, 7, 8]


def test_least_recently_used_version_is_evicted_first(registry: Any, open_versions: Open) -> None:
    registry.add(4)
    versions = open_versions(max_versions=3)
    versions.start()
    versions.load(2)
    versions.load(3)
    assert versions.get_loaded(2) is not None
    versions.load(4)
    assert versions.loaded == [1, 2, 4]


def test_loaded_version_needs_no_registry_call(registry: Any, open_versions: Open) -> None:
    versions = open_versions()
    versions.start()
    versions.load(3)
    calls = registry.calls
    registry.unavailable = True
    assert versions.load(3).served.version == 3
    assert versions.load("Production").served.version == 1
    assert registry.calls == calls


def test_invalid_version_is_rejected_without_a_registry_call(
    registry: Any, open_versions: Open
) -> None:
    versions = open_versions()
    versions.start()
    calls = registry.calls
    for requested in ("", "x", "../../etc", "production", -1, 0, 10**50, "Archived"):
        with pytest.raises(VersionNotFoundError, match="versions 1, 2, 3"):
            versions.load(requested)
    assert registry.calls == calls


def test_concurrent_requests_share_one_load(
    registry: Any, make_forecaster: Any, tmp_path: Path
) -> None:
    folders: list[Path] = []

    def load(folder: Path) -> Any:
        folders.append(folder)
        return make_forecaster(folder)

    versions = VersionManager(registry, tmp_path, load)
    versions.start()
    threads = [threading.Thread(target=versions.load, args=(3,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [folder.name for folder in folders] == ["1", "3"]


def test_poller_survives_an_unexpected_error(
    registry: Any, open_versions: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    versions = open_versions()
    versions.start()
    raised, recovered = threading.Event(), threading.Event()
    original = registry.versions

    def fail_once() -> Any:
        if not raised.is_set():
            raised.set()
            raise ValueError("unexpected")
        recovered.set()
        return original()

    monkeypatch.setattr(registry, "versions", fail_once)
    versions.start_polling(0.01)
    try:
        assert recovered.wait(30)
    finally:
        versions.close()
