"""Which version answers, when the registry moves, goes away, or holds something damaged."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rossmann.errors import ModelUnavailableError, ServiceError, VersionNotFoundError
from rossmann.schema import Stage
from rossmann.serving.runtime.registry_snapshot import require_startable
from rossmann.serving.runtime.version_manager import VersionManager

Open = Callable[..., VersionManager]


@pytest.fixture
def open_versions(registry: Any, make_forecaster: Any, tmp_path: Path) -> Open:
    """Versions over the same registry and cache each time, as after a restart."""

    def make(max_versions: int = 4) -> VersionManager:
        return VersionManager(registry, tmp_path / "models", make_forecaster, max_versions)

    return make


def number(versions: VersionManager) -> int:
    now = versions.production
    assert now is not None
    return now.version


def test_starts_with_production(open_versions: Open) -> None:
    versions = open_versions()
    versions.start()
    assert number(versions) == 1 and versions.reason == "" and versions.loaded == [1]


def test_does_not_start_without_production(registry: Any, open_versions: Open) -> None:
    registry.shelf = {2: registry.shelf[2], 3: registry.shelf[3]}
    with pytest.raises(ModelUnavailableError, match="bash scripts/launch_dashboard"):
        open_versions().start()
    with pytest.raises(ModelUnavailableError, match="bash scripts/launch_dashboard"):
        require_startable(registry, Path("nowhere"))


def test_does_not_start_without_registry_and_copy(
    registry: Any, open_versions: Open, tmp_path: Path
) -> None:
    registry.away = True
    with pytest.raises(ModelUnavailableError, match=r"no server answers.*holds no whole copy"):
        open_versions().start()
    with pytest.raises(ModelUnavailableError, match="holds no whole copy"):
        require_startable(registry, tmp_path)


def test_starts_from_the_local_copy_and_recovers(
    registry: Any, open_versions: Open, tmp_path: Path
) -> None:
    open_versions().start()
    registry.away = True
    require_startable(registry, tmp_path / "models")
    versions = open_versions()
    versions.start()
    assert number(versions) == 1 and "no server answers" in versions.reason
    picked = versions.get_loaded(1)
    assert picked is not None and picked.stage == "Production"
    with pytest.raises(ServiceError, match="no server answers"):
        versions.load("Staging")
    registry.away = False
    registry.promote(3, "", "")
    versions.poll()
    assert number(versions) == 3 and versions.reason == ""
    assert versions.load("Staging").served.version == 2


def test_local_copy_of_the_same_version_is_confirmed(registry: Any, open_versions: Open) -> None:
    open_versions().start()
    registry.away = True
    versions = open_versions()
    versions.start()
    registry.away = False
    versions.poll()
    assert number(versions) == 1 and versions.reason == "" and versions.loaded == [1]


def test_goes_on_while_the_registry_is_away(registry: Any, open_versions: Open) -> None:
    versions = open_versions()
    versions.start()
    registry.away = True
    versions.poll()
    assert number(versions) == 1 and "no server answers" in versions.reason
    with pytest.raises(ServiceError):
        versions.load(3)
    registry.away = False
    versions.poll()
    assert versions.reason == ""


def test_takes_over_a_promotion_and_a_rollback(registry: Any, open_versions: Open) -> None:
    versions = open_versions()
    versions.start()
    registry.promote(2, "", "")
    versions.poll()
    assert number(versions) == 2 and versions.snapshot.version_in_stage(Stage.STAGING) is None
    registry.rollback("", "")
    versions.poll()
    assert number(versions) == 1


def test_production_that_is_taken_away_goes_on_answering(
    registry: Any, open_versions: Open
) -> None:
    versions = open_versions()
    versions.start()
    del registry.shelf[1]
    versions.poll()
    assert number(versions) == 1
    assert "no Production version; version 1 goes on answering" in versions.reason


def test_damaged_version_is_not_taken_over(registry: Any, open_versions: Open) -> None:
    versions = open_versions()
    versions.start()
    registry.add(13)
    registry.promote(13, "", "")
    versions.poll()
    assert number(versions) == 1
    assert "version 13 is Production but cannot be had" in versions.reason
    registry.promote(3, "", "")
    versions.poll()
    assert number(versions) == 3 and versions.reason == ""


def test_start_with_a_damaged_production_takes_the_last_good_one(
    registry: Any, open_versions: Open
) -> None:
    open_versions().start()
    registry.add(13)
    registry.promote(13, "", "")
    versions = open_versions()
    versions.start()
    assert number(versions) == 1 and "thirteen never loads" in versions.reason


def test_a_registry_set_up_anew_is_another_model(registry: Any, open_versions: Open) -> None:
    versions = open_versions()
    versions.start()
    before = versions.production
    registry.add(1, Stage.PRODUCTION, "another-run")
    versions.poll()
    assert versions.production is not before and number(versions) == 1


def test_cache_is_bounded_and_never_drops_production(registry: Any, open_versions: Open) -> None:
    for version in range(4, 9):
        registry.add(version)
    versions = open_versions(max_versions=3)
    versions.start()
    for version in (2, 3, 4, 5, 6, 7, 8):
        assert versions.load(version).served.version == version
        assert versions.get_loaded("Production") is not None
        assert len(versions.loaded) <= 3 and 1 in versions.loaded
    assert versions.loaded == [1, 7, 8]


def test_least_recently_used_goes_first(registry: Any, open_versions: Open) -> None:
    registry.add(4)
    versions = open_versions(max_versions=3)
    versions.start()
    versions.load(2)
    versions.load(3)
    assert versions.get_loaded(2) is not None
    versions.load(4)
    assert versions.loaded == [1, 2, 4]


def test_a_loaded_version_asks_nobody(registry: Any, open_versions: Open) -> None:
    versions = open_versions()
    versions.start()
    versions.load(3)
    calls = registry.calls
    registry.away = True
    assert versions.load(3).served.version == 3
    assert versions.load("Production").served.version == 1
    assert registry.calls == calls


def test_nonsense_asks_nobody(registry: Any, open_versions: Open) -> None:
    versions = open_versions()
    versions.start()
    calls = registry.calls
    for wanted in ("", "x", "../../etc", "production", -1, 0, 10**50, "Archived"):
        with pytest.raises(VersionNotFoundError, match="versions 1, 2, 3"):
            versions.load(wanted)
    assert registry.calls == calls


def test_one_load_serves_all_that_wait_for_it(
    registry: Any, make_forecaster: Any, tmp_path: Path
) -> None:
    made: list[Path] = []

    def make(folder: Path) -> Any:
        made.append(folder)
        return make_forecaster(folder)

    versions = VersionManager(registry, tmp_path, make)
    versions.start()
    threads = [threading.Thread(target=versions.load, args=(3,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [folder.name for folder in made] == ["1", "3"]


def test_the_poller_outlives_a_surprise(
    registry: Any, open_versions: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    versions = open_versions()
    versions.start()
    failed, answered = threading.Event(), threading.Event()
    real = registry.versions

    def surprising() -> Any:
        if not failed.is_set():
            failed.set()
            raise ValueError("nobody expected this")
        answered.set()
        return real()

    monkeypatch.setattr(registry, "versions", surprising)
    versions.start_polling(0.01)
    try:
        assert answered.wait(30)
    finally:
        versions.close()
