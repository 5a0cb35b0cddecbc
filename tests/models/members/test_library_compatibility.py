"""Compatibility of saved members with the installed library releases."""

import importlib.metadata
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rossmann.errors import CorruptModelError, NotInstalledError
from rossmann.models.ensemble.artifact_files import read_card, sha256
from rossmann.models.ensemble.ensemble import Ensemble
from rossmann.models.members.library_compatibility import (
    COMPATIBILITY,
    check_compatibility,
    installed_libraries,
)
from rossmann.models.publishing.trained_model import TrainedModel
from rossmann.schema import FEATURES


@pytest.mark.parametrize(
    ("library", "installed", "written", "readable"),
    [
        ("lightgbm", (4, 6), (4, 6), True),
        ("lightgbm", (4, 6), (4, 0), True),
        ("lightgbm", (4, 6), (4, 7), False),
        ("lightgbm", (4, 6), (3, 3), False),
        ("lightgbm", (5, 0), (4, 6), False),
        ("xgboost", (3, 2), (1, 6), True),
        ("xgboost", (3, 2), (3, 3), False),
        ("xgboost", (3, 2), (4, 0), False),
        ("xgboost", (3, 2), (1, 5), False),
        ("catboost", (1, 2), (0, 26), True),
        ("catboost", (1, 2), (1, 3), False),
        ("catboost", (1, 2), (0, 4), False),
    ],
)
def test_compatibility_rules(
    library: str, installed: tuple[int, int], written: tuple[int, int], readable: bool
) -> None:
    assert COMPATIBILITY[library].can_read(installed, written) is readable


def test_card_holds_the_library_releases(trained: TrainedModel) -> None:
    libraries = json.loads((trained.folder / "ensemble.json").read_text())["libraries"]
    assert installed_libraries(COMPATIBILITY).items() <= libraries.items()
    assert set(libraries) >= {"lightgbm", "catboost", "numpy", "numba"}


@pytest.fixture
def copy(trained: TrainedModel, tmp_path: Path) -> Path:
    return shutil.copytree(trained.folder, tmp_path / "copy")


def rewrite(folder: Path, **changes: Any) -> None:
    path = folder / "ensemble.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def update_digests(folder: Path) -> None:
    rewrite(folder, files={file: sha256(folder / file) for file in read_card(folder)["files"]})


@pytest.mark.parametrize("name", ["lightgbm", "xgboost", "catboost"])
def test_newer_release_raises_with_the_remedy(copy: Path, name: str) -> None:
    libraries = read_card(copy)["libraries"]
    (distribution,) = installed_libraries([name])
    rewrite(copy, libraries={**libraries, distribution: "99.1.0"})
    # The file must not be opened: a library may crash on a format that it cannot read.
    next(copy.glob(f"{name}*")).write_bytes(b"written by a later release")
    update_digests(copy)
    with pytest.raises(
        CorruptModelError, match=rf"install {distribution}==99\.1\.0.*rossmann train"
    ):
        Ensemble.load(copy)


def test_earlier_patch_release_loads(copy: Path) -> None:
    libraries = read_card(copy)["libraries"]
    rewrite(copy, libraries={n: ".".join([*t.split(".")[:2], "0"]) for n, t in libraries.items()})
    Ensemble.load(copy)


@pytest.mark.parametrize("libraries", [None, {}, {"lightgbm": "?"}, "4.6", {"numpy": "2.4"}])
def test_card_without_the_release_raises(copy: Path, libraries: object) -> None:
    rewrite(copy, libraries=libraries)
    with pytest.raises(CorruptModelError, match="does not say which release"):
        Ensemble.load(copy)


def test_either_xgboost_distribution_counts() -> None:
    (release,) = installed_libraries(["xgboost"]).values()
    card = {"weights": {"xgboost": 1.0}, "libraries": {"xgboost": release}}
    check_compatibility(card, Path("there"))


def test_forecasts_need_no_library_and_drivers_name_the_missing_one(
    trained: TrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    row = np.zeros((1, len(FEATURES)), np.float32)
    expected = Ensemble.load(trained.folder).predict(row)
    monkeypatch.setattr(importlib.metadata, "version", missing)
    for package in ("catboost", "lightgbm", "xgboost"):
        monkeypatch.setitem(sys.modules, package, None)
    ensemble = Ensemble.load(trained.folder)
    assert np.array_equal(ensemble.predict(row), expected)
    with pytest.raises(NotInstalledError, match="catboost is not installed"):
        ensemble.contributions(row)


def corrupt(path: Path, content: bytes | None) -> None:
    original = path.read_bytes()
    path.write_bytes(original[: len(original) // 2] if content is None else content)


@pytest.mark.parametrize("name", ["lightgbm.npz", "xgboost.npz", "catboost.npz"])
@pytest.mark.parametrize("content", [b"", b"no trees at all", None])
def test_corrupt_trees_with_a_matching_digest_raise(
    copy: Path, name: str, content: bytes | None
) -> None:
    corrupt(copy / name, content)
    update_digests(copy)
    with pytest.raises(CorruptModelError, match="does not load"):
        Ensemble.load(copy)


@pytest.mark.parametrize("name", ["xgboost.ubj", "catboost.cbm"])
@pytest.mark.parametrize("content", [b"", b"no trees at all", None])
def test_corrupt_booster_with_a_matching_digest_raises_when_used(
    copy: Path, name: str, content: bytes | None
) -> None:
    """Forecasts use the trees; only attributions need the library's file."""
    corrupt(copy / name, content)
    update_digests(copy)
    ensemble = Ensemble.load(copy)
    row = np.zeros((1, len(FEATURES)), np.float32)
    assert len(ensemble.predict(row)) == 1
    with pytest.raises(CorruptModelError, match="does not load"):
        ensemble.contributions(row)


@pytest.mark.parametrize("weights", [None, {"perceptron": 1.0}, [1, 2]])
def test_weights_of_unknown_members_raise(copy: Path, weights: object) -> None:
    rewrite(copy, weights=weights)
    with pytest.raises(CorruptModelError, match="no weights"):
        Ensemble.load(copy)
