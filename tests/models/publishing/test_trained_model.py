"""Trained folders come whole, say who made them, and are found again when left unregistered."""

import json
import shutil
from pathlib import Path

import pytest

from rossmann.errors import DamagedModel
from rossmann.filesystem.process_identity import Owner
from rossmann.models.ensemble.artifact_files import CARD_FILE, sha256
from rossmann.models.publishing.trained_model import (
    MAKER_FILE,
    Trained,
    left_behind,
    new_folder,
    read_trained,
)


def test_a_folder_appears_when_it_is_whole(tmp_path: Path) -> None:
    for _ in range(3):  # within one second
        with new_folder(tmp_path) as place:
            (place.draft / "file").touch()
            assert place.folder == place.draft
        assert (place.folder / "file").is_file()
    assert len(list(tmp_path.iterdir())) == 3
    with pytest.raises(KeyError), new_folder(tmp_path):
        raise KeyError
    assert len(list(tmp_path.iterdir())) == 3


def test_what_was_trained_is_read_back(trained: Trained) -> None:
    assert read_trained(trained.folder) == trained


def test_a_damaged_folder_is_told(trained: Trained, tmp_path: Path) -> None:
    copy = shutil.copytree(trained.folder, tmp_path / "copy")
    (copy / "windows.json").write_text("[{}]")
    with pytest.raises(DamagedModel, match=r"windows\.json"):
        read_trained(copy)


@pytest.fixture
def home(trained: Trained, tmp_path: Path) -> Path:
    """One trained folder whose maker has ended."""
    copy = shutil.copytree(trained.folder, tmp_path / "20260101T000000")
    gone = json.loads(Owner.here().text()) | {"started": "1"}
    (copy / MAKER_FILE).write_text(json.dumps(gone))
    return tmp_path


def test_what_nobody_registered_is_found(home: Path, trained: Trained) -> None:
    recipe = trained.card["recipe"]
    found = left_behind(home, recipe, {"another"})
    assert found is not None
    assert found.card == trained.card
    assert left_behind(home, "another recipe", set()) is None
    registered = sha256(found.folder / CARD_FILE)
    assert left_behind(home, recipe, {registered}) is None
    assert left_behind(home / "none", recipe, set()) is None


def test_what_a_running_process_made_is_left_to_it(home: Path, trained: Trained) -> None:
    (home / "20260101T000000" / MAKER_FILE).write_text(Owner.here().text())
    assert left_behind(home, trained.card["recipe"], set()) is None
    (home / "20260101T000000" / MAKER_FILE).unlink()
    assert left_behind(home, trained.card["recipe"], set()) is None


def test_a_damaged_one_is_passed_over(home: Path, trained: Trained) -> None:
    (home / "20260101T000000" / "xgboost.ubj").write_bytes(b"rot")
    assert left_behind(home, trained.card["recipe"], set()) is None
